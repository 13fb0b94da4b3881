"""Sparsity methods: from a YAML file, or the name of a shipped one, to the pairs that a layer keeps.

A new kind of method is one class here, named by its `method:` literal, and one YAML file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import numpy as np
from pydantic import ConfigDict, Field, model_validator

from xmsim.configs.errors import ConfigError, XmsimError, nearest
from xmsim.configs.schema import Config, PositiveInt, Share, check_config
from xmsim.configs.shipped import find_config, shipped_names
from xmsim.configs.yaml_file import YamlDocument, read_yaml
from xmsim.reference.attention import nm_keep, predict_scores, sanger_keep, topk_keep, window_keep, xm_keep
from xmsim.traces.store import LayerTrace
from xmsim.workloads.scores import head_bias, head_scores

FOLDER = "methods"
Threshold = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class PredictionConfig(Config):
    """Low-bit prediction of the scores that a mask is made from."""

    group: PositiveInt  # channels of a query of which one is kept
    bits: Annotated[int, Field(ge=2, le=8)]


class MethodConfig(Config, ABC):
    """Keys that every method's YAML has."""

    method: str
    sources: dict[str, str] = Field(default_factory=dict)  # {key: where its value comes from}

    @model_validator(mode="after")
    def _check_parameters(self) -> Self:
        self.keep(np.zeros((1, 1), np.float32))  # the reference checks its own arguments
        return self

    @abstractmethod
    def keep(self, scores: np.ndarray) -> np.ndarray:
        """The kept pairs, bool like `scores`: float [queries, keys], -inf where a pair is not allowed."""

    def scores(self, layer: LayerTrace, window: int, head: int) -> np.ndarray:
        """What the mask of one head is made from; a static pattern needs no more than the bias."""
        return head_bias(layer, window, head)


class DenseConfig(MethodConfig):
    """Every pair that the dense model computes."""

    method: Literal["dense"]

    def keep(self, scores: np.ndarray) -> np.ndarray:
        return scores > -np.inf


class WindowConfig(MethodConfig):
    """A sliding window and global tokens."""

    method: Literal["window"]
    window: PositiveInt
    global_tokens: Annotated[int, Field(ge=0)]

    def keep(self, scores: np.ndarray) -> np.ndarray:
        return window_keep(scores, window=self.window, global_tokens=self.global_tokens)


class ScoreMethodConfig(MethodConfig):
    """A method that looks at scores: exact ones, or predicted ones where `prediction` is given."""

    prediction: PredictionConfig | None = None

    def scores(self, layer: LayerTrace, window: int, head: int) -> np.ndarray:
        if self.prediction is None:
            return head_scores(layer, window, head)
        operands = layer.head(window, head)
        predicted = predict_scores(
            operands.q[None],
            operands.k[None],
            group=self.prediction.group,
            bits=self.prediction.bits,
            scale=layer.scale,
            q_max=layer.q_max,  # the layer's, so that a head's mask is that head of the layer's mask
            k_max=layer.k_max,
        )
        return predicted[0] + head_bias(layer, window, head)


class XmConfig(ScoreMethodConfig):
    """X:M pruning."""

    method: Literal["xm"]
    block: PositiveInt
    kept_high: PositiveInt
    kept_low: Annotated[int, Field(ge=0)]
    threshold_high: Threshold
    threshold_low: Threshold

    def keep(self, scores: np.ndarray) -> np.ndarray:
        return xm_keep(
            scores,
            block=self.block,
            kept_high=self.kept_high,
            kept_low=self.kept_low,
            threshold_high=self.threshold_high,
            threshold_low=self.threshold_low,
        )


class NmConfig(ScoreMethodConfig):
    """N:M pruning."""

    method: Literal["nm"]
    block: PositiveInt
    kept: PositiveInt

    def keep(self, scores: np.ndarray) -> np.ndarray:
        return nm_keep(scores, kept=self.kept, block=self.block)


class SangerConfig(ScoreMethodConfig):
    """Threshold pruning."""

    method: Literal["sanger"]
    threshold: Share

    def keep(self, scores: np.ndarray) -> np.ndarray:
        return sanger_keep(scores, threshold=self.threshold)


class TopkConfig(ScoreMethodConfig):
    """Top-k pruning."""

    method: Literal["topk"]
    kept: PositiveInt

    def keep(self, scores: np.ndarray) -> np.ndarray:
        return topk_keep(scores, kept=self.kept)


@dataclass(frozen=True, slots=True)
class Method:
    """A method with its name: that of its file."""

    name: str
    config: MethodConfig

    @property
    def parameters(self) -> dict[str, Any]:
        """Everything the mask depends on, as plain values for a record."""
        return self.config.model_dump(mode="json", exclude={"sources"})

    @property
    def block(self) -> int | None:
        """Keys that are decided on together; None where the method knows no blocks."""
        return getattr(self.config, "block", None)

    @property
    def prediction(self) -> PredictionConfig | None:
        """Low-bit prediction of the scores; None: exact scores, or none at all."""
        return getattr(self.config, "prediction", None)

    def keep(self, layer: LayerTrace, window: int, heads: Sequence[int] | None = None) -> np.ndarray:
        """The kept pairs of one window, padding cut off; bool [heads, queries, keys], True where computed.

        `heads` counts the heads stored in the layer from 0; None means all. A head's mask does not depend on which others
        are asked for.

        Raises:
            XmsimError: the layer holds NaN or infinity, or the method does not fit it.
        """
        chosen = range(layer.q.shape[1]) if heads is None else heads
        tokens = layer.valid_tokens[window]
        keep = np.empty((len(chosen), tokens, tokens), dtype=bool)
        for place, head in enumerate(chosen):
            try:
                keep[place] = self.config.keep(self.config.scores(layer, window, head))
            except ValueError as error:
                raise XmsimError(f"method {self.name} on layer {layer.layer}, window {window}, head {head}: {error}") from error
        return keep

    def allowed(self, layer: LayerTrace, window: int) -> np.ndarray:
        """The pairs that the dense model computes, padding cut off; bool [queries, keys]."""
        return layer.bias.allowed(layer.valid_tokens[window])


class MethodReference(Config):
    """A method as a machine's YAML names it: `method: {name: xm, prediction: {group: 4, bits: 6}}`.

    Keys besides `name` override those of the method's own file.
    """

    model_config = ConfigDict(extra="allow")

    name: str

    @model_validator(mode="after")
    def _check_method(self) -> Self:
        try:
            self.load()
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return self

    def load(self) -> Method:
        """The method with its overrides."""
        return load_method(self.name, **(self.model_extra or {}))


def shipped_methods() -> tuple[str, ...]:
    """Names of the methods that come with xmsim."""
    return shipped_names(FOLDER)


def load_method(name_or_path: str | Path, **overrides: Any) -> Method:
    """The method that a YAML file describes; a plain name is looked up among the shipped ones. `overrides` replace its keys.

    Raises:
        ConfigError: no such method or file, or a value is wrong; one line for each fault.
    """
    path = find_config(FOLDER, name_or_path, "method")
    document = read_yaml(path)
    if "method" not in document.data:
        raise ConfigError(f"{document.place(())}: method: missing; add it, one of {', '.join(_kinds())}")
    kind = str(document.data["method"])
    if kind not in _kinds():
        raise ConfigError(f"{document.place(('method',))}: method: no kind {kind}; {nearest(kind, tuple(_kinds()))}")
    config = check_config(document, _kinds()[kind])
    if overrides:
        config = _overridden(path, document.data | overrides, type(config))
    return Method(path.stem, config)


def _overridden(path: Path, data: dict[str, Any], kind: type[MethodConfig]) -> MethodConfig:
    try:
        return check_config(YamlDocument(path, data, {(): (1, 1)}), kind)
    except ConfigError as error:  # the fault does not stand in the file, so its line would mislead
        text = str(error).replace(f"{path}:1:1: ", f"method {path.stem} with its overrides: ")
        raise ConfigError(text.replace("overrides: the file: ", "overrides: ")) from error


def _kinds() -> dict[str, type[MethodConfig]]:
    """Each class that a file can name, by the word its `method` key must be."""
    found: dict[str, type[MethodConfig]] = {}
    waiting = MethodConfig.__subclasses__()
    while waiting:
        config = waiting.pop()
        waiting += config.__subclasses__()
        for kind in get_args(config.model_fields["method"].annotation):
            found[kind] = config
    return dict(sorted(found.items()))
