"""From a YAML file, or the name of a shipped one, to a machine.

`model:` names the module that reads the file: one of accel_models, or else a Python file of that name in the folder of the YAML file.
The latter is run, so read it first where you did not write it.
"""

from __future__ import annotations

import hashlib
import inspect
import pkgutil
import sys
import traceback
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from pydantic import ValidationError

import xmsim.accel_models
from xmsim.accel_models.accelerator import Accelerator
from xmsim.configs.errors import ConfigError, nearest
from xmsim.configs.schema import check_config
from xmsim.configs.shipped import find_config, shipped_names
from xmsim.configs.yaml_file import read_yaml
from xmsim.sim.result import MachineFacts

FOLDER = "accelerators"


def shipped_accelerators() -> tuple[str, ...]:
    """Names of the machines that come with xmsim."""
    return shipped_names(FOLDER)


def load_accelerator(name_or_path: str | Path) -> Accelerator:
    """The machine that a YAML file describes; a plain name is looked up among the shipped ones.

    Raises:
        ConfigError: no such machine, file or model, or one of the files is wrong; one line for each fault.
    """
    path = find_config(FOLDER, name_or_path, "machine")
    if not path.stem.isprintable():  # half a character of another encoding, in which no result could be read back
        raise ConfigError(f"{path}: the machine and its results are named after this file; give it a name of printable characters")
    document = read_yaml(path)
    if "model" not in document.data:
        raise ConfigError(f"{document.place(())}: model: missing; it names the Python module that reads this file")
    machine = _find_model(str(document.data["model"]), path, document.place(("model",)))
    return machine(path.stem, check_config(document, machine.Config))


def recorded_accelerator(facts: MachineFacts) -> Accelerator:
    """The machine of a result, with the configuration that the result holds.

    Raises:
        ConfigError: its model does not come with xmsim, or takes this configuration no longer.
    """
    config = dict(facts.config)
    config["dram"] = {key: value for key, value in config["dram"].items() if key != "preset"}  # the kind is read from its file
    machine = _shipped_machine(facts.model)
    if machine is None:
        raise ConfigError(f"{facts.name}: model {facts.model} does not come with xmsim, and a result does not hold it")
    try:
        return machine(facts.name, machine.Config.model_validate(config))
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        raise ConfigError(f"{facts.name}: {place}: {fault['msg']}; the result was made by another version: simulate it again") from error


def _find_model(model: str, yaml_path: Path, place: str) -> type[Accelerator]:
    """The machine class of a model; a shipped one goes before one beside the YAML file."""
    shipped = _shipped_machine(model)
    if shipped:
        return shipped
    beside = yaml_path.parent / f"{model}.py"
    if not model.isidentifier() or not beside.is_file():
        known = [name for name in _shipped_modules() if _shipped_machine(name)]
        raise ConfigError(f"{place}: model: no model {model} in xmsim ({nearest(model, known)}), and no {beside}")
    machine = _machine_class(_module_at(beside, place))
    if machine is None:
        raise ConfigError(
            f"{place}: model: {beside} has no machine; it needs a class under Accelerator with Config, schedule and peak_macs_per_cycle"
        )
    return machine


def _shipped_modules() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(xmsim.accel_models.__path__)]


def _shipped_machine(model: str) -> type[Accelerator] | None:
    """The machine class of a module of accel_models; None if there is no such module, or no machine in it."""
    return _machine_class(import_module(f"xmsim.accel_models.{model}")) if model in _shipped_modules() else None


def _module_at(path: Path, place: str) -> ModuleType:
    """The module in a file, run once in a process as an import would.

    Its name is made of its path: two files of one name do not meet, and in each process numba, which keeps compiled code by the
    names of modules, finds the same one.
    """
    name = f"{path.stem}_{hashlib.sha256(bytes(path.resolve())).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = spec_from_file_location(name, path)
    assert spec and spec.loader  # every .py file has both
    module = sys.modules[name] = module_from_spec(spec)  # before it runs: pydantic and numba look there for its names
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the file does wrong, its reader needs the file and the fault
        del sys.modules[name]
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == spec.origin]
        at = f"{path}:{lines[-1]}" if lines else f"{path}"  # a syntax error has no frame, and says its line
        fault = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ConfigError(f"{place}: model: {at} cannot be imported ({fault}); mend it") from error
    return module


def _machine_class(module: ModuleType) -> type[Accelerator] | None:
    """The machine that a module defines."""
    own = (c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == module.__name__)
    return next((c for c in own if issubclass(c, Accelerator) and not inspect.isabstract(c) and hasattr(c, "Config")), None)
