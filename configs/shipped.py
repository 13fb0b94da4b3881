"""The YAML files that come with xmsim, found by name."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from xmsim.configs.errors import ConfigError, nearest


def shipped_names(folder: str) -> tuple[str, ...]:
    """Names of the files of `configs/<folder>`, without their ending."""
    return tuple(sorted(path.stem for path in _folder(folder).glob("*.yaml")))


def shipped_folders() -> tuple[str, ...]:
    """Folders of `configs` that hold such files."""
    return tuple(sorted({path.parent.name for path in _folder(".").glob("*/*.yaml")}))


def find_config(folder: str, name_or_path: str | Path, thing: str) -> Path:
    """The file meant by a path that ends in .yaml or .yml, or by the name of a shipped one.

    Raises:
        ConfigError: no shipped `thing` has that name; the text gives the nearest.
    """
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        return path
    if str(name_or_path) not in shipped_names(folder):
        raise ConfigError(f"no {thing} {name_or_path}; {nearest(str(name_or_path), shipped_names(folder))}, or give a .yaml file")
    return _folder(folder) / f"{name_or_path}.yaml"


def _folder(folder: str) -> Path:
    return Path(str(files("xmsim.configs"))) / folder
