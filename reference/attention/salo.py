"""SALOv2's patterns: in each tile of the scores a window of diagonals, global rows and columns, and a few picks of each row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from xmsim.reference.attention.arrays import Array, is_tensor, plain_arithmetic
from xmsim.reference.attention.positions import first_position
from xmsim.reference.attention.walk import check_largest, check_scores

_CPU_ENTRIES = 1 << 20  # scores looked at together: what is made of them stays in a last-level cache
_DEVICE_ENTRIES = 1 << 24  # on any other device
_LOWEST = float(np.finfo(np.float64).min)  # in place of -inf, which is left to what must not be chosen


def salo_keep(
    scores: Array,
    *,
    block: int = 64,
    window: int = 8,
    global_tokens: int = 1,
    picks: int = 3,
    dilation: int = 1,
    query_offset: int | None = None,
) -> Array:
    """Match a pattern to each tile of block × block scores, by sums of the scores themselves.

    Of each tile are kept, in whole, the columns and the rows of largest sum, and the `window` diagonals that add up to
    most; then, of each row, the largest scores, those kept already counting as 0, so that a row of negative scores picks
    fewer new ones. A score of -inf makes every sum that it is in -inf, and is not picked. Of equals the lowest index wins.

    Tiles begin at multiples of `block`. Where queries or keys end inside a tile, what is missing adds nothing and cannot be
    chosen: a window lies within the diagonals that are there, or begins as near the first as it can where they are fewer.
    At most all but one of the rows are global, else a lone query, as in decode, would keep every key. A chunk of queries
    that begins and ends with tiles has the mask that it has in the whole.

    Args:
        scores: float [..., queries, keys], scaled and biased, -inf where a pair is not allowed; any length.
        block: edge of a tile, in positions.
        window: diagonals kept of a tile.
        global_tokens: rows, and columns, kept of a tile.
        picks: scores picked in each row of a tile.
        dilation: diagonals from one of a window to the next.
        query_offset: position of the first query; None means that the last query sees the last key.
    Returns: bool [..., queries, keys], True where the score is computed.
    Raises: ValueError naming the argument: block, window or dilation < 1, a window that does not fit a tile, global_tokens
        or picks not between 0 and block, query_offset < 0; scores of the wrong rank or number format, with NaN or +inf.
    Source: SALOv2 (TCAD 2024), sjtu-zhao-lab/SALO, salo_sparse.py; on raw scores as in coralabo/DynaX, models/utils/
        salo_spattn.py. There a length that is no multiple of the block misaligns the rows, and a pair that is not allowed
        is picked, in vain, where a line or a window holds it and the row has no positive score left.
    """
    pattern = _Pattern(block, window, global_tokens, picks, dilation)
    given: Any = scores
    check_scores(given)
    first = first_position(given, query_offset) % block
    library = _library_of(given)
    keep = library.zeros(given.shape, dtype=library.bool, device=given.device)
    queries, keys = given.shape[-2:]
    if not (queries and keys):
        return keep
    heads, keep_heads = (array.reshape(-1, queries, keys) for array in (given, keep))
    entries = _CPU_ENTRIES if str(given.device) == "cpu" else _DEVICE_ENTRIES
    with plain_arithmetic(given):
        for start, stop in pairwise([0, *range(block - first, queries, block), queries]):
            step = max(1, entries // ((stop - start) * keys))
            for head in range(0, len(heads), step):
                rows = heads[head : head + step, start:stop]
                check_largest(rows)
                first_row = first if start == 0 else 0
                keep_heads[head : head + step, start:stop] = _keep_row_of_tiles(library, rows, first_row, pattern)
    return keep


def _library_of(array: Any) -> Any:
    """NumPy or torch: they spell alike all that is used here, so that one text serves arrays and tensors."""
    if not is_tensor(array):
        return np
    import torch

    return torch


@dataclass(frozen=True, slots=True)
class _Pattern:
    """What is kept of a tile. Its diagonals are numbered from the lower left corner."""

    block: int
    window: int
    global_tokens: int
    picks: int
    dilation: int

    def __post_init__(self) -> None:
        for name in ("block", "window", "dilation"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} must be at least 1")
        for name in ("global_tokens", "picks"):
            if not 0 <= getattr(self, name) <= self.block:
                raise ValueError(f"{name}: {getattr(self, name)} must be between 0 and block, {self.block}")
        if self.starts < 1:
            raise ValueError(f"window: {self.window} diagonals, {self.dilation} apart, do not fit the {self.diagonals} of a tile")

    @property
    def diagonals(self) -> int:
        return 2 * self.block - 1

    @property
    def offsets(self) -> range:
        """From the first diagonal of a window to each of them."""
        return range(0, self.dilation * self.window, self.dilation)

    @property
    def starts(self) -> int:
        """Diagonals that a window can begin with."""
        return self.diagonals - self.offsets[-1]

    def row_diagonals(self, first_row: int, rows: int) -> Iterator[tuple[int, slice]]:
        """Each row with the diagonals that its scores lie on; the first one is row `first_row` of the tile."""
        for row in range(rows):
            start = self.block - 1 - first_row - row
            yield row, slice(start, start + self.block)


def _keep_row_of_tiles(library: Any, scores: Any, first_row: int, pattern: _Pattern) -> Any:
    """bool like `scores` [heads, rows, keys], tiles side by side; the first row is row `first_row` of them."""
    heads, rows, keys = scores.shape
    count = -(-keys // pattern.block)
    padded = library.zeros((heads, rows, count * pattern.block), dtype=library.float64, device=scores.device)
    padded[..., :keys] = scores
    tiles = padded.reshape(heads, rows, count, pattern.block)
    last_columns = keys - (count - 1) * pattern.block  # those of the last tile that are no padding

    # sums add whole slices in one fixed order, so that NumPy and torch, on any device, agree to the last bit
    row_sums = library.zeros_like(tiles[..., 0])
    for column in range(pattern.block):
        row_sums += tiles[..., column]
    column_sums = library.zeros_like(tiles[:, 0])
    diagonal_sums = library.zeros((heads, count, pattern.diagonals), dtype=library.float64, device=scores.device)
    for row, diagonals in pattern.row_diagonals(first_row, rows):
        column_sums += tiles[:, row]
        diagonal_sums[..., diagonals] += tiles[:, row]
    column_sums[:, -1, last_columns:] = -np.inf

    is_row = _largest(library, row_sums.swapaxes(1, 2), min(pattern.global_tokens, rows - 1)).swapaxes(1, 2)
    is_column = _largest(library, column_sums, pattern.global_tokens)
    is_diagonal = _best_window(library, diagonal_sums, first_row, rows, last_columns, pattern)
    keep = library.zeros_like(tiles, dtype=library.bool)
    keep |= is_row[..., None]
    keep |= is_column[:, None]
    for row, diagonals in pattern.row_diagonals(first_row, rows):
        keep[:, row] |= is_diagonal[..., diagonals]

    allowed = tiles > -np.inf
    left = library.where(keep & allowed, 0.0, tiles)
    left[..., -1, last_columns:] = -np.inf
    keep |= _largest(library, left, pattern.picks)
    return (keep & allowed).reshape(heads, rows, -1)[..., :keys]


def _best_window(library: Any, diagonal_sums: Any, first_row: int, rows: int, last_columns: int, pattern: _Pattern) -> Any:
    """The diagonals of each tile's window; bool like `diagonal_sums` [heads, tiles, diagonals]."""
    sums = library.zeros_like(diagonal_sums[..., : pattern.starts])
    for offset in pattern.offsets:
        sums += diagonal_sums[..., offset : offset + pattern.starts]
    sums = sums.clip(_LOWEST)
    lower_left = min(pattern.block - first_row - rows, pattern.starts - 1)
    sums[..., :lower_left] = -np.inf
    for tiles, columns in ((slice(0, -1), pattern.block), (slice(-1, None), last_columns)):
        upper_right = pattern.block - first_row - 2 + columns
        sums[:, tiles, max(upper_right - pattern.offsets[-1], lower_left) + 1 :] = -np.inf
    start = sums.argmax(-1)[..., None]
    number = library.arange(pattern.diagonals, device=start.device)
    chosen = library.zeros_like(diagonal_sums, dtype=library.bool)
    for offset in pattern.offsets:
        chosen |= number == start + offset
    return chosen


def _largest(library: Any, values: Any, count: int) -> Any:
    """The `count` largest along the last axis, the first of equals (padding is behind); bool like `values`."""
    left = values.clip(_LOWEST)
    number = library.arange(values.shape[-1], device=values.device)
    chosen = library.zeros_like(values, dtype=library.bool)
    for _ in range(count):
        best = left.argmax(-1)[..., None] == number
        chosen |= best
        left = library.where(best, -np.inf, left)
    return chosen
