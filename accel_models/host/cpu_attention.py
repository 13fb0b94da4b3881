"""Attention on a core: steps of one query row against up to 64 kept keys, lists of keys, and keys and values from where they lie.

The walk is that of reference/kernels/cpu/attention_tile.h; times of its steps are the host's constants.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xmsim.accel_models.host.constants import LINE_BYTES, MEMORY, HostConstants
from xmsim.accel_models.host.cpu_linear import ELEMENT_BYTES
from xmsim.accel_models.host.prediction import HostPrediction, between, by_turns_ns
from xmsim.workloads.attention import AttentionWorkload
from xmsim.workloads.measuring.calibration.core_rates import DECIDED_KEYS

TILE_ROWS = 64  # query rows of a tile, the heads that share a KV head among them
TILE_KEYS, FEW_KEYS = 256, 1024  # keys listed at once: of a tile, and where rows are few
PIECE_KEYS, LIST_STEP, WORD_KEYS, WORD_BYTES = 64, 16, 64, 8
MEASURED_DIMS = (64, 128)
GATHERED_BYTES = (128, 256, 512)  # rows whose gathering was measured


@dataclass(frozen=True, slots=True)
class Steps:
    """What a part of the work is made of."""

    lists: float  # of keys
    words: float  # mask words read for them
    attend: dict[int, float]  # {keys of a step, a multiple of 16: steps}

    @property
    def attends(self) -> float:
        return sum(self.attend.values())


def sparse_steps(counts: npt.NDArray[np.integer], keys_a_list: int, heads_a_list: int = 1) -> Steps:
    """Steps for lists of so many kept keys: pieces of 64, the last one filled up to a multiple of 16.

    Args:
        counts: kept keys of each list; those that keep none cost the look at their words.
        heads_a_list: query heads that go over each list.
    """
    kept = counts[counts > 0]
    full, rest = int((kept // PIECE_KEYS).sum()), kept % PIECE_KEYS
    filled, times = np.unique(-(-rest[rest > 0] // LIST_STEP) * LIST_STEP, return_counts=True)
    attend = {PIECE_KEYS: float(full * heads_a_list)}
    for size, count in zip(filled, times, strict=True):
        attend[int(size)] = attend.get(int(size), 0.0) + float(count * heads_a_list)
    return Steps(float(counts.size), float(counts.size * keys_a_list / WORD_KEYS), attend)


def range_counts(words: npt.NDArray[np.uint64], keys_a_list: int) -> npt.NDArray[np.int64]:
    """Kept keys of every row in every run of `keys_a_list` keys; words [.., words] -> int64 [.., runs]."""
    words_a_list = keys_a_list // WORD_KEYS
    padding = -words.shape[-1] % words_a_list
    padded = np.pad(words, [(0, 0)] * (words.ndim - 1) + [(0, padding)])
    return np.bitwise_count(padded).reshape(*padded.shape[:-1], -1, words_a_list).sum(axis=-1, dtype=np.int64)


def prefill(host: HostConstants, workload: AttentionWorkload, *, element: str, threads: int) -> HostPrediction:
    """Our sparse attention of whole windows, the mask given (reference.kernels.attention.sparse_attention).

    Raises:
        MissingConstantError: the host does not say what a step takes.
    """
    counts = range_counts(workload.words, TILE_KEYS)
    steps = sparse_steps(counts, TILE_KEYS)
    row_bytes = workload.head_dim * ELEMENT_BYTES[element]
    # the first query row of a tile that keeps a key fetches it, and its value, from the cache that holds them all; no order helps there
    lines = 2 * _kept_by_tile(workload) * row_bytes / LINE_BYTES
    near = min(GATHERED_BYTES, key=lambda known: abs(known - row_bytes))
    operands = lines * host.ns("gather", **{"from": "l3", "row_bytes": near, "threads": threads})
    # a line of mask words serves two ranges, and nothing can be listed before it is there
    masks = counts.size * TILE_KEYS / WORD_KEYS * WORD_BYTES / LINE_BYTES
    masks *= host.ns("chase", **{"from": host_level(host, workload.words.nbytes), "threads": threads})
    lists = list_ns(host, steps, 4, threads)
    products = attend_ns(host, steps, workload.head_dim, element, threads)
    return _one_after_the_other(host, threads, "attention", 0.0, memory=operands, masks=masks + lists, products=products)


def decode(host: HostConstants, workload: AttentionWorkload, *, element: str, threads: int, shared_lists: bool = True) -> HostPrediction:
    """One step of decoding on the kept keys, of which every KV head's are read from memory once.

    Args:
        shared_lists: the query heads of a KV head keep the same keys, listed once; else each has its own list.
    """
    group = workload.group
    words = workload.words.reshape(workload.kv_heads, group, workload.queries, -1)
    union = np.bitwise_or.reduce(words, axis=1)
    kept = int(np.bitwise_count(union).sum())
    dense = kept == workload.kv_heads * workload.allowed_pairs()
    steps = sparse_steps(range_counts(union if shared_lists else workload.words, FEW_KEYS), FEW_KEYS, group if shared_lists else 1)
    lines = 2 * kept * workload.head_dim * ELEMENT_BYTES[element] / LINE_BYTES
    lists = 0.0 if dense else list_ns(host, steps, 16, threads)
    products = attend_ns(host, steps, workload.head_dim, element, threads)
    # the heads of a group take a piece of 64 keys one after the other: memory rests meanwhile, and starts a burst with the next
    of = {"from": MEMORY, "row_bytes": 256}
    alone, crowded = (lines * host.ns("burst" if dense else "gather", **of, threads=count) for count in (1, threads))
    memory = by_turns_ns(alone, crowded, products + lists)
    return _one_after_the_other(host, threads, "decode", _passed_bytes(host), memory=memory, masks=lists, products=products)


def predict_xm(
    host: HostConstants, workload: AttentionWorkload, *, bits: int, threads: int, classified_again: int = 0, ranked_again: int = 0
) -> HostPrediction:
    """Low-bit scores of one step of decoding and the keys that X:M keeps of them, lists shared by the heads of a KV head.

    Args:
        classified_again, ranked_again: lists whose blocks, or some of whose keys alone, are decided in float64, as they lie too close to
            a cut for float32 (workloads.measuring.decided_again counts them). One thread decides a list.
    """
    blocks = workload.kv_heads * -(-workload.keys // WORD_KEYS)
    heads = workload.group / 4  # the constants are of four heads
    dim = min(MEASURED_DIMS, key=lambda known: abs(known - workload.head_dim))
    predicted = host.ns("predict", bits=bits, head_dim=dim, threads=threads) * workload.head_dim / dim
    codes = workload.kv_heads * workload.keys * workload.head_dim * bits / 8 / LINE_BYTES
    scores = 2 * workload.heads * workload.keys * 4 / LINE_BYTES  # with their exponentials, float32: read before they are written, written
    memory = (codes + 2 * scores) * host.ns("read", **{"from": MEMORY, "threads": threads})
    again = sum(
        -(-lists // threads) * threads * _decide_again_ns(host, step, workload.keys)
        for step, lists in (("classify_again", classified_again), ("rank_again", ranked_again))
        if lists
    )
    return _one_after_the_other(
        host,
        threads,
        "prediction",
        _passed_bytes(host),
        memory=memory,
        masks=blocks * heads * host.ns("select_xm", threads=threads),
        products=blocks * heads * predicted,
        again=heads * again,
        forks=2,
    )


def _decide_again_ns(host: HostConstants, step: str, keys: int) -> float:
    """One list of four heads in float64; what a key costs lies on a line through two lengths."""
    return keys * between({known: host.ns(step, keys=known, threads=1) for known in DECIDED_KEYS}, keys)


def _passed_bytes(host: HostConstants) -> float:
    """Since the attention of the step before: all other layers, which no cache holds."""
    return 2.0 * host.cache_bytes["l3"]


def _kept_by_tile(workload: AttentionWorkload) -> float:
    """Keys that any query row of a tile keeps, over all tiles."""
    tile_queries = max(1, TILE_ROWS // workload.group)
    kept = 0
    for kv_head in range(workload.kv_heads):
        heads = workload.words[kv_head * workload.group : (kv_head + 1) * workload.group]
        rows = np.pad(np.bitwise_or.reduce(heads, axis=0), ((0, -workload.queries % tile_queries), (0, 0)))
        tiles = np.bitwise_or.reduce(rows.reshape(-1, tile_queries, rows.shape[1]), axis=1)
        kept += int(np.bitwise_count(tiles).sum())
    return float(kept)


def attend_ns(host: HostConstants, steps: Steps, head_dim: int, element: str, threads: int) -> float:
    """All steps of query rows; other head dimensions than those measured lie on the line through these."""
    return sum(count * step_ns(host, keys, head_dim, element, threads) for keys, count in steps.attend.items() if count)


def list_ns(host: HostConstants, steps: Steps, words: int, threads: int) -> float:
    """All lists of so many mask words, less those that the steps of query rows hold already: negative where many rows share one."""
    return steps.lists * host.ns("list", words=words, threads=threads) - steps.attends * host.ns("list", words=4, threads=threads)


def step_ns(host: HostConstants, keys: int, head_dim: int, element: str, threads: int) -> float:
    """One query row against so many keys, a multiple of 16 up to 64, listed from four mask words."""
    low, high = (host.ns("attend", element=element, head_dim=dim, keys=keys, threads=threads) for dim in MEASURED_DIMS)
    share = (head_dim - MEASURED_DIMS[0]) / (MEASURED_DIMS[1] - MEASURED_DIMS[0])
    return low + max(share, -0.5) * (high - low)


def host_level(host: HostConstants, nbytes: float) -> str:
    """The nearest cache that holds so many bytes."""
    return next((level for level in ("l2", "l3") if nbytes <= host.cache_bytes[level]), MEMORY)


def _one_after_the_other(
    host: HostConstants, threads: int, call: str, passed_bytes: float, *, forks: int = 1, **work_ns: float
) -> HostPrediction:
    """Work that waits for its own operands, cut finely enough for all threads to end together; times are of one thread of them."""
    fork = forks * host.ns("fork", threads=threads) if threads > 1 else 0.0
    parts = {"call": host.call_ns(call, passed_bytes), "fork": fork} | {name: ns / threads for name, ns in work_ns.items()}
    return HostPrediction(sum(parts.values()), parts)
