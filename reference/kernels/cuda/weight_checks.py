"""Whether packed weights fit together: a kernel follows their bits and offsets, and ones that do not would lead it out of the memory."""

from __future__ import annotations

import torch

from xmsim.reference.kernels.cuda.native import check_tensor
from xmsim.reference.kernels.cuda.weights import BEHIND, ELEMENTS, GROUP, MACKO_STEP, GpuColumnBitmap, GpuMacko, GpuTcaBme, weight_groups

_STRIPES = 4
_PADDING = 8
_CHUNK = 1 << 16  # words whose bits are counted together


def check_tca_bme(weights: GpuTcaBme) -> None:
    """Refuse parts that do not fit; waits for the GPU.

    Raises:
        ValueError: naming the part.
    """
    counts = _check_groups(weights, "lane_bitmap")
    groups = len(weights.group_offsets) - 1
    _check_part("stripe_offsets", weights.stripe_offsets, torch.int32, groups * _STRIPES)
    stripes = counts.view(groups, _STRIPES, -1).sum(2)
    _check_starts("stripe_offsets", weights.stripe_offsets.view(groups, _STRIPES), stripes)


def check_column_bitmap(weights: GpuColumnBitmap) -> None:
    """As check_tca_bme."""
    counts = _check_groups(weights, "bitmap")
    if int(weights.group_offsets[-1]) + BEHIND > len(weights.values):
        raise ValueError(f"values: no {BEHIND} zeros follow them, where the kernel may read; pack these weights again")
    _check_part("column_offsets", weights.column_offsets, torch.int16, len(counts))
    _check_starts("column_offsets", weights.column_offsets.view(-1, GROUP), counts.view(-1, GROUP))


def check_macko(weights: GpuMacko) -> None:
    """As check_tca_bme."""
    rows, columns = _check_shape(weights.shape)
    check_tensor("values", weights.values, dtypes=ELEMENTS, axes=1)
    _check_part("deltas", weights.deltas, torch.int32, len(weights.values) // _PADDING)
    _check_part("row_indices", weights.row_indices, torch.int32, rows + 1)
    starts, equal = weights.row_indices.long(), weights.equal_values
    if equal % MACKO_STEP or equal < 0:
        raise ValueError(f"equal_values: {equal} is not a multiple of {MACKO_STEP}; pack these weights again")
    whole = not len(weights.values) % _PADDING and not (starts % _PADDING).any() and int(starts[0]) == rows * equal
    if not whole or int(torch.diff(starts).min()) < 0 or int(starts[-1]) > len(weights.values):
        raise ValueError("row_indices: they do not lead through the values; these weights are damaged, pack them again")
    steps = (weights.deltas.long()[:, None] >> torch.arange(0, 32, 4, device=starts.device) & 15).flatten() + 1
    left = torch.cat([starts.new_zeros(1), steps.cumsum(0)])[starts]
    reached = steps[: rows * equal].view(rows, equal).sum(1) + torch.diff(left)
    most = columns + _PADDING - 1  # fillers behind the last weight step on, into zeros that the kernel holds there
    if int(reached.max()) > most:
        raise ValueError(f"deltas: they lead beyond the {columns} inputs; these weights are damaged, pack them again")


def _check_groups(weights: GpuTcaBme | GpuColumnBitmap, name: str) -> torch.Tensor:
    """What both bitmap formats have in common; the bits of each word of the bitmap of this name."""
    bitmap = getattr(weights, name)
    rows, columns = _check_shape(weights.shape)
    groups = weight_groups(rows) * weight_groups(columns)
    check_tensor("values", weights.values, dtypes=ELEMENTS, axes=1)
    _check_part(name, bitmap, torch.int64, groups * GROUP)
    _check_part("group_offsets", weights.group_offsets, torch.int32, groups + 1)
    counts = _bit_counts(bitmap)
    filled = -(-counts.view(groups, GROUP).sum(1) // _PADDING) * _PADDING
    starts = weights.group_offsets.long()
    if int(starts[0]) or not torch.equal(torch.diff(starts), filled) or int(starts[-1]) > len(weights.values):
        raise ValueError("group_offsets: they do not fit the bits of the bitmap; these weights are damaged, pack them again")
    return counts


def _bit_counts(words: torch.Tensor) -> torch.Tensor:
    """Set bits of int64 words; int64."""
    places = torch.arange(64, device=words.device)
    return torch.cat([(part[:, None] >> places & 1).sum(1) for part in words.split(_CHUNK)])


def _check_starts(name: str, starts: torch.Tensor, counts: torch.Tensor) -> None:
    if not torch.equal(starts.long(), counts.cumsum(1) - counts):
        raise ValueError(f"{name}: they do not fit the bits of the bitmap; these weights are damaged, pack them again")


def _check_shape(shape: tuple[int, int]) -> tuple[int, int]:
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"shape: {list(shape)} is not [out_features, in_features], each at least 1")
    return shape


def _check_part(name: str, part: torch.Tensor, dtype: torch.dtype, length: int) -> None:
    check_tensor(name, part, dtypes=(dtype,), axes=1)
    if len(part) != length:
        raise ValueError(f"{name}: {len(part)} entries where {length} belong; these weights are damaged, pack them again")
