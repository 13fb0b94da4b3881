"""From a YAML file, or the name of a shipped one, to a machine."""

from __future__ import annotations

import difflib
import inspect
import pkgutil
from importlib import import_module
from importlib.resources import files
from pathlib import Path

import xmsim.accel_models
from xmsim.accel_models.accelerator import Accelerator
from xmsim.configs.errors import ConfigError
from xmsim.configs.schema import check_config
from xmsim.configs.yaml_file import read_yaml


def shipped_accelerators() -> tuple[str, ...]:
    """Names of the machines that come with xmsim."""
    return tuple(sorted(path.stem for path in _shipped_folder().glob("*.yaml")))


def load_accelerator(name_or_path: str | Path) -> Accelerator:
    """The machine that a YAML file describes; a plain name is looked up among the shipped ones.

    Raises:
        ConfigError: no such machine or file, or the file is wrong; one line for each fault.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = _shipped_folder() / f"{name_or_path}.yaml"
        if not path.exists():
            near = difflib.get_close_matches(str(name_or_path), shipped_accelerators(), n=1)
            hint = f"did you mean {near[0]}?" if near else f"shipped are {', '.join(shipped_accelerators())}; or give a .yaml file"
            raise ConfigError(f"no machine {name_or_path}; {hint}")
    document = read_yaml(path)
    if "model" not in document.data:
        raise ConfigError(f"{document.place(())}: model: missing; it names the module of accel_models that reads this file")
    machine = _machine_class(document.data["model"])
    if machine is None:
        known = sorted(name for name in _modules() if _machine_class(name))
        raise ConfigError(f"{document.place(('model',))}: model: no model {document.data['model']}; known are {', '.join(known)}")
    return machine(path.stem, check_config(document, machine.Config))


def _shipped_folder() -> Path:
    return Path(str(files("xmsim.configs"))) / "accelerators"


def _modules() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(xmsim.accel_models.__path__)]


def _machine_class(model: object) -> type[Accelerator] | None:
    """The machine that the module of this name defines."""
    if model not in _modules():
        return None
    module = import_module(f"xmsim.accel_models.{model}")
    own = (c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == module.__name__)
    return next((c for c in own if issubclass(c, Accelerator) and not inspect.isabstract(c)), None)
