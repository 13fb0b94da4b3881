"""Damage: what a broken disk, a broken transfer, a careless editor or an attacker does to a file."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

from xmsim.traces.manifest import mask_file_name

# values that a JSON or YAML file may hold and that nobody expects
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**40, -(10**40), 10**400,
    0.5, -0.5, 1e-320, 1e-300, 1e300, float("nan"), float("inf"), float("-inf"), "", "x", "1", "../../../outside", "/outside", "a\0b",
    "\ud800", "\x1b[2J", "line\nline", "x" * 5000, "<script>alert(1)</script>", [], {}, [[]], [None], {"": None}, {"a": {"b": {}}},
    [0] * 1000, [2**31 - 1] * 4, [1, 2], [-1, -1],
)  # fmt: skip
NUMBERS = (0, 1, 2, 3, 5, 7, 8, 12, 16, 31, 64, 100, 255, 1000, 4096, 65536, 10**6, 2**24, 2**31 - 1, 2**40, 2**62)
# text put in the place of a word of a text file
WORDS = (
    b"0x" + b"f" * 6000, b"9" * 5000, b"1e999", b"-1e999", b".inf", b".nan", b"&a [*a]", b"*a", b"!!python/object:os.system", b"|", b">",
    b"{" * 200, b"[" * 5000, b'"\\ud800"', b'"\\UFFFFFFFF"', b'"\\x00"', b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"<<: 1", b"? [a]", b"...",
    b"---\n", b"- - - -", b"%YAML 9.9", b"0o" + b"7" * 6000, b"1_000", b"12:30:45", b"2001-01-01", b"'", b'"', b"a: " * 40, b"- " * 2000,
    b"!<tag:yaml.org,2002:binary> x", b"\xe2\x80\xa8", b"NaN", b"Infinity", b"-" * 3000, b"# " + b"x" * 3000,
)  # fmt: skip
# in the place of a cell of a table
CELLS = (
    b"", b"-1", b"0.5", b"1e400", b"inf", b"nan", b"1_000", b"x" * 200_000, b'"', b'"a\nb"', b"../../outside", b"/outside", b"\r",
    b"\xd9\xa3",
)  # fmt: skip
# in the place of a value of a database
STORED = (
    None, -1, 0, 1, 2**62, -(2**63), 2**63 - 1, 0.5, 1e308, float("inf"), "", "x", "1", "token", "warm-up:", b"", b"\xff\xfe", "x" * 10**6,
)  # fmt: skip
OWN_FACTS = ("facts", "xmsim.tuning")  # where a safetensors file of ours holds JSON
LENGTHS = (0, 1, 2**16, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1)  # of a safetensors header, as declared


def damage(path: Path, random: Random) -> None:
    """Damage one file in place."""
    data = path.read_bytes()
    ways: list[Callable[[bytes, Random], bytes]] = [flipped, truncated, spliced, noise, worded]
    if path.suffix == ".json":
        ways += [json_changed] * 10
    elif path.suffix == ".yaml":
        ways += [yaml_changed] * 10
    elif path.suffix == ".safetensors":
        ways += [header_changed] * 10
    elif path.suffix == ".csv":
        ways += [table_changed] * 10
    elif path.suffix == ".sqlite":
        ways += [database_changed] * 10
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        data = random.choice(ways)(data, random)
    path.write_bytes(data)
    if path.suffix == ".safetensors" and random.random() < 0.8:
        _vouch_for(path)


def flipped(data: bytes, random: Random) -> bytes:
    """A few bits are wrong."""
    changed = bytearray(data or b"\0")
    for _ in range(random.choice((1, 1, 2, 8))):
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def truncated(data: bytes, random: Random) -> bytes:
    """The end is missing."""
    return data[: random.randrange(len(data) + 1)]


def spliced(data: bytes, random: Random) -> bytes:
    """A piece is missing, or stands twice."""
    start, stop = sorted((random.randrange(len(data) + 1), random.randrange(len(data) + 1)))
    return data[:start] + data[stop:] if random.random() < 0.5 else data[:stop] + data[start:]


def noise(data: bytes, random: Random) -> bytes:
    """Something else altogether, or in the midst."""
    foreign = random.randbytes(random.choice((1, 8, 300)))
    at = random.randrange(len(data) + 1)
    return foreign if random.random() < 0.1 else data[:at] + foreign + data[at:]


def worded(data: bytes, random: Random) -> bytes:
    """A word stands where another was."""
    parts = data.split(b" ")
    parts[random.randrange(len(parts))] = random.choice(WORDS)
    return b" ".join(parts)


def json_changed(data: bytes, random: Random) -> bytes:
    """A valid text that says something else."""
    try:
        return json.dumps(_changed(json.loads(data), random)).encode()
    except (ValueError, RecursionError):
        return worded(data, random)


def yaml_changed(data: bytes, random: Random) -> bytes:
    """As `json_changed`: JSON is YAML."""
    import yaml

    try:
        content = yaml.safe_load(data)
        return json.dumps(_changed(content, random)).encode()
    except (yaml.YAMLError, ValueError, TypeError, RecursionError, OverflowError):
        return worded(data, random)


def header_changed(data: bytes, random: Random) -> bytes:
    """A safetensors file whose header lies."""
    length = int.from_bytes(data[:8], "little")
    body = data[8 + length :]
    if random.random() < 0.15:
        return random.choice((*LENGTHS, length - 1, length + 1)).to_bytes(8, "little", signed=False) + data[8:]
    try:
        header = json.loads(data[8 : 8 + length])
    except (ValueError, RecursionError):
        return flipped(data, random)
    facts = header.get("__metadata__", {}) if isinstance(header, dict) else {}
    own = next((key for key in OWN_FACTS if isinstance(facts, dict) and isinstance(facts.get(key), str)), None)
    if own and random.random() < 0.6:
        facts[own] = json_changed(facts[own].encode(), random).decode("utf-8", "replace")
    else:
        with suppress(RecursionError):
            header = _changed(header, random)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def table_changed(data: bytes, random: Random) -> bytes:
    """A table of which one cell says something else, or one row has another length."""
    rows = [line.split(b",") for line in data.splitlines()]
    if not rows:
        return worded(data, random)
    row = random.choice((rows[0], random.choice(rows), random.choice(rows)))
    at = random.randrange(len(row))
    way = random.random()
    if way < 0.15:
        del row[at]
    elif way < 0.3:
        row.insert(at, random.choice(row))
    else:
        row[at] = random.choice((*WORDS, *CELLS, *(str(number).encode() for number in NUMBERS)))
    return b"\n".join(b",".join(row) for row in rows) + b"\n"


def database_changed(data: bytes, random: Random) -> bytes:
    """An sqlite file of the same tables with other values, other types, or a table or column less."""
    import sqlite3
    from contextlib import closing

    try:
        with closing(sqlite3.connect(":memory:")) as database:
            database.deserialize(data)
            tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            table = random.choice(tables)
            columns = [row[1] for row in database.execute(f'PRAGMA table_info("{table}")')]
            column = random.choice(columns)
            way = random.random()
            if way < 0.1:
                database.execute(f'DROP TABLE "{table}"')
            elif way < 0.2:
                database.execute(f'ALTER TABLE "{table}" RENAME COLUMN "{column}" TO "another"')
            elif way < 0.3:  # a table that has no end
                rest = ", ".join(f'1 AS "{name}"' for name in columns)
                database.execute(f'DROP TABLE "{table}"')
                endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
                database.execute(f'CREATE VIEW "{table}" AS {endless} SELECT {rest} FROM n')
            elif way < 0.35:
                database.execute(f'INSERT INTO "{table}" ("{column}") VALUES (randomblob(10000000))')
            else:
                where = "" if random.random() < 0.3 else f"WHERE rowid = {random.randrange(1, 10)}"
                database.execute(f'UPDATE "{table}" SET "{column}" = ? {where}', (random.choice(STORED),))
            database.commit()
            return database.serialize()
    except (sqlite3.Error, IndexError, UnicodeDecodeError):
        return flipped(data, random)


def _changed(content: Any, random: Random) -> Any:
    """One place of some data, at any depth, is given another value, lost, doubled, or takes the value of another place."""
    places: list[tuple[Any, Any]] = []
    stack = [content]
    while stack:
        here = stack.pop()
        keys = list(here) if isinstance(here, dict) else range(len(here)) if isinstance(here, list) else []
        for key in keys:
            places.append((here, key))
            if isinstance(here[key], dict | list):
                stack.append(here[key])
    if not places:
        return random.choice(VALUES)
    numbers = [(holder, key) for holder, key in places if type(holder[key]) in (int, float)]
    if numbers and random.random() < 0.5:  # of the type that belongs there: what gets furthest
        holder, key = random.choice(numbers)
        kind, value = type(holder[key]), holder[key]
        holder[key] = kind(random.choice((*NUMBERS, 2 * value, value // 2, value + 1, value - 1, -value, 1000 * value)))
        return content
    holder, key = random.choice(places)
    way = random.random()
    if way < 0.1:
        del holder[key]
    elif way < 0.2 and isinstance(holder, list):
        holder.insert(key, holder[key])
    elif way < 0.3 and isinstance(holder, dict):
        holder[random.choice(("", "unknown", "x" * 300, "\ud800", "a\nb", "../x"))] = holder.pop(key)
    elif way < 0.4:
        other, place = random.choice(places)
        holder[key] = copy.deepcopy(other[place])
    elif way < 0.45:
        for _ in range(random.choice((25, 40, 600))):
            holder[key] = [holder[key]]
    else:
        holder[key] = copy.deepcopy(random.choice(VALUES))
    return content


def _vouch_for(path: Path) -> None:
    """Write the hash of a damaged file of a trace into the manifest: an attacker would."""
    manifest = path.parent / "manifest.json"
    if not manifest.exists():
        return
    try:
        content = json.loads(manifest.read_bytes())
        layer = content["layers"][int(path.name[6:9])]
        masks = [mask["made"] for mask in layer["masks"] if mask_file_name(int(path.name[6:9]), mask["parameters"]) == path.name]
        target = masks[0] if masks else layer["weights"]["made"] if ".weights" in path.name else layer
        data = path.read_bytes()
        target["sha256"], target["file_bytes"] = hashlib.sha256(data).hexdigest(), len(data)
        manifest.write_text(json.dumps(content))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return


def _replace(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


# what may stand in the place of a file
PLACES: dict[str, Callable[[Path], None]] = {
    "nothing": Path.unlink,
    "an empty file": lambda path: _replace(path, Path.touch),
    "a folder": lambda path: _replace(path, Path.mkdir),
    "a pipe": lambda path: _replace(path, os.mkfifo),
    "a link to nowhere": lambda path: _replace(path, lambda at: at.symlink_to("nowhere")),
    "a link to itself": lambda path: _replace(path, lambda at: at.symlink_to(at.name)),
    "a device without end": lambda path: _replace(path, lambda at: at.symlink_to("/dev/zero")),
    "a hole of a terabyte": lambda path: _replace(path, _hole),
}


def _hole(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)
