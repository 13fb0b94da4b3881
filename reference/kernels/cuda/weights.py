"""Packed weights on the GPU: packed there from a dense matrix by torch alone, or copied from a format of reference/formats.

The arrays are those of the formats, bit for bit, with the integer types that torch has, except that here the bits of TCA-BME are in another
order, MACKO's rows are in two parts, and a bitmap by columns has zeros behind its values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

if TYPE_CHECKING:  # those need numba, which a GPU host may lack
    from xmsim.reference.formats.column_bitmap import ColumnBitmap
    from xmsim.reference.formats.macko import Macko
    from xmsim.reference.formats.tca_bme import TcaBme

ELEMENTS = (torch.bfloat16, torch.float16)
GROUP = 64  # rows and columns of a GroupTile
_STRIPES = 4
_PADDING = 8  # values of a GroupTile, or of what is left of a row of MACKO, are filled up to a multiple of it
MACKO_STEP = 256  # values that a kernel takes of a row at once
BEHIND = 8  # zeros behind the values of a bitmap by columns, whose kernel reads two numbers where there may be fewer
_LONGEST_GAP = 15  # zeros between two values of MACKO
_PLACES = tuple(range(64))
# The two bits of each of 16 lanes beside each other in half of a word become eight apart: those of eight lanes in 16 bits.
_LANE_PLACES = tuple(32 * half + 16 * (lane // 8) + 8 * second + lane % 8 for half in (0, 1) for lane in range(16) for second in (0, 1))


@dataclass(frozen=True, slots=True, eq=False)
class GpuTcaBme:
    """A TcaBme on the GPU, with the bits of a lane's two weights where its kernel wants them."""

    shape: tuple[int, int]
    values: torch.Tensor  # bfloat16 or float16
    lane_bitmap: torch.Tensor  # int64
    group_offsets: torch.Tensor  # int32
    stripe_offsets: torch.Tensor  # int32

    @classmethod
    def of(cls, packed: TcaBme, device: Any) -> Self:
        """Copy packed weights to a device."""
        words = torch.from_numpy(packed.bitmap.view(np.int64).copy())
        bits = torch.cat([_bits(part[:, None] >> torch.tensor(_PLACES) & 1, _LANE_PLACES) for part in words.split(1 << 16)])
        offsets = (_tensor(part, device) for part in (packed.group_offsets, packed.stripe_offsets))
        return cls(packed.shape, _values(packed, device), bits.to(device), *offsets)

    @classmethod
    def from_dense(cls, weight: torch.Tensor) -> Self:
        """Pack a matrix [out_features, in_features] where it lies.

        Raises:
            ValueError: not a matrix of bfloat16 or float16, or a NaN.
        """
        tiles = _tiled(weight).view(-1, _STRIPES, 2, 8, weight_groups(weight.shape[1]), 4, 2, 8)
        # GroupTile down and across, stripe, TCTile, right half, bottom half, row, column
        order = tiles.permute(0, 4, 1, 5, 6, 2, 3, 7).reshape(-1, GROUP * GROUP)
        values, offsets = _group_values(order)
        stripes = (order != 0).view(len(order), _STRIPES, -1).sum(2)
        starts = (stripes.cumsum(1) - stripes).int().flatten()
        return cls(_shape(weight), values, _bits(order, _LANE_PLACES), offsets, starts)


@dataclass(frozen=True, slots=True, eq=False)
class GpuColumnBitmap:
    """A ColumnBitmap on the GPU."""

    shape: tuple[int, int]
    values: torch.Tensor  # bfloat16 or float16, with eight zeros behind
    bitmap: torch.Tensor  # int64
    group_offsets: torch.Tensor  # int32
    column_offsets: torch.Tensor  # int16, below 4096

    @classmethod
    def of(cls, packed: ColumnBitmap, device: Any) -> Self:
        """Copy packed weights to a device."""
        parts = (packed.bitmap.view(np.int64), packed.group_offsets, packed.column_offsets.view(np.int16))
        return cls(packed.shape, _followed(_values(packed, device)), *(_tensor(part, device) for part in parts))

    @classmethod
    def from_dense(cls, weight: torch.Tensor) -> Self:
        """Pack a matrix [out_features, in_features] where it lies; errors as those of GpuTcaBme."""
        tiles = _tiled(weight).view(-1, GROUP, weight_groups(weight.shape[1]), GROUP)
        order = tiles.permute(0, 2, 3, 1).reshape(-1, GROUP * GROUP)  # GroupTile down and across, column, row
        values, offsets = _group_values(order)
        columns = (order != 0).view(len(order), GROUP, -1).sum(2)
        return cls(_shape(weight), _followed(values), _bits(order, _PLACES), offsets, (columns.cumsum(1) - columns).short().flatten())


@dataclass(frozen=True, slots=True, eq=False)
class GpuMacko:
    """A Macko on the GPU, in two parts, so that a kernel can read before it knows where rows start: an equal number of values of each row,
    then what is left of each, with zeros up to a multiple of 8.
    """

    shape: tuple[int, int]
    values: torch.Tensor  # bfloat16 or float16
    deltas: torch.Tensor  # int32, eight of 4 bits each
    row_indices: torch.Tensor  # int32, multiples of 8: where what is left of each row starts
    equal_values: int  # of each row in the first part, a multiple of MACKO_STEP

    @classmethod
    def of(cls, packed: Macko, device: Any) -> Self:
        """Copy packed weights to a device, each to where it lies there."""
        counts = torch.from_numpy(np.diff(packed.row_indices)).long()
        stored = int(packed.row_indices[-1])
        gaps = torch.from_numpy(np.stack((packed.deltas & 15, packed.deltas >> 4), axis=1).ravel()[:stored]).long()
        values = torch.from_numpy(packed.values[:stored].view(np.int16)).view(_dtype(packed.element))
        return cls._placed(packed.shape, counts, values, gaps, device)

    @classmethod
    def from_dense(cls, weight: torch.Tensor) -> Self:
        """Pack a matrix [out_features, in_features] where it lies; errors as those of GpuTcaBme."""
        rows, columns = _matrix(weight).nonzero(as_tuple=True)
        before = torch.cat([columns.new_full((1,), -1), columns[:-1]])
        first = torch.ones_like(rows, dtype=torch.bool)
        first[1:] = rows[1:] != rows[:-1]
        gaps = columns - torch.where(first, -1, before) - 1
        filled = gaps // (_LONGEST_GAP + 1)  # zeros that are stored since the gap is too long for 4 bits
        places = (filled + 1).cumsum(0) - 1
        counts = torch.zeros(len(weight), dtype=torch.int64, device=weight.device).index_add_(0, rows, filled + 1)
        values = weight.new_zeros(int(counts.sum()))
        values[places] = weight[rows, columns]
        steps = torch.full_like(values, _LONGEST_GAP, dtype=torch.int64)
        steps[places] = gaps % (_LONGEST_GAP + 1)
        return cls._placed(_shape(weight), counts, values, steps, weight.device)

    @classmethod
    def _placed(cls, shape: tuple[int, int], counts: torch.Tensor, values: torch.Tensor, gaps: torch.Tensor, device: Any) -> Self:
        """From what each row stores, one row after the other."""
        equal = int(counts.min()) // MACKO_STEP * MACKO_STEP
        left = -(-(counts - equal) // _PADDING) * _PADDING
        starts = torch.cat([left.new_zeros(1), left.cumsum(0)]) + len(counts) * equal
        row = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
        index = torch.arange(len(row), device=counts.device) - (counts.cumsum(0) - counts)[row]
        places = torch.where(index < equal, row * equal + index, starts[row] + index - equal)
        total = max(int(starts[-1]), _PADDING)
        all_values, all_gaps = values.new_zeros(total), gaps.new_zeros(total)
        all_values[places], all_gaps[places] = values, gaps
        words = (all_gaps.view(-1, _PADDING) << torch.arange(0, 4 * _PADDING, 4, device=gaps.device)).sum(1)
        deltas = torch.where(words >= 1 << 31, words - (1 << 32), words).int()
        return cls(shape, all_values.to(device), deltas.to(device), starts.int().to(device), equal)


def weight_groups(features: int) -> int:
    """GroupTiles along an axis of so many features."""
    return -(-features // GROUP)


def _shape(weight: torch.Tensor) -> tuple[int, int]:
    return int(weight.shape[0]), int(weight.shape[1])


def _matrix(weight: torch.Tensor) -> torch.Tensor:
    if weight.dim() != 2 or not weight.numel() or weight.dtype not in ELEMENTS:
        raise ValueError(f"weight: a matrix of bfloat16 or float16 is needed, got {weight.dtype} {list(weight.shape)}")
    if weight.isnan().any():
        raise ValueError("weight: it holds NaN, which no format stores")
    return weight


def _tiled(weight: torch.Tensor) -> torch.Tensor:
    """The matrix with zeros up to whole GroupTiles."""
    rows, columns = _matrix(weight).shape
    return torch.nn.functional.pad(weight, (0, -columns % GROUP, 0, -rows % GROUP))


def _bits(order: torch.Tensor, places: tuple[int, ...]) -> torch.Tensor:
    """64 numbers to a word, each with its bit where it is not zero; int64."""
    shifts = torch.tensor(places, device=order.device)
    return torch.cat([((part != 0).view(-1, 64).long() << shifts).sum(1) for part in order.split(1024)])


def _group_values(order: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What is not zero of each GroupTile, filled up, and where each starts."""
    kept = order != 0
    counts = kept.sum(1)
    starts = torch.cat([counts.new_zeros(1), (-(-counts // _PADDING) * _PADDING).cumsum(0)])
    values = order.new_zeros(max(int(starts[-1]), _PADDING))
    for first in range(0, len(order), 1024):  # a part of a large matrix at a time: places are int64
        part = kept[first : first + 1024]
        places = part.cumsum(1) - 1 + starts[first : first + len(part), None]
        values[places[part]] = order[first : first + 1024][part]
    return values, starts.int()


def _followed(values: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(values, (0, BEHIND))


def _values(packed: TcaBme | ColumnBitmap, device: Any) -> torch.Tensor:
    """The stored weights as a tensor of their type."""
    return _tensor(packed.values.view(np.int16), device).view(_dtype(packed.element))


def _dtype(element: str) -> torch.dtype:
    if element == "float32":
        raise ValueError("weights: float32 is not multiplied on the GPU; pack them as bfloat16 or float16")
    return torch.bfloat16 if element == "bfloat16" else torch.float16


def _tensor(part: np.ndarray, device: Any) -> torch.Tensor:
    """A copy on the device; never empty, since a kernel takes its address."""
    filled = part if part.size else np.zeros(_PADDING, part.dtype)
    return torch.from_numpy(filled.copy()).to(device)
