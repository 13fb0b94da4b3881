"""From a YAML file, or the name of a shipped one, to a machine."""

from __future__ import annotations

import inspect
import pkgutil
from importlib import import_module
from pathlib import Path

import xmsim.accel_models
from xmsim.accel_models.accelerator import Accelerator
from xmsim.configs.errors import ConfigError, nearest
from xmsim.configs.schema import check_config
from xmsim.configs.shipped import find_config, shipped_names
from xmsim.configs.yaml_file import read_yaml

FOLDER = "accelerators"


def shipped_accelerators() -> tuple[str, ...]:
    """Names of the machines that come with xmsim."""
    return shipped_names(FOLDER)


def load_accelerator(name_or_path: str | Path) -> Accelerator:
    """The machine that a YAML file describes; a plain name is looked up among the shipped ones.

    Raises:
        ConfigError: no such machine or file, or the file is wrong; one line for each fault.
    """
    path = find_config(FOLDER, name_or_path, "machine")
    document = read_yaml(path)
    if "model" not in document.data:
        raise ConfigError(f"{document.place(())}: model: missing; it names the module of accel_models that reads this file")
    machine = _machine_class(document.data["model"])
    if machine is None:
        known = sorted(name for name in _modules() if _machine_class(name))
        model = document.data["model"]
        raise ConfigError(f"{document.place(('model',))}: model: no model {model}; {nearest(str(model), known)}")
    return machine(path.stem, check_config(document, machine.Config))


def _modules() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(xmsim.accel_models.__path__)]


def _machine_class(model: object) -> type[Accelerator] | None:
    """The machine that the module of this name defines."""
    if model not in _modules():
        return None
    module = import_module(f"xmsim.accel_models.{model}")
    own = (c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == module.__name__)
    return next((c for c in own if issubclass(c, Accelerator) and not inspect.isabstract(c)), None)
