"""How the inputs of linear layers are distributed: what TEAL's thresholds are read from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

from xmsim.configs.errors import RecordError
from xmsim.reference.attention.arrays import as_numpy
from xmsim.reference.formats.tensor_file import read_tensor_file, write_tensor_file

BINS = 10_000
TAIL = 0.01  # share of the values at each end that lies in one wide bin

KIND, VERSION = "histograms", 1

KEPT_VALUES = 1 << 24  # a counter keeps so many values before it counts

_DROPPED_BITS = 10  # of a float32: 13 bits of its fraction stay, all that float16 and bfloat16 have
_PATTERNS = 1 << (32 - _DROPPED_BITS)


@dataclass(frozen=True, slots=True, eq=False)
class ActivationHistogram:
    """How many values fell into each bin.

    Raises:
        ValueError: naming the argument: edges that descend or do not enclose the bins, negative or no counts.
    """

    counts: np.ndarray  # float64 [bins]
    edges: np.ndarray  # float64 [bins + 1], ascending

    def __post_init__(self) -> None:
        if self.counts.ndim != 1 or len(self.counts) < 3 or not np.isfinite(self.counts).all() or (self.counts < 0).any():
            raise ValueError("counts: at least 3 finite numbers, none negative, are needed; collect the histogram again")
        if not self.counts.any():
            raise ValueError("counts: all are zero; a histogram of no values has no thresholds, collect it again")
        if self.edges.shape != (len(self.counts) + 1,) or not np.isfinite(self.edges).all() or (np.diff(self.edges) < 0).any():
            raise ValueError(f"edges: {len(self.counts) + 1} ascending finite numbers are needed for {len(self.counts)} bins")

    @classmethod
    def from_values(cls, values: Any, *, bins: int = BINS) -> ActivationHistogram:
        """The histogram of TEAL: equal bins between the lowest and the highest percent, one wide bin on either side.

        Args:
            values: float, any shape, at least one; NumPy array or torch tensor.
            bins: at least 3.
        Raises: ValueError naming the argument: no values, NaN or infinity, fewer bins.
        Source: FasterDecoding/TEAL at 5baaec8, utils/utils.py, find_histogram.
        """
        found, counts = np.unique(_finite(values).ravel(), return_counts=True)
        return _histogram(found, counts, bins)

    @classmethod
    def from_centers(cls, counts: Any, centers: Any) -> ActivationHistogram:
        """A histogram as TEAL's authors store it: counts and bin centres; the edges follow from the equal width of the inner bins."""
        counts, centers = np.asarray(counts, np.float64), np.asarray(centers, np.float64)
        if centers.ndim != 1 or centers.shape != counts.shape or len(centers) < 4:
            raise ValueError(
                f"centers: shape {centers.shape} does not fit counts {counts.shape}, at least 4 bins of one dimension are needed"
            )
        width = (centers[-2] - centers[1]) / (len(centers) - 3)
        inner = centers[1] + width * (np.arange(len(centers) - 1) - 0.5)
        lowest, highest = 2 * centers[0] - inner[0], 2 * centers[-1] - inner[-1]
        return cls(counts, np.concatenate(([min(lowest, inner[0])], inner, [max(highest, inner[-1])])))  # rounding may cross them

    @property
    def centers(self) -> np.ndarray:
        """The middle of each bin, float64 [bins]."""
        return (self.edges[:-1] + self.edges[1:]) / 2


class ActivationCounter:
    """Collects activations as they come, in less than 200 MB whatever their number; calibration need not keep them.

    The first 16 million values are kept as they are. Beyond that it counts: float16 and bfloat16 exactly, float32 rounded to 14 significant
    bits, which moves thresholds by about 1e-4 of their value.
    """

    def __init__(self) -> None:
        self._kept: list[np.ndarray] = []
        self._counts: np.ndarray | None = None  # of each pattern of the upper bits of a float32

    def add(self, values: Any) -> None:
        """Collect values: float, any shape; NumPy array or torch tensor.

        Raises: ValueError: NaN or infinity among them; none of them is collected.
        """
        self._kept.append(_finite(values).ravel().copy())
        if sum(map(len, self._kept)) > KEPT_VALUES:
            self._count_kept()

    def histogram(self, *, bins: int = BINS) -> ActivationHistogram:
        """What ActivationHistogram.from_values gives for all the values collected so far.

        Raises: ValueError: there are none, or fewer than 3 bins are asked for.
        """
        if self._counts is None:
            return ActivationHistogram.from_values(np.concatenate([*self._kept, np.empty(0, np.float32)]), bins=bins)
        self._count_kept()
        patterns = np.flatnonzero(self._counts)
        values = (patterns.astype(np.uint32) << _DROPPED_BITS).view(np.float32)
        order = np.argsort(values)
        return _histogram(values[order], self._counts[patterns][order], bins)

    def _count_kept(self) -> None:
        if self._counts is None:
            self._counts = np.zeros(_PATTERNS, np.int64)
        for values in self._kept:
            _count(values.view(np.uint32), self._counts)
        self._kept.clear()


def write_histograms(path: Path, histograms: Mapping[str, ActivationHistogram]) -> None:
    """Write histograms under their names, whole or not at all.

    Raises:
        XmsimError: the disk is full or the folder cannot be written.
    """
    tensors = {f"{name}/{part}": getattr(histogram, part) for name, histogram in histograms.items() for part in ("counts", "edges")}
    write_tensor_file(path, KIND, VERSION, tensors, {"names": list(histograms)})


def read_histograms(path: Path) -> dict[str, ActivationHistogram]:
    """The histograms of a file, by their names.

    Raises:
        RecordError: not readable, not such a file, of a later version, or its parts do not fit each other.
    """
    tensors, facts = read_tensor_file(path, KIND, VERSION)
    try:
        return {name: ActivationHistogram(tensors[f"{name}/counts"], tensors[f"{name}/edges"]) for name in facts["names"]}
    except (ValueError, TypeError, KeyError) as error:
        raise RecordError(f"{path}: not whole histograms ({error}); the file is damaged, collect them again") from error


def _finite(values: Any) -> np.ndarray:
    array = np.ascontiguousarray(as_numpy(values), np.float32)
    if not np.isfinite(array).all():
        raise ValueError("values: there is NaN or infinity among them, so the model's output is meaningless; check its weights")
    return array


def _histogram(values: np.ndarray, counts: np.ndarray, bins: int) -> ActivationHistogram:
    """Of distinct float32 values, ascending, each with its count."""
    if bins < 3:
        raise ValueError(f"bins: {bins} is too few, two of them are the tails; choose at least 3")
    if len(values) == 0:
        raise ValueError("values: there are none; calibrate on at least one token")
    upto = np.concatenate(([0], np.cumsum(counts)))
    total = int(upto[-1])
    tail = int(TAIL * total)
    low, high = (values[np.searchsorted(upto, rank, side="right") - 1] for rank in (tail, total - max(tail, 1)))
    inner = np.linspace(low, high, bins - 1, dtype=np.float64).astype(np.float32)
    edges = np.concatenate((values[:1], inner, values[-1:]))
    below = upto[np.searchsorted(values, edges)]
    below[-1] = total  # the last bin holds its upper edge
    return ActivationHistogram(np.diff(below).astype(np.float64), edges.astype(np.float64))


@njit(cache=True)
def _count(bits: np.ndarray, counts: np.ndarray) -> None:
    half = np.uint32(1 << (_DROPPED_BITS - 1))
    for i in range(len(bits)):
        counts[(bits[i] + half) >> np.uint32(_DROPPED_BITS)] += 1
