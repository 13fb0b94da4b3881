"""From a YAML file to the frozen class the code uses: one schema, and errors that point at the line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from xmsim.configs.errors import ConfigError, nearest
from xmsim.configs.yaml_file import KeyPath, YamlDocument, read_yaml

PositiveInt = Annotated[int, Field(gt=0, lt=2**31)]  # so that products of two fit the engines' 64-bit cycles
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


class Config(BaseModel):
    """Base of every configuration class: frozen, and a key it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


ConfigType = TypeVar("ConfigType", bound=Config)


def read_config(path: Path, schema: type[ConfigType]) -> ConfigType:
    """Read a YAML file as `schema`.

    Raises:
        ConfigError: `file:line:column: key: what is wrong`, one line for each fault.
    """
    return check_config(read_yaml(path), schema)


def check_config(document: YamlDocument, schema: type[ConfigType]) -> ConfigType:
    """Read a YAML document as `schema`; raises as `read_config`."""
    try:
        return schema.model_validate(document.data)
    except pydantic.ValidationError as error:
        lines = [_sentence(document, schema, fault) for fault in error.errors()]
        raise ConfigError("\n".join(lines)) from error


def check_overridden(path: Path, data: dict[str, Any], schema: type[ConfigType], name: str) -> ConfigType:
    """Read the data of a YAML file, some of it replaced since, as `schema`; `name` says in errors what this is, e.g. `recipe full`.

    Raises: as `read_config`, but without a line: the fault does not stand in the file.
    """
    try:
        return check_config(YamlDocument(path, data, {(): (1, 1)}), schema)
    except ConfigError as error:
        text = str(error).replace(f"{path}:1:1: ", f"{name} with its overrides: ")
        raise ConfigError(text.replace("overrides: the file: ", "overrides: ")) from error


def _sentence(document: YamlDocument, schema: type[BaseModel], fault: Any) -> str:
    key_path: KeyPath = fault["loc"]
    name = ".".join(str(part) for part in key_path) or "the file"
    place = document.place(key_path)
    if fault["type"] == "extra_forbidden":
        return f"{place}: {name}: unknown key; {nearest(str(key_path[-1]), _known_keys(schema, key_path[:-1]))}"
    if fault["type"] == "missing":
        return f"{place}: {name}: missing; add it"
    message = fault["msg"].removeprefix("Value error, ")
    given = f" (got {fault['input']!r})" if isinstance(fault["input"], str | int | float | bool) else ""
    return f"{place}: {name}: {message[0].lower()}{message[1:]}{given}"


def _known_keys(schema: type[BaseModel], key_path: KeyPath) -> list[str]:
    """Keys of the class that stands at `key_path` below `schema`."""
    current: Any = schema
    for part in key_path:
        field = getattr(current, "model_fields", {}).get(part)
        if field is None:
            return []
        candidates = (field.annotation, *get_args(field.annotation))
        current = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
    return list(getattr(current, "model_fields", {}))
