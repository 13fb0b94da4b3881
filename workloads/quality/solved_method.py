"""The file of a method whose free parameter was solved for an accuracy: its name and its text."""

from __future__ import annotations

from xmsim.workloads.methods.library import Method


def solved_name(method: Method, target: float) -> str:
    """`xm_plus1` for +1 %, `xm_1_4_6bit_plus0.5` with low-bit prediction for +0.5 %; the file's name without its ending."""
    low = method.prediction
    predicted = "" if low is None else f"_1_{low.group}_{low.bits}bit{'_head' if low.scale_per == 'head' else ''}"
    return f"{method.name}{predicted}_plus{100 * target:g}"


def method_text(method: Method, changed: dict[str, str]) -> str:
    """A method as the YAML that `load_method` reads.

    Args:
        method: with the solved parameter.
        changed: where the values of the keys come from that are no longer those of the method's own file.
    """
    import yaml

    sources = {"sources": method.config.sources | changed}
    body = yaml.safe_dump(
        method.config.model_dump(mode="json", exclude_none=True, exclude={"sources"}) | sources,
        sort_keys=False,
        allow_unicode=True,
        width=10**6,
    )
    return f"# Written by xmsim evaluate --solve; the sources say for what.\n{body}"
