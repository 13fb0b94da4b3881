"""YAML 1.2 core schema with a position for every value, and nothing that can surprise.

PyYAML follows YAML 1.1: `1e9` is text, `on` is true, `12:30` is 750, and of two equal keys the last one wins in silence.
This reader takes PyYAML's scanner and parser and resolves plain scalars as YAML 1.2 does. Tags, anchors and aliases are
refused: configuration files need none, and an alias can make a small file explode.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from xmsim.configs.errors import ConfigError
from xmsim.configs.files import read_bytes

KeyPath = tuple[str | int, ...]
DEEPEST = 30  # levels of nesting
MOST_BYTES = 2**18  # PyYAML takes seconds, and a thousand times the memory, for that much
LONGEST_NUMBER = 40  # digits, beyond which a number is rounded
_NULL = re.compile(r"|~|null|Null|NULL")
_TRUE = re.compile(r"true|True|TRUE")
_FALSE = re.compile(r"false|False|FALSE")
_DECIMAL = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"([-+]?)\.(inf|Inf|INF)")
_NOT_A_NUMBER = re.compile(r"\.(nan|NaN|NAN)")


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """A mapping read from a file, and where each key path stands in it (line and column, counted from 1)."""

    path: Path
    data: dict[str, Any]
    marks: dict[KeyPath, tuple[int, int]]

    def place(self, key_path: KeyPath) -> str:
        """`file:line:column` of a key path, or of its nearest parent that stands in the file."""
        while key_path not in self.marks:
            key_path = key_path[:-1]
        line, column = self.marks[key_path]
        return f"{self.path}:{line}:{column}"


def read_yaml(path: Path) -> YamlDocument:
    """Read one YAML mapping.

    Raises:
        ConfigError: unreadable file, bad syntax, duplicate key, tag, alias, or a document that is not a mapping.
    """
    try:
        text = read_bytes(path, MOST_BYTES).decode()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start}); save the file as UTF-8") from error
    try:
        _refuse_what_configurations_do_not_need(path, text)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ConfigError(f"{_at(path, mark)}: {error.problem or error.context}; mend the YAML there") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}:1:1: not YAML text ({error}); mend the file") from error
    except (ValueError, OverflowError, RecursionError) as error:  # PyYAML on \UFFFFFFFF, and on a thousand brackets
        raise ConfigError(f"{path}:1:1: not YAML text ({error}); mend the file") from error
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{path}:1:1: a mapping `key: value` is needed at the top")
    marks: dict[KeyPath, tuple[int, int]] = {(): (1, 1)}
    data = _value(path, root, (), marks)
    return YamlDocument(path, data, marks)


def _refuse_what_configurations_do_not_need(path: Path, text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        place = _at(path, event.start_mark)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise ConfigError(f"{place}: anchors and aliases are not read here; write the value out")
        if getattr(event, "tag", None):
            raise ConfigError(f"{place}: tags are not read here; write a plain value")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise ConfigError(f"{place}: nested too deeply to be a configuration; mend the file")


def _at(path: Path, mark: Any) -> str:
    return f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else f"{path}:1:1"


def _value(path: Path, node: yaml.Node, key_path: KeyPath, marks: dict[KeyPath, tuple[int, int]]) -> Any:
    if isinstance(node, yaml.ScalarNode):
        _refuse_half_signs(path, node)
        return node.value if node.style is not None else _plain(node.value)
    if isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            marks[(*key_path, index)] = (child.start_mark.line + 1, child.start_mark.column + 1)
        return [_value(path, child, (*key_path, index), marks) for index, child in enumerate(node.value)]
    result: dict[str, Any] = {}
    for key_node, child in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise ConfigError(f"{_at(path, key_node.start_mark)}: a key must be a word")
        _refuse_half_signs(path, key_node)
        key = key_node.value
        if key in result:
            first = marks[(*key_path, key)][0]
            raise ConfigError(f"{_at(path, key_node.start_mark)}: duplicate key {key}, first set on line {first}; keep one of them")
        marks[(*key_path, key)] = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
        result[key] = _value(path, child, (*key_path, key), marks)
    return result


def _refuse_half_signs(path: Path, node: yaml.ScalarNode) -> None:
    """`"\\ud800"` is half of a surrogate pair: text that can be held, and not be written to any file."""
    try:
        node.value.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{_at(path, node.start_mark)}: holds half of a surrogate pair; write the sign itself") from error


def _plain(text: str) -> str | int | float | bool | None:
    """A plain scalar under the YAML 1.2 core schema (https://yaml.org/spec/1.2.2, section 10.3.2)."""
    if _NULL.fullmatch(text):
        return None
    if _TRUE.fullmatch(text):
        return True
    if _FALSE.fullmatch(text):
        return False
    if _DECIMAL.fullmatch(text):
        return int(text) if len(text) <= LONGEST_NUMBER else float(text)
    for digits, base in ((_OCTAL, 8), (_HEXADECIMAL, 16)):
        if digits.fullmatch(text):
            return int(text[2:], base) if len(text) <= LONGEST_NUMBER else math.inf
    if _FLOAT.fullmatch(text):
        return float(text)
    if match := _INFINITE.fullmatch(text):
        return float(f"{match.group(1)}inf")
    if _NOT_A_NUMBER.fullmatch(text):
        return float("nan")
    return text
