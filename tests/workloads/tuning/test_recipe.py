from __future__ import annotations

from pathlib import Path

import pytest

from xmsim.configs.errors import ConfigError
from xmsim.workloads.tuning.recipe import load_recipe, shipped_recipes


def test_shipped_recipes_are_read():
    assert shipped_recipes() == ("dynax_lora", "dynax_lora_bloom", "full", "lora", "qlora")
    assert [load_recipe(name).name for name in shipped_recipes()] == list(shipped_recipes())


@pytest.mark.parametrize(
    ("name", "length", "targets"),
    [
        ("dynax_lora", 4096, ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj")),
        ("dynax_lora_bloom", 2048, ("query_key_value", "dense", "dense_h_to_4h")),
    ],
)
def test_the_recipe_of_the_dynax_artifact_is_as_written(name: str, length: int, targets: tuple[str, ...]):
    config = load_recipe(name).config
    lora = config.lora
    assert lora is not None
    assert (lora.rank, lora.alpha, lora.dropout, lora.targets, lora.four_bit) == (8, 16, 0.05, targets, None)
    assert (config.rate, config.epochs, config.steps, config.batch) == (1e-4, 1, None, 2)
    assert (config.warm_up, config.weight_decay, config.length) == (0.1, 0.01, length)


def test_steps_take_the_place_of_epochs_and_the_other_way_round():
    assert load_recipe("full", epochs=2).config.steps is None
    assert load_recipe("dynax_lora", steps=3).config.epochs is None


def test_overrides_are_part_of_the_parameters():
    assert load_recipe("full", rate=1e-5, length=64).parameters["rate"] == 1e-5
    assert load_recipe("full").parameters | {"batch": 9} == load_recipe("full", batch=9).parameters


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("clip:", "clib:", r"mine.yaml:\d+:1: clib: unknown key; did you mean clip\?"),
        ("steps:", "epochs: 1\nsteps:", "give either steps .* or epochs"),
        ("warm_up: 0.1", "warm_up: 1.5", "warm_up: input should be less than or equal to 1"),
        ("dtype: float32", "dtype: float16", "dtype: input should be 'float32' or 'bfloat16'"),
        ("betas: [0.9, 0.95]", "betas: [0.9, 1]", "betas.1: input should be less than 1"),
        (
            "batch: 4",
            "batch: 4\nlora: {rank: 8, alpha: 16, dropout: 0, four_bits: nf4}",
            "lora.four_bits: unknown key; did you mean four_bit",
        ),
    ],
)
def test_a_faulty_recipe_is_named_with_line_and_column(tmp_path: Path, old: str, new: str, message: str):
    shipped = Path(__file__).resolve().parents[3] / "configs" / "recipes" / "full.yaml"
    text = shipped.read_text()
    assert old in text
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace(old, new))
    with pytest.raises(ConfigError, match=message):
        load_recipe(path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"steps": 3, "epochs": 3}, "recipe full with its overrides: give either steps"),
        ({"rate": 0.0}, r"recipe full with its overrides: rate: input should be greater than 0 \(got 0.0\)"),
        ({"length": 1}, "recipe full with its overrides: length: input should be greater than or equal to 2"),
        ({"stride": 1}, "recipe full with its overrides: stride: unknown key"),
    ],
)
def test_a_faulty_override_is_named_as_such(overrides: dict[str, float], message: str):
    with pytest.raises(ConfigError, match=message):
        load_recipe("full", **overrides)
