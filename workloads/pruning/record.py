"""How a model was pruned, and the file that says so. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xmsim.configs.codec import decode, encode
from xmsim.configs.record import read_record, write_record
from xmsim.workloads.measurement import Host
from xmsim.workloads.tuning.record import BaseModel

PRUNING_VERSION = 1
PRUNING_NAME = "pruning.json"


@dataclass(frozen=True, slots=True)
class CalibrationText:
    """The text that the model read while its layers' inputs were looked at."""

    name: str
    sha256: str  # of its UTF-8 bytes
    samples: int
    length_tokens: int  # of each sample
    seed: int  # of the places where they begin
    samples_sha256: str  # of their token ids, int64 one after the other


@dataclass(frozen=True, slots=True)
class PrunedLayer:
    """One linear layer. Sparsity is the share of its weights that are zero."""

    name: str  # as transformers calls the module
    block: int
    out_features: int
    in_features: int
    target_sparsity: float
    sparsity: float
    sparsity_before: float


@dataclass(frozen=True, slots=True)
class PruningRecord:
    """The file `pruning.json` in a pruned model's folder. Embeddings, norms, biases and lm_head are those of the base model."""

    base: BaseModel
    method: dict[str, Any]  # {name, ...parameters}
    sparsity: float  # as asked for, of all layers together
    pattern: str | None  # e.g. 2:4, of which the first stay
    budget: dict[str, Any]  # {name, ...parameters}: how the sparsity is shared out over blocks
    calibration: CalibrationText | None  # None: neither the method nor the budget looks at inputs
    tied_embeddings: bool  # lm_head is the embedding matrix, and as such not pruned
    dtype: str  # of the computation; weights keep their own
    device: str  # cpu or cuda
    threads: int
    host: Host
    seconds: float  # since the last start, if it was interrupted
    layers: tuple[PrunedLayer, ...]

    @property
    def weights(self) -> int:
        """Weights of the layers that were pruned, zeros included."""
        return sum(layer.out_features * layer.in_features for layer in self.layers)

    @property
    def reached_sparsity(self) -> float:
        """Share of these that are zero."""
        return sum(layer.sparsity * layer.out_features * layer.in_features for layer in self.layers) / self.weights


def write_pruning(folder: Path, record: PruningRecord) -> None:
    """Write the record into a model's folder, whole or not at all."""
    write_record(folder / PRUNING_NAME, "pruning", PRUNING_VERSION, encode(record))


def read_pruning(folder: Path) -> PruningRecord:
    """Read the record in a pruned model's folder.

    Raises:
        RecordError: no such file, not a pruning record, a later version, or a value is missing or of the wrong type.
    """
    path = folder / PRUNING_NAME
    return decode(PruningRecord, read_record(path, "pruning", PRUNING_VERSION), str(path))
