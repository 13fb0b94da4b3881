"""Reference pages, made from the code when the site is built (site_hooks.py), so that they cannot say anything else.

`python docs/make_reference.py FOLDER` writes them for reading without the site.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
PUBLIC = (  # packages whose names others may rely on
    "xmsim.workloads",
    "xmsim.accel_models",
    "xmsim.reference.attention",
    "xmsim.reference.weights",
    "xmsim.reference.activations",
    "xmsim.reference.formats",
    "xmsim.reference.kernels",
)
BESIDES = {  # public names that no package gathers
    "xmsim.traces.store": ("open_trace", "Trace", "LayerTrace", "HeadTrace"),
    "xmsim.accel_models.runs": ("simulate_trace",),
    "xmsim.accel_models.accelerator": ("Accelerator",),
    "xmsim.sim.result": ("read_result", "write_result", "SimulationRecord", "LayerRun", "SimResult", "HeadResult"),
    "xmsim.accel_models.sanger_published": ("published_model_v1", "published_model_v2"),
    "xmsim.accel_models.salo_published": ("published_model_v1", "published_model_v2", "PublishedEstimate"),
    "xmsim.workloads.methods.library": ("load_method", "shipped_methods"),
}


def reference_pages() -> dict[str, str]:
    """Each page's Markdown by its place in the site."""
    return {
        "reference/cli.md": cli_page(),
        "reference/python.md": python_page(),
        "reference/records.md": records_page(),
        "reference/shipped.md": shipped_page(),
    }


def cli_page() -> str:
    """Every verb with its arguments and options, as `--help` has them."""
    from typer.main import get_command

    from xmsim import cli

    parts = ["# Command line\n\nMade from the code: what `xmsim VERB --help` says. Bad input is one sentence on stderr and exit status 2."]
    for name, command in sorted(_verbs(get_command(cli._app()))):
        parts.append(f"## xmsim {name}\n\n{_paragraphs(command.help)}")
        if command.epilog:
            parts.append(f"    {command.epilog.partition('Example:')[2].strip()}")
        rows = [_parameter_row(parameter) for parameter in command.params if parameter.name != "help"]
        if rows:
            parts.append("| argument or option | default | what |\n|---|---|---|\n" + "\n".join(rows))
    return "\n\n".join(parts) + "\n"


def _verbs(command: Any, name: str = "") -> list[tuple[str, Any]]:
    """Commands with their words, those of groups in the place of the group."""
    if not hasattr(command, "commands"):
        return [(name, command)]
    return [verb for word, child in command.commands.items() for verb in _verbs(child, f"{name} {word}".strip())]


def _parameter_row(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return (
            f"| `{(parameter.metavar or parameter.name).upper()}` | {'required' if parameter.required else ''} | {_cell(parameter.help)} |"
        )
    names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    default = parameter.default
    shown = "required" if parameter.required else "" if default in (None, False, "", [], ()) or callable(default) else f"`{default}`"
    return f"| {names} | {shown} | {_cell(parameter.help)} |"


def python_page() -> str:
    """Signatures and docstrings of the public names."""
    parts = ["# Python\n\nMade from the code: the names that may be relied upon. Shapes, units and errors stand in their texts."]
    gathered = {package: tuple(import_module(package).__all__) for package in PUBLIC}
    for package, names in (gathered | BESIDES).items():
        module = import_module(package)
        parts.append(f"## {package}\n\n{_paragraphs(inspect.getdoc(module))}")
        parts += [_described(name, getattr(module, name)) for name in sorted(names, key=str.lower)]
    return "\n\n".join(parts) + "\n"


def _described(name: str, thing: Any) -> str:
    try:
        signature = re.sub(r" at 0x[0-9a-f]+", "", str(inspect.signature(thing)).replace("'", ""))
    except (TypeError, ValueError):  # no function and no class
        return f"### {name}\n\n`{name}`: {type(thing).__name__}"
    word = "class " if inspect.isclass(thing) else ""
    text = inspect.getdoc(thing) or ""
    members = []
    if inspect.isclass(thing):
        for key, member in vars(thing).items():
            function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
            if key.startswith("_") or not (inspect.isfunction(function) or isinstance(member, property)):
                continue
            shown = (
                "" if isinstance(member, property) else re.sub(r"\((self|cls)(, )?", "(", str(inspect.signature(function)).replace("'", ""))
            )
            first = _cell((inspect.getdoc(member) or "").split("\n")[0])
            members.append(f"- `{key}{shown}`" + (f": {first}" if first else ""))
    listed = "\n\n" + "\n".join(members) if members else ""
    return f"### {name}\n\n```python\n{word}{name}{_wrapped(signature)}\n```\n\n{_docstring(text)}{listed}"


def _wrapped(signature: str) -> str:
    """One parameter a line where it is long."""
    if len(signature) < 100:
        return signature
    depth, text = 0, ""
    for sign in signature:
        depth += (sign in "([{") - (sign in ")]}")
        text += sign
        if depth == 1 and sign in "(,":
            text += "\n    "
    return text.replace("\n     ", "\n    ")


def _docstring(text: str) -> str:
    """Google sections as lists, the rest as it stands."""
    lines: list[str] = []
    section = False
    for line in text.split("\n"):
        if heading := re.fullmatch(r"(Args|Raises|Returns|Yields):(?: (.+))?", line):
            section = True
            lines += ["", f"*{heading[1]}*" + (f": {_escaped(heading[2])}" if heading[2] else ""), ""]
        elif section and re.match(r" {4}\S", line):
            entry = re.match(r" {4}([\w, .*`]+?): (.*)", line)
            lines.append(f"- `{entry[1]}`: {_escaped(entry[2])}" if entry else f"- {_escaped(line.strip())}")
        elif section and line.strip():
            lines.append(f"  {_escaped(line.strip())}")
        else:
            section = section and not line.strip()
            lines.append(_escaped(line))
    return "\n".join(lines)


def records_page() -> str:
    """The keys of each record, from the schemas."""
    parts = [
        "# Records\n\nMade from the JSON Schemas, made from the classes that read and write these files. A key of a list is written "
        "`key[]`, of a mapping with free keys `key{}`. Readers accept earlier versions and refuse later ones."
    ]
    for path in sorted((ROOT / "docs" / "schemas").glob("*.json")):
        schema = json.loads(path.read_text(encoding="utf-8"))
        rows = [f"| `{key}` | {kind} | {'' if needed else 'may be left out'} |" for key, kind, needed in _keys(schema, schema, "", set())]
        kind, version = path.name.split(".")[:2]
        title = (
            f"## xmsim.{kind}, version {version[1:]}\n\n{_paragraphs(schema.get('description'))}\n\n[{path.name}](../schemas/{path.name})"
        )
        parts.append(title + "\n\n| key | type | |\n|---|---|---|\n" + "\n".join(rows))
    return "\n\n".join(parts) + "\n"


def _keys(schema: dict[str, Any], root: dict[str, Any], prefix: str, above: set[str]) -> list[tuple[str, str, bool]]:
    rows = []
    for name, entry in schema.get("properties", {}).items():
        key = f"{prefix}{name}"
        entry, reference = _resolved(entry, root)
        choices = [_resolved(choice, root)[0] for choice in entry.get("anyOf", [])]
        suffix = ""
        inner = next((choice for choice in choices if choice.get("type") in ("object", "array")), entry)
        while inner.get("type") == "array":
            suffix += "[]"
            inner, reference = _resolved(inner.get("items") or next(iter(inner.get("prefixItems", [{}]))), root)
        if inner.get("additionalProperties") and not inner.get("properties"):
            suffix += "{}"
            inner, reference = _resolved(inner["additionalProperties"] if isinstance(inner["additionalProperties"], dict) else {}, root)
        kinds = [_kind(choice) for choice in choices] or [_kind(entry)]
        rows.append((key, " or ".join(dict.fromkeys(kinds)), name in schema.get("required", [])))
        if inner.get("properties") and reference not in above:
            rows += _keys(inner, root, f"{key}{suffix}.", above | ({reference} if reference else set()))
    return rows


def _resolved(entry: dict[str, Any], root: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """What a `$ref` means, and its name."""
    reference = str(entry.get("$ref", ""))
    return (root["$defs"][reference.rpartition("/")[2]], reference) if reference else (entry, "")


def _kind(entry: dict[str, Any]) -> str:
    if "const" in entry:
        return f"`{json.dumps(entry['const'])}`"
    if "enum" in entry:
        return ", ".join(f"`{json.dumps(value)}`" for value in entry["enum"])
    words = {"array": "list", "object": "mapping", "null": "null", "integer": "whole number", "string": "text", "boolean": "true or false"}
    return words.get(entry.get("type", ""), entry.get("type", "any"))


def shipped_page() -> str:
    """What lies in `configs`, with the file of each in full."""
    parts = [
        "# Machines, methods and kinds of DRAM\n\nThe files that come with xmsim, as they are. Copy one, change it, and give its path."
    ]
    for folder, title in (
        ("accelerators", "Machines"),
        ("methods", "Methods"),
        ("dram", "Kinds of DRAM"),
        ("recipes", "Recipes of tuning"),
    ):
        parts.append(f"## {title}")
        for path in sorted((ROOT / "configs" / folder).glob("*.yaml")):
            text = path.read_text(encoding="utf-8").rstrip()
            assert isinstance(yaml.safe_load(text), dict)
            parts.append(f"### {path.stem}\n\n```yaml\n{text}\n```")
    return "\n\n".join(parts) + "\n"


def _paragraphs(text: str | None) -> str:
    return _escaped(inspect.cleandoc(text or ""))


def _cell(text: str | None) -> str:
    return _escaped(" ".join((text or "").split())).replace("|", "\\|")


def _escaped(text: str) -> str:
    """Text in which nothing is markup but code in backticks."""
    parts = re.split(r"(``.*?``|`[^`]*`)", text)
    return "".join(part if number % 2 else re.sub(r"([\\*_<\[\]])", r"\\\1", part) for number, part in enumerate(parts))


if __name__ == "__main__":
    for name, text in reference_pages().items():
        target = Path(sys.argv[1]) / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        print(f"wrote {target}")
