"""Tuning recipes: from a YAML file, or the name of a shipped one, to everything that decides a run besides model, method and text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from xmsim.configs.schema import Config, PositiveFloat, PositiveInt, Share, check_config, check_overridden
from xmsim.configs.shipped import find_config, shipped_names
from xmsim.configs.yaml_file import read_yaml

FOLDER = "recipes"
BelowOne = Annotated[float, Field(ge=0, lt=1)]


class LoraConfig(Config):
    """Low-rank adapters beside frozen weights: W becomes W + (alpha / rank) B A, and only A and B are tuned.

    Source: Hu et al., LoRA, 2021 (arXiv:2106.09685); `four_bit`: Dettmers et al., QLoRA, 2023 (arXiv:2305.14314).
    """

    rank: PositiveInt
    alpha: PositiveFloat
    dropout: BelowOne
    targets: Annotated[tuple[str, ...], Field(min_length=1)] | None = None  # names of linear modules; without: all but the output layer
    four_bit: Literal["nf4", "fp4"] | None = None  # the frozen weights in this format; without: as they are


class StepsConfig(Config):
    """How the steps of a training are made.

    The learning rate rises linearly over the first `warm_up` of the steps and falls linearly to zero over the others.
    AdamW; weight decay is for matrices only.
    """

    length: Annotated[int, Field(ge=2, lt=2**31)]  # tokens of a window
    batch: PositiveInt  # windows of a step
    rate: PositiveFloat  # the highest learning rate
    warm_up: Share
    weight_decay: Annotated[float, Field(ge=0)]
    betas: tuple[BelowOne, BelowOne]
    clip: PositiveFloat  # largest norm of the gradient of a step
    dtype: Literal["float32", "bfloat16"]  # of the computation
    gradient_checkpointing: bool  # layers are computed again in the backward pass: less memory, the same result, more time


class RecipeConfig(StepsConfig):
    """What a recipe's YAML says. Exactly one of `steps` and `epochs` is given. Frozen weights are in `dtype`, tuned ones in float32."""

    steps: PositiveInt | None = None  # of windows drawn at random from the text
    epochs: PositiveInt | None = None  # times through the text, cut into consecutive windows
    held_out: PositiveInt  # windows at the end of the text that are scored before and after, and not tuned on
    lora: LoraConfig | None = None  # without: every weight is tuned
    sources: dict[str, str] = Field(default_factory=dict)  # {key: where its value comes from}

    @model_validator(mode="after")
    def _check_duration(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps (of random windows) or epochs (through the text)")
        return self


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe with its name: that of its file."""

    name: str
    config: RecipeConfig

    @property
    def parameters(self) -> dict[str, Any]:
        """Everything a run depends on, as plain values for a record."""
        return self.config.model_dump(mode="json", exclude={"sources"})


def shipped_recipes() -> tuple[str, ...]:
    """Names of the recipes that come with xmsim."""
    return shipped_names(FOLDER)


def load_recipe(name_or_path: str | Path, **overrides: Any) -> Recipe:
    """The recipe that a YAML file describes; a plain name is looked up among the shipped ones. `overrides` replace its keys.

    Overriding `steps` takes the place of the file's `epochs`, and the other way round.

    Raises:
        ConfigError: no such recipe or file, or a value is wrong; one line for each fault.
    """
    path = find_config(FOLDER, name_or_path, "recipe")
    document = read_yaml(path)
    config = check_config(document, RecipeConfig)
    if overrides:
        replaced = {"steps", "epochs"} if {"steps", "epochs"} & set(overrides) else set()
        data = {key: value for key, value in document.data.items() if key not in replaced}
        config = check_overridden(path, data | overrides, RecipeConfig, f"recipe {path.stem}")
    return Recipe(path.stem, config)
