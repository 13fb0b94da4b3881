"""One layer's attention as the machines see it: shapes and a keep mask, packed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from xmsim.configs.densities import Densities
from xmsim.traces.bits import WORD_BITS, pack, unpack
from xmsim.traces.statistics import block_counts
from xmsim.traces.store import LayerTrace


@dataclass(frozen=True, slots=True, eq=False)
class AttentionOperands:
    """What the attention of one layer is computed from, where a machine's arithmetic is asked for and not its time alone."""

    q: npt.NDArray[np.float32]  # [heads, queries, head_dim], after rotary embedding, before scaling
    k: npt.NDArray[np.float32]  # [kv_heads, keys, head_dim]
    v: npt.NDArray[np.float32]  # [kv_heads, keys, head_dim]
    scale: float  # the scores are scale × q·k
    slopes: npt.NDArray[np.float32] | None = None  # [heads], ALiBi: slope × key position is added


@dataclass(frozen=True, slots=True, eq=False)
class AttentionWorkload:
    """The keep mask of all query heads of one layer of one window; True = computed.

    Bit j % 64 of `words[head, query, j // 64]` says whether key j is kept (little-endian bits). Queries may be fewer than
    keys: the last query sees the last key.
    """

    words: npt.NDArray[np.uint64] = field(repr=False)  # [heads, queries, ceil(keys / 64)]; they fill a screen
    keys: int
    head_dim: int
    kv_heads: int
    causal: bool = True
    window: int | None = None  # sliding window of the dense model, in keys; None: it sees all
    operands: AttentionOperands | None = None
    hidden_size: int | None = None  # channels of the model between its layers; None: heads × head_dim

    def __post_init__(self) -> None:
        if self.words.ndim != 3 or self.words.dtype != np.uint64:
            raise ValueError(f"words must be uint64 [heads, queries, words], got {self.words.dtype} {list(self.words.shape)}")
        if min(self.heads, self.queries, self.keys, self.head_dim, self.kv_heads) < 1:
            raise ValueError("a workload needs at least one head, query, key and channel")
        if self.hidden_size is not None and self.hidden_size < 1:
            raise ValueError(f"hidden_size is {self.hidden_size}; give the channels of the model, or None for heads × head_dim")
        if self.words.shape[2] != -(-self.keys // WORD_BITS):
            raise ValueError(f"words has {self.words.shape[2]} words a row, {self.keys} keys need {-(-self.keys // WORD_BITS)}")
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} query heads do not divide over {self.kv_heads} KV heads")
        if self.causal and self.queries > self.keys:
            raise ValueError(f"{self.queries} causal queries see only {self.keys} keys; the last query sees the last key")
        outside = self.words & ~self.allowed_words()
        if outside.any():
            head, query, _ = np.argwhere(outside)[0]
            raise ValueError(
                f"head {head}, query {query} keeps a pair that the dense model does not compute (above the diagonal, or padding)"
            )

    @classmethod
    def from_keep(
        cls,
        keep: npt.NDArray[np.bool_],
        *,
        head_dim: int,
        kv_heads: int | None = None,
        causal: bool = True,
        window: int | None = None,
        operands: AttentionOperands | None = None,
        hidden_size: int | None = None,
    ) -> AttentionWorkload:
        """From a mask, bool [heads, queries, keys]; kv_heads defaults to heads.

        Raises:
            ValueError: the shapes do not fit, or the mask keeps a pair that the dense model does not compute.
        """
        keep = np.asarray(keep)
        if keep.ndim != 3 or keep.dtype != np.bool_:
            raise ValueError(f"keep must be bool [heads, queries, keys], got {keep.dtype} {list(keep.shape)}")
        return cls(pack(keep), keep.shape[2], head_dim, kv_heads or keep.shape[0], causal, window, operands, hidden_size)

    @classmethod
    def from_packed(
        cls,
        words: npt.NDArray[np.uint64],
        *,
        keys: int,
        head_dim: int,
        kv_heads: int | None = None,
        causal: bool = True,
        window: int | None = None,
        operands: AttentionOperands | None = None,
        hidden_size: int | None = None,
    ) -> AttentionWorkload:
        """From packed words, uint64 [heads, queries, ceil(keys / 64)]; raises as `from_keep`."""
        words = np.ascontiguousarray(words, dtype=np.uint64)
        return cls(words, keys, head_dim, kv_heads or words.shape[0], causal, window, operands, hidden_size)

    @property
    def heads(self) -> int:
        return int(self.words.shape[0])

    @property
    def queries(self) -> int:
        return int(self.words.shape[1])

    @property
    def query_offset(self) -> int:
        """Position of query 0 among the keys."""
        return self.keys - self.queries

    @property
    def group(self) -> int:
        """Query heads that share a KV head."""
        return self.heads // self.kv_heads

    @property
    def hidden_channels(self) -> int:
        """Channels of the model between its layers, which the projections around attention read and write."""
        return self.heads * self.head_dim if self.hidden_size is None else self.hidden_size

    def allowed_words(self) -> npt.NDArray[np.uint64]:
        """Pairs that the dense model computes; uint64 [queries, words]."""
        keys = np.arange(self.keys)
        if not self.causal:
            return pack(np.ones((1, self.keys), bool)).repeat(self.queries, axis=0)
        packed = []
        for first in range(0, self.queries, 1024):  # in slices, so that long contexts do not need the square in bytes
            position = np.arange(first, min(first + 1024, self.queries))[:, None] + self.query_offset
            allowed = keys <= position
            if self.window is not None:
                allowed &= keys > position - self.window
            packed.append(pack(allowed))
        return np.concatenate(packed)

    def keep(self) -> npt.NDArray[np.bool_]:
        """The mask, unpacked; bool [heads, queries, keys]."""
        return unpack(self.words, self.keys)

    def allowed(self) -> npt.NDArray[np.bool_]:
        """Pairs that the dense model computes; bool [queries, keys]."""
        return unpack(self.allowed_words(), self.keys)

    def block_counts(self, block: int) -> npt.NDArray[np.int64]:
        """Kept keys of every block of `block` consecutive keys; int64 [heads, queries, ceil(keys / block)]."""
        counts = np.zeros((self.heads, self.queries, -(-self.keys // block)), np.int64)
        for head in range(self.heads):  # one head unpacked at a time
            counts[head] = block_counts(unpack(self.words[head], self.keys), block)
        return counts

    def kept_pairs(self) -> npt.NDArray[np.int64]:
        """Kept pairs of each query head; int64 [heads]."""
        return np.bitwise_count(self.words).sum(axis=(1, 2), dtype=np.int64)

    def allowed_pairs(self) -> int:
        """Pairs of a head that the dense model computes."""
        first, queries = self.query_offset, self.queries
        if not self.causal:
            return queries * self.keys
        seen = np.arange(first + 1, first + queries + 1)
        return int((seen if self.window is None else np.minimum(seen, self.window)).sum())

    def densities(self) -> Densities:
        """Densities over all heads."""
        kept_by_group = np.bitwise_or.reduce(self.words.reshape(self.kv_heads, self.group, *self.words.shape[1:]), axis=1)
        allowed, kept, kv_kept = self.allowed_pairs(), int(self.kept_pairs().sum()), int(np.bitwise_count(kept_by_group).sum())
        return Densities(
            density=kept / (self.heads * allowed),
            full_density=kept / (self.heads * self.queries * self.keys),
            kv_density=kv_kept / (self.kv_heads * allowed),
        )

    def head_densities(self) -> list[Densities]:
        """Densities of each query head alone; its kv_density counts the keys it keeps itself."""
        allowed, square = self.allowed_pairs(), self.queries * self.keys
        return [Densities(int(kept) / allowed, int(kept) / square, int(kept) / allowed) for kept in self.kept_pairs()]


def workload_of(layer: LayerTrace, window: int, keep: npt.NDArray[np.bool_]) -> AttentionWorkload:
    """The workload of one window of a layer of a trace under a mask; keep is bool [heads, queries, keys].

    The queries are the last ones of the window if there are fewer than keys.
    """
    tokens, queries = layer.valid_tokens[window], keep.shape[1]
    operands = AttentionOperands(
        q=layer.q[window, :, tokens - queries : tokens],
        k=layer.k[window, :, :tokens],
        v=layer.v[window, :, :tokens],
        scale=layer.scale,
        slopes=None if layer.bias.slopes is None else np.array(layer.bias.slopes, np.float32),
    )
    return AttentionWorkload.from_keep(
        keep,
        head_dim=layer.q.shape[3],
        kv_heads=len(layer.kv_head_ids),
        causal=layer.bias.kind != "none",
        window=layer.bias.window,
        operands=operands,
        hidden_size=layer.hidden_size,
    )


def kv_groups(layer: LayerTrace, kv_heads: Sequence[int]) -> LayerTrace:
    """A layer with some of its KV heads, and the query heads that share each; kv_heads are numbers among those stored, from 0."""
    group = len(layer.head_ids) // len(layer.kv_head_ids)
    kept, heads = list(kv_heads), [kv_head * group + member for kv_head in kv_heads for member in range(group)]
    slopes = layer.bias.slopes
    return replace(
        layer,
        q=layer.q[:, heads],
        k=layer.k[:, kept],
        v=layer.v[:, kept],
        bias=layer.bias if slopes is None else replace(layer.bias, slopes=tuple(slopes[head] for head in heads)),
        head_ids=tuple(layer.head_ids[head] for head in heads),
        kv_head_ids=tuple(layer.kv_head_ids[kv_head] for kv_head in kept),
    )
