"""A linear layer as the machines see it: its shape, which of its weights are not zero, and how many of its inputs take part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xmsim.reference.activations import ActivationHistogram, share_within, symmetric_threshold
from xmsim.traces.bits import WORD_BITS, pack, unpack
from xmsim.traces.store import Trace
from xmsim.workloads.extraction.activation_histograms import activation_thresholds, load_histograms


@dataclass(frozen=True, slots=True, eq=False)
class LinearWorkload:
    """The product of some tokens with the weights of a linear layer; True = the weight is not zero.

    Bit i % 64 of `words[out, i // 64]` says whether the weight of input i is stored (little-endian bits).

    Raises:
        ValueError: naming the argument that does not fit.
    """

    name: str  # of the module
    words: npt.NDArray[np.uint64]  # [out_features, ceil(in_features / 64)]
    in_features: int
    tokens: int = 1  # that come together; 1 in decoding
    activation_density: float = 1.0  # share of the inputs that take part, on average over tokens

    def __post_init__(self) -> None:
        if self.words.ndim != 2 or self.words.dtype != np.uint64:
            raise ValueError(f"words must be uint64 [out_features, words], got {self.words.dtype} {list(self.words.shape)}")
        if min(self.out_features, self.in_features, self.tokens) < 1:
            raise ValueError("a linear workload needs at least one output, input and token")
        if self.words.shape[1] != -(-self.in_features // WORD_BITS):
            raise ValueError(
                f"words has {self.words.shape[1]} words a row, {self.in_features} inputs need {-(-self.in_features // WORD_BITS)}"
            )
        spare = self.in_features % WORD_BITS
        if spare and (self.words[:, -1] >> np.uint64(spare)).any():
            raise ValueError(f"words has weights beyond the {self.in_features} inputs")
        if not 0 <= self.activation_density <= 1:
            raise ValueError(f"activation_density: {self.activation_density} is not a share; choose 0 to 1")

    @classmethod
    def from_keep(
        cls, keep: npt.NDArray[np.bool_], *, name: str = "linear", tokens: int = 1, activation_density: float = 1.0
    ) -> LinearWorkload:
        """From a mask of the weights that are not zero, bool [out_features, in_features]; raises as the class."""
        keep = np.asarray(keep)
        if keep.ndim != 2 or keep.dtype != np.bool_:
            raise ValueError(f"keep must be bool [out_features, in_features], got {keep.dtype} {list(keep.shape)}")
        return cls(name, pack(keep), keep.shape[1], tokens, activation_density)

    @property
    def out_features(self) -> int:
        return int(self.words.shape[0])

    @property
    def nonzeros(self) -> int:
        """Weights that are not zero."""
        return int(np.bitwise_count(self.words).sum(dtype=np.int64))

    @property
    def weight_density(self) -> float:
        """Nonzero weights / weights."""
        return self.nonzeros / (self.out_features * self.in_features)

    @property
    def dense_products(self) -> int:
        """Multiplications of the dense layer."""
        return self.tokens * self.out_features * self.in_features

    @property
    def expected_products(self) -> float:
        """Multiplications of which neither side is zero, where it does not depend on the weights which inputs take part."""
        return self.tokens * self.nonzeros * self.activation_density

    def keep(self) -> npt.NDArray[np.bool_]:
        """Which weights are not zero, unpacked; bool [out_features, in_features]."""
        return unpack(self.words, self.in_features)

    def column_nonzeros(self) -> npt.NDArray[np.int64]:
        """Nonzero weights of each input: what a skipped one saves; int64 [in_features]."""
        return self.keep().sum(axis=0, dtype=np.int64)


def linear_workloads(
    trace: Trace,
    layer: int,
    *,
    tokens: int = 1,
    dynamic_sparsity: float = 0.0,
    threshold: Callable[[ActivationHistogram, float], float] = symmetric_threshold,
) -> tuple[LinearWorkload, ...]:
    """The linear layers of a layer of a trace, in the model's order, from its weight bitmaps.

    Args:
        tokens: that come together; 1 in decoding.
        dynamic_sparsity: share of the inputs that TEAL is asked to drop, by the trace's histograms; what it then really drops of the
            inputs that the histogram counted makes `activation_density`. 0 needs no histograms.
        threshold: how thresholds follow from histograms.
    Raises:
        TraceError: the trace holds no weight bitmaps of this layer.
        XmsimError: no histograms, or a share out of its range.
    """
    keeps = trace.read_weights(layer)
    if not dynamic_sparsity:
        return tuple(LinearWorkload.from_keep(keep, name=name, tokens=tokens) for name, keep in keeps.items())
    histograms = load_histograms(trace.path)
    thresholds = activation_thresholds(histograms, dict.fromkeys(keeps, dynamic_sparsity), threshold=threshold)
    return tuple(
        LinearWorkload.from_keep(keep, name=name, tokens=tokens, activation_density=1 - share_within(histograms[name], thresholds[name]))
        for name, keep in keeps.items()
    )
