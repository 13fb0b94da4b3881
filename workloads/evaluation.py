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

EVALUATION_VERSION = 3
SPLITS_VERSION = 1


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
class EvaluatedActivations:
    """Activation sparsity that was active in a run, and what of the products of the linear layers it left out."""

    sparsity: float  # as asked for
    scoring: str  # teal or wina
    allocation: str  # uniform, or greedy: block by block
    policy: str  # tokens that stayed dense
    histograms_sha256: str  # of the file that thresholds come from
    greedy_sha256: str | None  # of the file of greedy sparsities
    static_sparsity: float  # s1 as reached: share of the linear layers' weights that is zero
    dynamic_sparsity: float  # s2 as reached: share of the products left out for small inputs, on the tokens that are sparsified
    total_sparsity: float  # 1 − (1 − s1)(1 − s2)

    @property
    def label(self) -> str:
        """What tables and figures add to the method's name."""
        return f"activations {self.sparsity:g}{' greedy' if self.allocation == 'greedy' else ''} {self.scoring}"


@dataclass(frozen=True, slots=True)
class TriedValue:
    """A value of a method's free parameter, and what it cost."""

    value: float
    perplexity_increase: float  # perplexity / dense perplexity − 1


@dataclass(frozen=True, slots=True)
class SolvedFor:
    """What a method's free parameter was chosen for: the most pruning that costs no more than a target."""

    target_relative: float  # perplexity / dense perplexity − 1 that may be lost: 0.01 is +1 %
    parameter: str  # key of the method
    value: float  # of that key in this run; whole where the key is
    reached: bool  # the loss is the target within a tenth of it, or a finer step of the parameter would exceed it
    bracket: tuple[TriedValue, ...]  # nearest values that were tried: the most pruning within the target, the least beyond it
    note: str  # "" where the loss is the target within a tenth of it; else a sentence that says why not


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
    activations: EvaluatedActivations | None = None  # None: no input of a linear layer was dropped
    solved_for: SolvedFor | None = None  # None: the method is as its file says

    @property
    def label(self) -> str:
        """The method's name, and how its scores were predicted: masks of exact and of low-bit scores differ; and activation sparsity."""
        return method_label(self.method) + (f", {self.activations.label}" if self.activations else "")

    @property
    def increase_words(self) -> str:
        """`+2.5 ± 0.1 %`: perplexity over dense, and the standard error that the paired windows give it, if there are several."""
        error = "" if self.loss_increase_error is None else f" ± {100 * self.loss_increase_error:.1f}"
        return f"{100 * self.perplexity_increase:+.1f}{error} %"


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


@dataclass(frozen=True, slots=True)
class SplitTiming:
    """Decoding of a model with a split, beside its perplexity; names of times end in their unit."""

    s1: float
    s2: float
    Uniform_PPL: float
    TPOT_ms: float  # time of a decoded token on the spdp kernel, which skips zeros of either kind: median of the medians of rounds
    TPOT_first_quartile_ms: float
    TPOT_third_quartile_ms: float
    TPOT_samples: int  # medians of rounds; in older files decoded tokens
    torch_TPOT_ms: float  # median with torch's dense layers, which skip nothing, in the same rounds


@dataclass(frozen=True, slots=True)
class SplitsRecord:
    """All that a sweep has found so far, and for what."""

    plan: dict[str, Any]  # everything that decides a row
    splits: tuple[SparsitySplit, ...]
    timings: tuple[SplitTiming, ...]  # of those that were timed


def method_label(method: dict[str, Any]) -> str:
    """What tables and figures call a method: its name, and the bits and the group of low-bit prediction."""
    name, prediction = str(method.get("name", "unnamed")), method.get("prediction")
    if not isinstance(prediction, dict):
        return name
    scale = ", a scale per head" if prediction.get("scale_per") == "head" else ""
    return f"{name}, {prediction.get('bits')}-bit 1:{prediction.get('group')}{scale}"


def write_evaluation(path: Path, record: EvaluationRecord) -> None:
    """Write an evaluation file, whole or not at all."""
    write_record(path, "evaluation", EVALUATION_VERSION, encode(record))


def read_evaluation(path: Path) -> EvaluationRecord:
    """Read an evaluation file of this version or an earlier one.

    Raises:
        RecordError: not an evaluation file, a later version, or a value is missing or of the wrong type.
    """
    return decode(EvaluationRecord, _upgraded(read_record(path, "evaluation", EVALUATION_VERSION)), str(path))


def _upgraded(body: dict[str, Any]) -> dict[str, Any]:
    """A record of any version with the keys of this one: version 1 knew no activation sparsity, version 2 no solved methods."""
    runs = body.get("runs")
    if body["version"] == EVALUATION_VERSION or not isinstance(runs, list):
        return body
    missing = {"solved_for": None} | ({"activations": None} if body["version"] == 1 else {})
    return body | {"runs": [missing | run if isinstance(run, dict) else run for run in runs]}


def write_splits(path: Path, record: SplitsRecord) -> None:
    """Write the store of a sweep, whole or not at all."""
    write_record(path, "splits", SPLITS_VERSION, encode(record))


def read_splits_record(path: Path) -> SplitsRecord:
    """Read the store of a sweep.

    Raises:
        RecordError: not such a file, a later version, or a value is missing or of the wrong type.
    """
    return decode(SplitsRecord, read_record(path, "splits", SPLITS_VERSION), str(path))
