"""Lists of kept keys that the decoding kernels decide twice: where two weights, or a block's share and its threshold, lie so close
together that float32 cannot tell them apart, float64 is asked. How many lists that are is a property of the scores, and costs time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SHARE_MARGIN = WEIGHT_MARGIN = 1e-5  # relative; kShareMargin, kWeightMargin and kFarWeight of reference/kernels/cpu/kv_select.h
FAR_WEIGHT = 1e-12
BLOCK_KEYS = 64


@dataclass(frozen=True, slots=True)
class DecidedAgain:
    """Lists of one selection."""

    classified: int  # all of whose blocks are weighed again
    ranked: int  # of the others those that only rank some keys again


def decided_again(
    weights: npt.NDArray[np.float64], *, kept_high: int, kept_low: int, threshold_high: float, threshold_low: float
) -> DecidedAgain:
    """What X:M selection decides again.

    Args:
        weights: logarithms of what a list ranks its keys by, [lists, keys], keys a multiple of 64, as `group_sum_scores` gives them.
        kept_high, kept_low, threshold_high, threshold_low: as `xm_keep`.
    """
    lists, keys = weights.shape
    blocks = np.exp(weights - weights.max(axis=1, keepdims=True)).reshape(lists, -1, BLOCK_KEYS)
    blocks /= blocks.sum(axis=(1, 2), keepdims=True)
    shares = blocks.sum(axis=2) * (keys / BLOCK_KEYS)
    near = [np.abs(shares - limit) <= SHARE_MARGIN * limit for limit in (threshold_high, threshold_low) if limit > 0]
    classified = np.any(near, axis=(0, 2)) if near else np.zeros(lists, bool)
    kept = np.where(shares > threshold_high, kept_high, np.where(shares < threshold_low, 0, kept_low))
    ordered = -np.sort(-blocks, axis=2)
    places = np.clip(kept, 1, BLOCK_KEYS - 1)[..., None]
    last, next_ = (np.take_along_axis(ordered, places - 1 + more, axis=2)[..., 0] for more in (0, 1))
    doubtful = (kept > 0) & (kept < BLOCK_KEYS) & ((next_ >= last * (1 - WEIGHT_MARGIN)) | (last < FAR_WEIGHT))
    return DecidedAgain(int(classified.sum()), int((doubtful.any(axis=1) & ~classified).sum()))
