"""What a model was tuned with and how it went, and the file that says so. Standard library only."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xmsim.configs.codec import decode, encode, json_key
from xmsim.configs.record import read_record, write_record
from xmsim.workloads.measurement import Host

TUNING_VERSION = 1
TUNING_NAME = "tuning.json"


@dataclass(frozen=True, slots=True)
class BaseModel:
    """The model before tuning."""

    name: str  # a folder by its own name only
    family: str
    dtype: str  # in which the weights were when they were hashed
    weights_sha256: str
    config_sha256: str


@dataclass(frozen=True, slots=True)
class TunedText:
    """The text that was tuned on."""

    name: str
    sha256: str
    tokens: int  # with the held-out windows


@dataclass(frozen=True, slots=True)
class HeldOutLoss:
    """Mean cross entropy of each held-out window, in nats a token; the windows are equally long."""

    dense_windows: tuple[float, ...] = field(metadata=json_key("dense_window_losses_nats_per_token"))  # every pair computed
    method_windows: tuple[float, ...] = field(metadata=json_key("method_window_losses_nats_per_token"))  # only what the method keeps

    @property
    def dense(self) -> float:
        """Of all windows, every pair computed."""
        return statistics.fmean(self.dense_windows)

    @property
    def method(self) -> float:
        """Of all windows, only the pairs computed that the method keeps."""
        return statistics.fmean(self.method_windows)

    @property
    def cost(self) -> float:
        """What the method adds to the loss."""
        return self.method - self.dense

    @property
    def cost_error(self) -> float | None:
        """Standard error of the cost over windows; None for one window."""
        costs = [method - dense for dense, method in zip(self.dense_windows, self.method_windows, strict=True)]
        return statistics.stdev(costs) / math.sqrt(len(costs)) if len(costs) > 1 else None


@dataclass(frozen=True, slots=True)
class TuningRecord:
    """The file `tuning.json` in a tuned model's folder."""

    base: BaseModel
    method: dict[str, Any]  # {name, ...parameters}
    recipe: dict[str, Any]  # {name, ...parameters}, overrides applied
    text: TunedText
    seed: int
    device: str  # cpu or cuda
    threads: int
    host: Host
    steps: int
    tuned_parameters: int
    tuned_tokens: int  # whose loss counted, over all steps
    seconds: float
    before: HeldOutLoss
    after: HeldOutLoss
    losses: tuple[float, ...] = field(metadata=json_key("step_losses_nats_per_token"))


def write_tuning(folder: Path, record: TuningRecord) -> None:
    """Write the record into a model's folder, whole or not at all."""
    write_record(folder / TUNING_NAME, "tuning", TUNING_VERSION, encode(record))


def read_tuning(folder: Path) -> TuningRecord:
    """Read the record in a tuned model's folder.

    Raises:
        RecordError: no such file, not a tuning record, a later version, or a value is missing or of the wrong type.
    """
    path = folder / TUNING_NAME
    return decode(TuningRecord, read_record(path, "tuning", TUNING_VERSION), str(path))
