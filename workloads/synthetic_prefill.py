"""Masks of a whole model's prefill, made layer by layer as packed words: for benchmarks of the machines, which need no scores.

The masks are X:M ones with X of 0, 8 or 16 in blocks of 64 keys, with what language models show:
- sink and local blocks: every query keeps 16 of the first block, of its own and of the one before; in its own the nearest;
- heavy blocks: 15 % of a head's blocks, of which three queries in four keep 16 and the others 8;
- fair blocks: 35 %, of which every second query keeps 8; the others are kept, 8 keys, by one query in ten;
- heavy-hitter keys: four of each block and head are among the kept ones of every query that keeps any.
Which blocks are heavy, and which other keys are kept, is drawn for each head. Heads of a KV head are drawn apart, where a real model's are
alike. About 8 % of the causal pairs of 4096 tokens are kept, as published for X:M on long contexts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

from xmsim.workloads.attention import WORD_BITS, AttentionWorkload

HIGH, LOW = 16, 8  # X
HEAVY_BLOCKS, FAIR_BLOCKS = 0.15, 0.35  # of a head
HIGH_IN_HEAVY, KEPT_IN_FAIR, KEPT_IN_OTHERS = 0.75, 0.5, 0.1  # of the queries
HEAVY_HITTERS = (0, 13, 27, 46)  # keys of a block, before it is turned by a number of its own
_CHOICES = 1024  # prepared sets of kept keys, for each X


@dataclass(frozen=True, slots=True)
class PrefillShape:
    """Dimensions of a model's attention over one prompt."""

    layers: int
    heads: int
    kv_heads: int
    tokens: int
    head_dim: int


LLAMA_3_8B = PrefillShape(layers=32, heads=32, kv_heads=8, tokens=4096, head_dim=128)


def prefill_layers(shape: PrefillShape, *, seed: int) -> Iterator[AttentionWorkload]:
    """The workloads of all layers, one after the other, so that one is in memory at a time; without operands."""
    random = np.random.default_rng(seed)
    blocks = -(-shape.tokens // WORD_BITS)
    high, low = _choices(random, HIGH), _choices(random, LOW)
    for _ in range(shape.layers):
        words = np.zeros((shape.heads, shape.tokens, blocks), np.uint64)
        for head in range(shape.heads):
            kind = random.random(blocks)
            turn = random.integers(0, WORD_BITS, blocks)
            turn[0] = 0  # the sink is the first key
            _fill_head(words[head], kind, turn, high, low, np.uint64(random.integers(1, 2**63)))
        yield AttentionWorkload.from_packed(words, keys=shape.tokens, head_dim=shape.head_dim, kv_heads=shape.kv_heads)


def _choices(random: np.random.Generator, count: int) -> npt.NDArray[np.uint64]:
    """Sets of `count` of 64 keys with the heavy hitters among them, as words."""
    order = random.random((_CHOICES, WORD_BITS))
    order[:, HEAVY_HITTERS] = -1
    chosen = np.argsort(order, axis=1)[:, :count].astype(np.uint64)
    return np.bitwise_or.reduce(np.uint64(1) << chosen, axis=1)


@njit(cache=True)
def _fill_head(
    words: npt.NDArray[np.uint64],
    kind: npt.NDArray[np.float64],
    turn: npt.NDArray[np.int64],
    high: npt.NDArray[np.uint64],
    low: npt.NDArray[np.uint64],
    seed: np.uint64,
) -> None:
    """All rows of a head. `kind` says below HEAVY_BLOCKS that a block is heavy, below that and FAIR_BLOCKS that it is fair."""
    state = seed
    for query in range(len(words)):
        own = query // WORD_BITS
        for block in range(own):
            state ^= state << np.uint64(13)  # xorshift64
            state ^= state >> np.uint64(7)
            state ^= state << np.uint64(17)
            chance = (state >> np.uint64(40)) / 2.0**24
            choice = np.int64(state & np.uint64(_CHOICES - 1))
            if block == 0 or block == own - 1:
                word = high[choice]
            elif kind[block] < HEAVY_BLOCKS:
                word = high[choice] if chance < HIGH_IN_HEAVY else low[choice]
            elif chance < (KEPT_IN_FAIR if kind[block] < HEAVY_BLOCKS + FAIR_BLOCKS else KEPT_IN_OTHERS):
                word = low[choice]
            else:
                continue
            shift = np.uint64(turn[block])
            words[query, block] = (word << shift) | (word >> ((np.uint64(WORD_BITS) - shift) & np.uint64(WORD_BITS - 1)))
        seen = query % WORD_BITS + 1  # of the own block
        nearest = min(seen, HIGH)
        words[query, own] = ((np.uint64(1) << np.uint64(nearest)) - np.uint64(1)) << np.uint64(seen - nearest)
