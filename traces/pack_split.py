"""Sanger's pack & split: the sub-rows into which an array of fixed width cuts a mask, and how well they fill it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xmsim.traces.statistics import Mask, block_counts

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class PackSplit:
    """What becomes of the vectors of a mask: a vector is a query's part of a stripe of `ports` keys.

    The arrays are [..., stripes], one entry a stripe of a head.
    """

    pes: int  # of a row of the array: the pairs that a sub-row can hold
    rows: int  # of the array: the sub-rows of a pass
    kept: Counts  # pairs
    filled: Counts  # vectors that keep a pair
    empty: Counts  # vectors that keep none of their allowed pairs
    sub_rows: Counts  # that the filled vectors are split into

    @property
    def passes(self) -> int:
        """Passes of the array where empty vectors are skipped."""
        return _passes(self.sub_rows, self.rows)

    @property
    def passes_without_skip(self) -> int:
        """Passes of the array where each empty vector takes one of its rows."""
        return _passes(self.sub_rows + self.empty, self.rows)

    @property
    def balance(self) -> float:
        """Load balance where empty vectors are skipped: kept pairs / places of the sub-rows; 0 where there are none."""
        return self._balance(0)

    @property
    def balance_without_skip(self) -> float:
        """Load balance where each empty vector takes a row, as the authors intend it."""
        return self._balance(int(self.empty.sum()))

    @property
    def balance_without_skip_as_coded(self) -> float:
        """The same as the authors' code has it: it adds a row for each filled vector, not for each empty one."""
        return self._balance(int(self.filled.sum()))

    def _balance(self, idle_rows: int) -> float:
        return int(self.kept.sum()) / max(1, self.pes * (int(self.sub_rows.sum()) + idle_rows))


def pack_split(keep: Mask, allowed: Mask, *, ports: int = 64, pes: int = 16, rows: int = 64) -> PackSplit:
    """Cut a mask into vectors, leave out those without an allowed pair, and split the others into sub-rows of `pes` pairs.

    Args:
        keep: [..., queries, keys], any length; a last stripe of fewer than `ports` keys is a stripe.
        allowed: pairs that the dense model computes, broadcastable to `keep`.
        ports: keys of a stripe.
        pes: processing elements of a row of the array; the authors have 16 and 32, 25 % and 50 % of the ports.
        rows: of the array.
    Source: Sanger (MICRO 2021); hatsu3/Sanger, modeling_sanger_spattn.py, _eval_load_balance. There keys are a multiple of ports.
    """
    counts = block_counts(keep, ports)
    valid = block_counts(allowed, ports) > 0
    counts = np.where(valid, counts, 0)
    filled = counts > 0
    return PackSplit(
        pes=pes,
        rows=rows,
        kept=_per_stripe(counts),
        filled=_per_stripe(filled),
        empty=_per_stripe(valid & ~filled),
        sub_rows=_per_stripe(-(-counts // pes)),
    )


def _per_stripe(vectors: npt.NDArray[np.integer] | Mask) -> Counts:
    return vectors.sum(axis=-2, dtype=np.int64)


def _passes(sub_rows: Counts, rows: int) -> int:
    return int((-(-sub_rows // rows)).sum())
