"""What a model's text quality was with each sparsity method, and how well the differences are known; and the evaluation file.

Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xmsim.configs.codec import decode, encode, json_key
from xmsim.configs.densities import Densities
from xmsim.configs.record import read_record, write_record
from xmsim.workloads.measurement import Host

EVALUATION_VERSION = 1


@dataclass(frozen=True, slots=True)
class EvaluatedText:
    """The text that was scored."""

    name: str
    sha256: str
    note: str  # "" unless it is not the text that was asked for; then why


@dataclass(frozen=True, slots=True)
class LayerDensities:
    """What one layer kept, over all windows."""

    layer: int
    densities: Densities


@dataclass(frozen=True, slots=True)
class EvaluatedRun:
    """One method at one length: cross entropy of the scored tokens, and what attention kept, over all windows.

    Losses are in nats a token. `increase` is relative to the dense model on the same windows.
    """

    method: dict[str, Any]  # {name, ...parameters}
    length_tokens: int  # as asked for
    window_tokens: int  # what the model read at once; more than length_tokens where the protocol adds scored tokens
    windows: int
    scored_tokens: int
    scored_bytes: int | None  # None where the tokens do not spell the text byte for byte
    loss: float = field(metadata=json_key("loss_nats_per_token"))
    perplexity: float  # exp(loss)
    bits_per_byte: float | None
    perplexity_increase: float  # perplexity / dense perplexity − 1
    loss_increase: float = field(metadata=json_key("loss_increase_nats_per_token"))
    loss_increase_error: float | None = field(metadata=json_key("loss_increase_standard_error_nats_per_token"))  # None for one window
    densities: Densities
    layers: tuple[LayerDensities, ...]
    window_losses: tuple[float, ...] = field(metadata=json_key("window_losses_nats_per_token"))

    @property
    def label(self) -> str:
        """The method's name, and how its scores were predicted: masks of exact and of low-bit scores differ."""
        return method_label(self.method)


@dataclass(frozen=True, slots=True)
class EvaluationRecord:
    """The file that `xmsim evaluate` writes."""

    host: Host
    device: str  # cpu or cuda
    dtype: str
    model: dict[str, Any]  # as a trace's manifest says it
    text: EvaluatedText
    protocol: str  # how it was cut into windows: dynax, wanda or teal
    runs: tuple[EvaluatedRun, ...]  # by length, dense first


@dataclass(frozen=True, slots=True)
class SparsitySplit:
    """One way to reach a total sparsity: some of it in the weights, once, some in the activations of each token, uniform over layers.

    The first three names are the columns of SPDP's authors, whose README has s1 and s2 the other way round than their code.
    """

    s1: float  # static, of the weights, as asked for
    s2: float  # dynamic, of the activations, as asked for
    Uniform_PPL: float  # perplexity
    static_sparsity: float  # as reached: share of the linear layers' weights that is zero
    dynamic_sparsity: float  # as reached: share of their inputs that is dropped, on the tokens that are sparsified
    total_sparsity: float  # of the two reached: 1 − (1 − static)(1 − dynamic)


def method_label(method: dict[str, Any]) -> str:
    """What tables and figures call a method: its name, and the bits and the group of low-bit prediction."""
    name, prediction = str(method.get("name", "unnamed")), method.get("prediction")
    if not prediction:
        return name
    scale = ", a scale per head" if prediction.get("scale_per") == "head" else ""
    return f"{name}, {prediction['bits']}-bit 1:{prediction['group']}{scale}"


def write_evaluation(path: Path, record: EvaluationRecord) -> None:
    """Write an evaluation file, whole or not at all."""
    write_record(path, "evaluation", EVALUATION_VERSION, encode(record))


def read_evaluation(path: Path) -> EvaluationRecord:
    """Read an evaluation file.

    Raises:
        RecordError: not an evaluation file, a later version, or a value is missing or of the wrong type.
    """
    return decode(EvaluationRecord, read_record(path, "evaluation", EVALUATION_VERSION), str(path))
