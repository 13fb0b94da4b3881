"""Sparse attention with torch, on whatever device its tensors are: each row gathers its kept keys and values.

Imports only numpy and, inside functions, torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from xmsim.reference.kernels.cpu_attention import KeptPairs

CHUNK_BYTES = 1 << 26  # gathered keys of the rows that are computed together


class GatherAttention:
    """One layer, made ready: index lists lie on the device, padded to the longest row of their chunk."""

    def __init__(self, q: Any, k: Any, v: Any, pairs: KeptPairs, *, scale: float, slopes: np.ndarray | None = None) -> None:
        """Prepare softmax over the kept pairs of each row, times v.

        Args:
            q: tensor [heads, queries, d].
            k, v: tensors [kv_heads, keys, d] on q's device; heads is a multiple of kv_heads, and neighbours share one.
            pairs: the kept pairs of these heads and queries.
            scale: factor of q·k.
            slopes: float32 [heads], ALiBi: slope × key position is added to the scaled score.
        """
        heads, queries, dim = q.shape
        if len(pairs.starts) != heads * queries + 1:
            raise ValueError(f"pairs: {len(pairs.starts) - 1} rows do not fit {heads} heads of {queries} queries")
        self._shape = q.shape
        self._q, self._k, self._v = (x.reshape(-1, dim) for x in (q, k, v))
        self._scale = scale
        head_of_row = np.repeat(np.arange(heads), queries)
        first_key = head_of_row // (heads // len(k)) * k.shape[1]  # of the row's KV head, in the flattened k and v
        row_slopes = np.zeros(len(head_of_row), np.float32) if slopes is None else np.asarray(slopes, np.float32)[head_of_row]
        row_bytes = dim * q.element_size()
        self._chunks = [
            self._chunk(rows, pairs, first_key, row_slopes, q.device) for rows in _chunks(np.diff(pairs.starts), CHUNK_BYTES // row_bytes)
        ]

    def __call__(self) -> Any:
        """Attention output, tensor [heads, queries, d]; a row that keeps nothing gives zeros."""
        import torch

        out = torch.empty_like(self._q)
        for rows, keys, added in self._chunks:
            scores = torch.bmm(self._k[keys], self._q[rows].unsqueeze(2)).squeeze(2) * self._scale + added
            probabilities = scores.softmax(dim=-1).nan_to_num(0.0)  # NaN: a row that keeps nothing
            out[rows] = (probabilities.unsqueeze(2) * self._v[keys]).sum(dim=1)  # sum adds in pairs, bmm one by one and loses digits
        return out.reshape(self._shape)

    @staticmethod
    def _chunk(rows: slice, pairs: KeptPairs, first_key: np.ndarray, slopes: np.ndarray, device: Any) -> tuple[slice, Any, Any]:
        """Rows of one chunk, the keys they gather [rows, longest] and what is added to their scores (-inf where padded)."""
        import torch

        starts, ends = pairs.starts[:-1][rows, None], pairs.starts[1:][rows, None]
        place = starts + np.arange(max(1, (ends - starts).max()))
        kept = place < ends
        position = np.where(kept, pairs.keys[np.minimum(place, max(0, len(pairs.keys) - 1))] if len(pairs.keys) else 0, 0)
        added = np.where(kept, slopes[rows, None] * position, np.float32(-np.inf)).astype(np.float32)
        return rows, torch.from_numpy(position + first_key[rows, None]).to(device), torch.from_numpy(added).to(device)


def _chunks(lengths: np.ndarray, most_keys: int) -> list[slice]:
    """Consecutive rows that together, padded to their longest, gather at most `most_keys` keys (or one row that needs more)."""
    chunks, first, longest = [], 0, 1
    for row, length in enumerate(lengths):
        longest = max(longest, int(length))
        if row > first and (row + 1 - first) * longest > most_keys:
            chunks.append(slice(first, row))
            first, longest = row, max(1, int(length))
    return [*chunks, slice(first, len(lengths))]
