from dataclasses import dataclass, field
from typing import Any

import pytest

from xmsim.configs.codec import decode, encode, json_key
from xmsim.configs.errors import RecordError


@dataclass(frozen=True)
class Part:
    cycles: int = field(metadata=json_key("total_cycles"))
    share: float


@dataclass(frozen=True)
class Whole:
    name: str
    parts: tuple[Part, ...]
    counts: dict[str, dict[str, int]]
    area_mm2: float | None
    config: dict[str, Any]


WHOLE = Whole("w", (Part(1, 0.5), Part(2, 1)), {"dram": {"read_bytes": 3}}, None, {"a": [1, "b", None]})


def test_a_record_comes_back_as_it_went():
    data = encode(WHOLE)
    assert data["parts"][0] == {"total_cycles": 1, "share": 0.5}
    assert decode(Whole, data, "file") == WHOLE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 3}, "file: name is not text"),
        ({"parts": [{"total_cycles": 1}]}, r"file: parts\[0\].share is missing"),
        ({"parts": [{"total_cycles": 1.5, "share": 1}]}, r"parts\[0\].total_cycles is not a whole number"),
        ({"parts": [{"total_cycles": True, "share": 1}]}, r"parts\[0\].total_cycles is not a whole number"),
        ({"parts": {}}, "parts is not a list"),
        ({"counts": {"dram": 3}}, "counts.dram is not a mapping"),
        ({"area_mm2": "1"}, "area_mm2 is not a number"),
        ({"area_mm2": float("inf")}, "area_mm2 is not a number"),
    ],
)
def test_an_edited_value_is_named_by_its_key(change, message):
    with pytest.raises(RecordError, match=message):
        decode(Whole, encode(WHOLE) | change, "file")


def test_a_list_is_no_record():
    with pytest.raises(RecordError, match="file: the record is not a mapping"):
        decode(Whole, [], "file")
