"""What the fast paths of the row-wise methods share: blocks of a row, the largest entries with a tie rule, exponentials; torch.

Everything runs on the device of its tensors. Ranking is exact in any number format. Sums are not: those of float32 scores
are made in float32, and a sum that comes near a threshold is a case for the judge.
"""

from __future__ import annotations

import math
from typing import Any

_MARGIN = 1e-5  # relative; sums of float32 exponentials err by less
_SMALLEST = 1e-30  # exponentials below it are not told from zero: float32 loses their digits, then underflows


def in_blocks(rows: Any, block: int) -> Any:
    """Rows cut into blocks, [rows, ceil(keys / block), block]; a short last block is filled up with -inf."""
    from torch.nn.functional import pad

    missing = -rows.shape[-1] % block
    return (pad(rows, (0, missing), value=-math.inf) if missing else rows).reshape(len(rows), -1, block)


def out_of_blocks(blocks: Any, keys: int) -> Any:
    """The inverse of `in_blocks`."""
    return blocks.flatten(1)[:, :keys]


def count(marks: Any) -> Any:
    """How many of the last axis are True."""
    import torch

    return marks.sum(dim=-1, dtype=torch.int32)  # several times faster than in int64, its default


def has_allowed(values: Any) -> Any:
    """Which slices along the last axis hold an entry that is not -inf."""
    return values.amax(dim=-1) > -math.inf


def keep_largest(values: Any, kept: int, chosen: Any) -> Any:
    """The `kept` largest finite entries along the last axis, the lowest index first among equals, of the slices in `chosen`.

    `chosen` is bool, one for each slice; the others keep nothing.
    """
    import torch

    keep = torch.zeros(values.shape, dtype=torch.bool, device=values.device)
    if kept and chosen.any():
        keep[chosen] = _keep_largest(values[chosen], kept)
    return keep


def _keep_largest(values: Any, kept: int) -> Any:
    cut = values.topk(kept, sorted=False).values.amin(dim=-1, keepdim=True)
    keep = (values >= cut) & (values > -math.inf)
    tied = count(keep) > kept  # equal values straddle the cut: rare, so mended apart
    if tied.any():
        values, cut = values[tied], cut[tied]
        above, equal = values > cut, values == cut
        places = kept - count(above)
        keep[tied] = above | (equal & (equal.cumsum(dim=-1) <= places[:, None]))
    return keep


def exponentials(rows: Any) -> Any:
    """e to the power of (score - row maximum) in the format of `rows` along the last axis; 0 where the score is -inf."""
    top = rows.amax(dim=-1, keepdim=True)
    return (rows - top.masked_fill(top == -math.inf, 0)).exp_()


def is_near(sums: Any, limit: Any) -> Any:
    """Where rounding may decide on which side of `limit` a sum of exponentials lies."""
    return (sums - limit).abs() <= _MARGIN * limit + _SMALLEST
