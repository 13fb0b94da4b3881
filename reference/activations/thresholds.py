"""The magnitude below which an input is dropped, so that a share of the inputs is.

Source: TEAL (arXiv 2408.14690); FasterDecoding/TEAL at 5baaec8, utils/utils.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from xmsim.reference.activations.histogram import ActivationHistogram

PROJECTION_INPUTS = {  # each projection of a block, and the tensor that it reads
    "q": "attention_h1",
    "k": "attention_h1",
    "v": "attention_h1",
    "o": "attention_h2",
    "gate": "mlp_h1",
    "up": "mlp_h1",
    "down": "mlp_h2",
}


def symmetric_threshold(histogram: ActivationHistogram, sparsity: float) -> float:
    """The threshold as published: the (1 + sparsity) / 2 quantile, as if the values lay evenly around zero.

    It interpolates between bin centres, half a bin low, and where the mean is not zero it drops another share than asked for.

    Args:
        sparsity: share of the inputs to be dropped, 0 to 1; 0 drops nothing.
    Raises: ValueError: sparsity is out of its range.
    """
    _check_share(sparsity)
    if sparsity == 0:
        return 0.0
    upto, centers = np.cumsum(histogram.counts), histogram.centers
    target = (0.5 + sparsity / 2) * upto[-1]
    right = int(np.searchsorted(upto, target))
    if right == 0:
        return float(centers[0])
    if right >= len(centers):
        return float(centers[-1])
    share = (target - upto[right - 1]) / (upto[right] - upto[right - 1])
    return float(centers[right - 1] + share * (centers[right] - centers[right - 1]))


def magnitude_threshold(histogram: ActivationHistogram, sparsity: float) -> float:
    """The corrected threshold: the `sparsity` quantile of the magnitudes, wherever the values lie. Ours.

    Args:
        sparsity: share of the inputs to be dropped, 0 to 1; 0 drops nothing.
    Raises: ValueError: sparsity is out of its range.
    """
    _check_share(sparsity)
    if sparsity == 0:
        return 0.0
    edges, below = histogram.edges, np.concatenate(([0], np.cumsum(histogram.counts)))
    # between neighbours of these both ends of (-t, t) stay in their bins, so that what lies inside grows evenly with t
    magnitudes = np.unique(np.concatenate(([0.0], np.abs(edges))))
    inside = np.interp(magnitudes, edges, below) - np.interp(-magnitudes, edges, below)
    rising = np.concatenate((np.diff(inside) > 0, [True]))  # of equal shares the largest magnitude: as far as nothing more is dropped
    return float(np.interp(sparsity * below[-1], inside[rising], magnitudes[rising]))


def share_within(histogram: ActivationHistogram, threshold: float) -> float:
    """The share of the values whose magnitude is at most the threshold, as if they lay evenly in their bins.

    A threshold of 0 and below drops nothing, wherever the values lie.
    """
    below = np.concatenate(([0], np.cumsum(histogram.counts)))
    upper, lower = np.interp((max(threshold, 0.0), -max(threshold, 0.0)), histogram.edges, below)
    return float((upper - lower) / below[-1])


def layer_thresholds(
    histograms: Mapping[str, ActivationHistogram],
    sparsities: Mapping[str, float],
    *,
    threshold: Callable[[ActivationHistogram, float], float] = symmetric_threshold,
) -> dict[str, float]:
    """The threshold of each projection of a block, from the histogram of what it reads.

    Args:
        histograms: by the names of PROJECTION_INPUTS.
        sparsities: share that each projection is to drop: all the same (uniform) or those of a greedy step.
        threshold: symmetric_threshold as published, or magnitude_threshold.
    Raises: ValueError naming the argument: a projection or a histogram that is not known, a share out of its range.
    """
    found = {}
    for projection, sparsity in sparsities.items():
        if projection not in PROJECTION_INPUTS:
            raise ValueError(f"sparsities: no projection {projection}; known are {', '.join(PROJECTION_INPUTS)}")
        read = PROJECTION_INPUTS[projection]
        if read not in histograms:
            raise ValueError(f"histograms: {read}, which {projection} reads, is missing; there are {', '.join(histograms)}")
        found[projection] = threshold(histograms[read], sparsity)
    return found


def uniform_sparsities(sparsity: float) -> dict[str, float]:
    """The same share for every projection of a block."""
    return dict.fromkeys(PROJECTION_INPUTS, sparsity)


def _check_share(sparsity: float) -> None:
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity: {sparsity} is not a share; choose 0 to 1")
