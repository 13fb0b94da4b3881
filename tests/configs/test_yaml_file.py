import math

import pytest

from xmsim.configs.errors import ConfigError
from xmsim.configs.yaml_file import read_yaml


def read(tmp_path, text):
    path = tmp_path / "file.yaml"
    path.write_text(text)
    return read_yaml(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e9", 1e9), ("1.0e9", 1e9), ("-2.5E-3", -2.5e-3), (".5", 0.5), ("12", 12), ("0o17", 15), ("0x1F", 31),
        ("on", "on"), ("off", "off"), ("yes", "yes"), ("no", "no"), ("true", True), ("False", False), ("~", None), ("", None),
        ("12:30", "12:30"), ("2026-11-20", "2026-11-20"), ("'1e9'", "1e9"), ("010", 10), ("1_000", "1_000"), (".inf", math.inf),
    ],
)  # fmt: skip
def test_plain_values_mean_what_yaml_1_2_says(tmp_path, text, value):
    read_value = read(tmp_path, f"key: {text}\n").data["key"]
    assert read_value == value and type(read_value) is type(value)


def test_a_duplicate_key_is_refused_at_its_second_place(tmp_path):
    with pytest.raises(ConfigError, match=r"file.yaml:3:3: duplicate key rows, first set on line 2"):
        read(tmp_path, "array:\n  rows: 1\n  rows: 2\n")


def test_positions_are_those_of_the_keys(tmp_path):
    document = read(tmp_path, "a: 1\nb:\n  c: [5, 6]\n")
    assert document.place(("b", "c")).endswith("file.yaml:3:3")
    assert document.place(("b", "c", 1)).endswith("file.yaml:3:10")
    assert document.place(("b", "missing")).endswith("file.yaml:2:1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x 1\nb: *x\n", "anchors and aliases are not read"),
        ("a: !!python/object:os.system 1\n", "tags are not read"),
        ("a: !custom 1\n", "tags are not read"),
        ("- 1\n", "a mapping"),
        ("", "a mapping"),
        ("a: [1\n", "file.yaml:2:1: "),
        ("a: 'x\n", "file.yaml"),
        ("? [1]\n: 2\n", "a key must be a word"),
        ("a: " + "[" * 20000 + "]" * 20000, "nested too deeply"),
    ],
)
def test_what_is_no_plain_mapping_is_one_sentence_with_a_place(tmp_path, text, message):
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert message in str(caught.value)
    assert "file.yaml:" in str(caught.value)


def test_a_file_that_is_not_text_is_one_sentence(tmp_path):
    path = tmp_path / "file.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        read_yaml(path)
