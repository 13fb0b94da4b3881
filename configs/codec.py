"""Frozen dataclasses to JSON and back, with every type checked on the way in. Standard library only.

A field whose JSON key differs from its name (because keys carry units) says so: `field(metadata=json_key("busy_cycles"))`.
"""

from __future__ import annotations

import dataclasses
import sys
import types
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from xmsim.configs.errors import RecordError

Record = TypeVar("Record")


def json_key(name: str) -> dict[str, str]:
    """Field metadata: the key of this field in JSON."""
    return {"json_key": name}


def encode(value: Any) -> Any:
    """JSON data of a dataclass, and of tuples, lists and mappings of them."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {_key(f): encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    if isinstance(value, dict):
        return {key: encode(item) for key, item in value.items()}
    return value


def decode(kind: type[Record], data: Any, place: str) -> Record:
    """A dataclass from JSON data; keys it does not know are ignored.

    Args:
        kind: the dataclass.
        data: what json.loads gave.
        place: the file, for errors.
    Raises:
        RecordError: a key is missing or its value has the wrong type; the text names the key.
    """
    value: Record = _decode(kind, data, place, "")
    return value


def _decode(kind: Any, data: Any, place: str, key: str) -> Any:
    if kind is Any:
        return data
    if dataclasses.is_dataclass(kind):
        _require(isinstance(data, dict), place, key, "a mapping")
        hints = get_type_hints(kind)
        values = {}
        for field in dataclasses.fields(kind):
            name = _key(field)
            path = f"{key}.{name}" if key else name
            if name not in data:
                raise RecordError(f"{place}: {path} is missing; the file is incomplete or was edited, make it again")
            values[field.name] = _decode(hints[field.name], data[name], place, path)
        return kind(**values)  # type: ignore[operator]
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if data is None and type(None) in arguments:
            return None
        return _decode(next(a for a in arguments if a is not type(None)), data, place, key)
    if origin is tuple:
        _require(isinstance(data, list), place, key, "a list")
        return tuple(_decode(arguments[0], item, place, f"{key}[{index}]") for index, item in enumerate(data))
    if origin is dict:
        _require(isinstance(data, dict), place, key, "a mapping")
        return {name: _decode(arguments[1], item, place, f"{key}.{name}") for name, item in data.items()}
    if kind is float:
        _require(isinstance(data, int | float) and not isinstance(data, bool), place, key, "a number")
        _require(abs(data) <= sys.float_info.max, place, key, "a number")  # nor are infinity and NaN
        return data
    if kind is int:
        _require(isinstance(data, int) and not isinstance(data, bool), place, key, "a whole number")
        _require(-(2**63) <= data < 2**63, place, key, "a whole number of 64 bits")
        return data
    _require(isinstance(data, kind), place, key, {str: "text", bool: "true or false"}.get(kind, kind.__name__))
    return data


def _key(field: dataclasses.Field[Any]) -> str:
    return str(field.metadata.get("json_key", field.name))


def _require(holds: bool, place: str, key: str, what: str) -> None:
    if not holds:
        raise RecordError(f"{place}: {key or 'the record'} is not {what}; the file was edited, make it again")
