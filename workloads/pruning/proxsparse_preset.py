"""Presets of ProxSparse: from a YAML file, or the name of a shipped one, to everything that decides a run besides model and text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from xmsim.configs.schema import PositiveFloat, PositiveInt, check_config, check_overridden
from xmsim.configs.shipped import find_config, shipped_names
from xmsim.configs.yaml_file import read_yaml
from xmsim.workloads.tuning.recipe import StepsConfig

FOLDER = "pruning"
NotNegative = Annotated[float, Field(ge=0)]


class ProxSparseConfig(StepsConfig):
    """What a preset's YAML says. The weights, too, are in `dtype`, as published.

    Source: ProxSparse (arXiv 2502.00258), end-to-end/main.py and script/ of amazon-science/ProxSparse.
    """

    samples: PositiveInt  # windows in all, a multiple of the batch
    lambda1: NotNegative  # strength of the proximal operator after each step: neither scheduled nor times the learning rate
    lambda2: NotNegative  # weight of the frozen-weight penalty; 0 leaves it out
    epsilon: PositiveFloat  # of that penalty: added to the magnitude of the original weights that it divides by
    sources: dict[str, str] = Field(default_factory=dict)  # {key: where its value comes from}

    @property
    def steps(self) -> int:
        """Steps of the optimizer."""
        return self.samples // self.batch

    @model_validator(mode="after")
    def _check_batches(self) -> Self:
        if self.samples % self.batch:
            raise ValueError(f"{self.samples} samples are no whole number of batches of {self.batch}; choose a multiple")
        return self


@dataclass(frozen=True, slots=True)
class ProxSparsePreset:
    """A preset with its name: that of its file."""

    name: str
    config: ProxSparseConfig

    @property
    def parameters(self) -> dict[str, Any]:
        """Everything a run depends on, as plain values for a record."""
        return self.config.model_dump(mode="json", exclude={"sources"})


def shipped_presets() -> tuple[str, ...]:
    """Names of the presets that come with xmsim."""
    return shipped_names(FOLDER)


def load_preset(name_or_path: str | Path, **overrides: Any) -> ProxSparsePreset:
    """The preset that a YAML file describes; a plain name is looked up among the shipped ones. `overrides` replace its keys.

    Raises:
        ConfigError: no such preset or file, or a value is wrong; one line for each fault.
    """
    path = find_config(FOLDER, name_or_path, "preset")
    document = read_yaml(path)
    config = check_config(document, ProxSparseConfig)
    if overrides:
        config = check_overridden(path, document.data | overrides, ProxSparseConfig, f"preset {path.stem}")
    return ProxSparsePreset(path.stem, config)
