"""xmsim show: the YAML files that come with xmsim."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xmsim.configs.errors import ConfigError, XmsimError, nearest


def show(
    name: Annotated[
        str | None, typer.Argument(help="A file's name, after its folder where several have one: methods/sanger. A list of all by default.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write a copy to change, instead of printing; nothing is overwritten.")] = None,
) -> None:
    """List the machines, methods and other YAML files that come with xmsim, or print one to copy and change."""
    from xmsim.configs.files import write_text
    from xmsim.configs.shipped import shipped_folders, shipped_names

    if name is None:
        for folder in shipped_folders():
            typer.echo(f"{folder:<14}{' '.join(shipped_names(folder))}")
        return
    text = _find(name).read_text(encoding="utf-8")
    if out is None:
        typer.echo(text, nl=False)
        return
    if out.exists() or out.is_symlink():
        raise XmsimError(f"{out}: exists and is not overwritten; choose another --out")
    write_text(out, text)
    typer.echo(f"wrote {out}")


def _find(name: str) -> Path:
    """The file of that name.

    Raises:
        ConfigError: there is none, or one in several folders.
    """
    from xmsim.configs.shipped import find_config, shipped_folders, shipped_names

    folder, _, stem = name.removesuffix(".yaml").rpartition("/")
    folders = [one for one in shipped_folders() if folder in ("", one)]
    found = [one for one in folders if stem in shipped_names(one)]
    if not found:
        known = sorted({known for one in folders or shipped_folders() for known in shipped_names(one)})
        raise ConfigError(f"no file {name} comes with xmsim; {nearest(stem, known)}")
    if len(found) > 1:
        raise ConfigError(f"{name}: {' and '.join(found)} have one each; say {' or '.join(f'{one}/{stem}' for one in found)}")
    return find_config(found[0], stem, "file")
