import pytest

from xmsim.configs.errors import ConfigError
from xmsim.configs.schema import Config, PositiveInt, read_config


class Part(Config):
    rows: PositiveInt
    columns: PositiveInt = 4


class Whole(Config):
    clock_mhz: float
    array: Part


def read(tmp_path, text):
    path = tmp_path / "machine.yaml"
    path.write_text(text)
    return read_config(path, Whole)


def test_a_good_file_becomes_the_frozen_class(tmp_path):
    config = read(tmp_path, "clock_mhz: 1e3\narray: {rows: 2}\n")
    assert config.clock_mhz == 1000 and config.array.rows == 2
    with pytest.raises(ValueError, match="frozen"):
        config.clock_mhz = 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clock_mhz: 1\narray: {rows: 1, colums: 2}\n", "machine.yaml:2:18: array.colums: unknown key; did you mean columns?"),
        ("clock_mhz: 1\narray: {rows: 1, zzz: 2}\n", "array.zzz: unknown key; known are rows, columns"),
        ("clock_mzh: 1\narray: {rows: 1}\n", "machine.yaml:1:1: clock_mzh: unknown key; did you mean clock_mhz?"),
        ("clock_mhz: on\narray: {rows: 1}\n", "machine.yaml:1:1: clock_mhz: input should be a valid number"),
        ("clock_mhz: 1\narray: {rows: 0}\n", "machine.yaml:2:9: array.rows: input should be greater than 0 (got 0)"),
        ("clock_mhz: 1\narray: {}\n", "machine.yaml:2:1: array.rows: missing; add it"),
        ("clock_mhz: .nan\narray: {rows: 1}\n", "clock_mhz: input should be a finite number"),
    ],
)
def test_a_fault_is_named_with_its_place_and_the_way_out(tmp_path, text, message):
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert message in str(caught.value)
