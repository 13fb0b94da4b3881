"""Activation sparsities of every projection of a model, block by block, as TEAL's greedy search found them; and their file.

Standard library only, but for the steps themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xmsim.configs.codec import decode, encode
from xmsim.configs.errors import XmsimError
from xmsim.configs.record import read_record, write_record
from xmsim.reference.activations import GreedyStep, nearest_step

GREEDY_VERSION = 1


@dataclass(frozen=True, slots=True)
class GreedyBlock:
    """The steps of one decoder block, from dense to the sparsity that was asked for."""

    prefix: str  # what the module names of its layers begin with
    steps: tuple[GreedyStep, ...]


@dataclass(frozen=True, slots=True)
class GreedyRecord:
    """The file of a greedy allocation, whole or as far as it has come."""

    model: dict[str, Any]  # as a trace's manifest says it
    tokens_sha256: str  # of the windows that it was searched on
    windows: int
    scoring: str  # teal or wina
    policy: str  # tokens that stayed dense
    step: float  # sparsity that a step adds to the first projection of a block
    until: float  # effective sparsity that each block reaches at least
    blocks: tuple[GreedyBlock, ...]

    def sparsities(self, target: float) -> dict[str, float]:
        """{module name: the share of its inputs that goes}, from the step of each block that is nearest to a common target.

        Raises:
            XmsimError: the target is beyond what was searched.
        """
        if target > self.until:
            raise XmsimError(
                f"greedy sparsities: they reach {self.until:g}, {target:g} was asked for; give --greedy a new file, which is then made"
            )
        return {
            f"{block.prefix}{projection}": share
            for block in self.blocks
            for projection, share in nearest_step(block.steps, target).sparsities.items()
        }


def write_greedy(path: Path, record: GreedyRecord) -> None:
    """Write a file of greedy sparsities, whole or not at all."""
    write_record(path, "greedy", GREEDY_VERSION, encode(record))


def read_greedy(path: Path) -> GreedyRecord:
    """Read a file of greedy sparsities.

    Raises:
        RecordError: not such a file, a later version, or a value is missing or of the wrong type.
    """
    return decode(GreedyRecord, read_record(path, "greedy", GREEDY_VERSION), str(path))
