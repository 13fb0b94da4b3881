"""Constants of a core and its memory: reading, products, expanding, exponentials, selection, and steps of attention.

The steps are those of reference/kernels/cpu/rates.cpp: on data in the cache that is said, without a kernel around them. Data starts on
a cache line, as the kernels' own does: else every load would touch two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ctypes import c_int, c_int64, c_void_p
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from xmsim.configs.errors import XmsimError
from xmsim.reference.formats.tile_order import ELEMENT_CODES
from xmsim.reference.kernels.native import address, huge_empty, kernel, offered_isa
from xmsim.workloads.measuring.calibration.record import Constant
from xmsim.workloads.measuring.calibration.sampling import samples_ns, timed_ns

GROUPS = (1, 2, 4, 8, 12)  # tokens that one row of weights is multiplied with while it is in a register
ELEMENTS = {"float32": 4, "bfloat16": 2, "int8": 1}
LINE_BYTES, ROW_WORDS, BLOCK_KEYS = 64, 16, 64
STORED = ("whole", "expanded")
STORED_SPARSITY = 0.5
PACKED_GROUPS = (1, 8)
BLOCK_COLUMNS = 32  # outputs of a part of a layer
CACHED_ROWS = 256  # 16 KiB of rows
WORD_ROWS = {"few": 128, "many": 2048}  # words for them: with the rows in L1, or as many as 4096 bfloat16 inputs have
HEAD_DIMS = (64, 128)
TILE_KEYS = 256
TILE_ROWS = 64  # of a tile of attention, a list of keys for each
CHUNK_GROUP, CHUNK_TIMES = (
    8,
    2,
)  # bfloat16 and two groups of eight tokens: rows that are multiplied twice before the next ones come from memory
LIST_HEADS = 4  # that keep the same keys
DECIDED_KEYS = (2048, 8192)
FALLBACK_CACHES = {"l1": 32 << 10, "l2": 1 << 20, "l3": 32 << 20}
MEMORY_SAMPLES = 9
OVERLAP_GROUPS = (1, 4, 8)
MINUTE_GROUP = 8

Native = Callable[..., int]


class CoreRates:
    """The steps, on data of its own; each method yields constants.

    Raises:
        XmsimError: no compiled kernels, or a processor without AVX-512.
    """

    def __init__(self, threads: tuple[int, ...], seed: int = 0) -> None:
        if offered_isa() not in ("avx512", "amx"):
            raise XmsimError(
                f"calibrate: the model of a core is one of AVX-512, and the kernels offer {offered_isa() or 'nothing'} here; "
                "measure on this host instead (xmsim measure)"
            )
        self.threads, self._rng = threads, np.random.default_rng(seed)
        self.caches = cache_bytes()
        # parts of more than one thread read memory of their own, together four times the last cache
        self._memory_words = huge_empty((4 * self.caches["l3"] // 8,), np.uint64)
        self._memory_words[:] = self._rng.integers(1, 1 << 62, len(self._memory_words), dtype=np.uint64)
        self.fork_ns = {count: self._fork_ns(count) for count in threads}

    def all(self) -> Iterator[Constant]:
        """Every constant of the core and its memory."""
        yield from self.forks()
        yield from self.reads()
        yield from self.chases()
        yield from self.gathers()
        yield from self.rows()
        yield from self.expands()
        yield from self.token_steps()
        yield from self.tiles()
        yield from self.attention()
        yield from self.selections()
        yield from self.predictions()
        yield from self.decisions()

    def forks(self) -> Iterator[Constant]:
        """Handing a call to threads and waiting for all: an empty part each."""
        run, nothing = self._native("xm_rate_lists", c_void_p, c_int64, c_int64, c_int64, c_int), np.zeros(4, np.uint64)
        for count in self.threads:
            samples = [timed_ns(run, address(nothing), 0, 4, 1, count) for _ in range(201)]
            yield Constant.of_samples("fork", {"threads": count}, "call", samples)

    def reads(self) -> Iterator[Constant]:
        """Reading in order, a set of each level; every thread has its own."""
        sets = {"l1": self.caches["l1"] // 2, "l2": self.caches["l2"] // 2, "l3": self.caches["l3"] // 4}
        for level, nbytes in sets.items():
            yield from self._reads(level, nbytes)
        yield from self.memory_steps()

    def memory_steps(self) -> Iterator[Constant]:
        """Lines read from memory, and rows that are multiplied on the way, by turns: what hides behind what is told from their ratio.

        Chunks: as many rows as fit L1 come from memory, and are multiplied once more there before the next.
        """
        read = self._native("xm_rate_reads", c_void_p, c_int64, c_int64, c_int64, c_int)
        multiply = self._native("xm_rate_rows", c_int, c_int, c_void_p, c_void_p, c_int64, c_int64, c_void_p, c_int64, c_int64, c_int)
        at, element, words = (
            address(self._memory_words),
            ELEMENT_CODES["bfloat16"],
            {group: self._words(WORD_ROWS["many"], group) for group in GROUPS},
        )
        for count in self.threads:
            rows = self._memory_words.nbytes // LINE_BYTES // count // CACHED_ROWS * CACHED_ROWS
            samples: dict[int, list[float]] = {group: [] for group in (0, *OVERLAP_GROUPS)}
            chunked: dict[str, list[float]] = {stored: [] for stored in STORED}
            for _ in range(MEMORY_SAMPLES):
                for stored, spent_ns in chunked.items():
                    spent_ns.append(self._chunk_row_ns(stored, count))
                samples[0].append(timed_ns(read, at, rows * 8, rows * 8, 1, count) / rows)
                for group in OVERLAP_GROUPS:
                    spent = timed_ns(multiply, element, group, 0, at, rows, rows, address(words[group]), WORD_ROWS["many"], 1, count)
                    samples[group].append(spent / rows)
            yield Constant.of_samples("read", {"from": "memory", "threads": count}, "64-byte line", samples.pop(0))
            for stored, spent_ns in chunked.items():
                yield Constant.of_samples("chunk", {"stored": stored, "from": "memory", "threads": count}, "row", spent_ns)
            for group, spent_ns in samples.items():
                of = {"element": "bfloat16", "stored": "whole", "group": group, "words": "many", "from": "memory", "threads": count}
                yield Constant.of_samples("row", of, "row", spent_ns)

    def _chunk_row_ns(self, stored: str, threads: int) -> float:
        """A bfloat16 row of those that come from memory in chunks that fit L1, each multiplied twice there before the next."""
        run = self._native("xm_rate_chunks", c_int, c_int, c_void_p, c_void_p, *[c_int64] * 4, c_void_p, c_int64, c_int64, c_int)
        share = self._memory_words.nbytes // threads // LINE_BYTES * LINE_BYTES
        at, words = address(self._memory_words), self._words(WORD_ROWS["few"], CHUNK_GROUP)
        if stored == "whole":
            bitmap, values, chunks = 0, at, share // (CACHED_ROWS * LINE_BYTES)
        else:  # random words are a bitmap of half the weights: 4 and 32 bytes a row
            bitmap, values, chunks = at, at + share // 8 // LINE_BYTES * LINE_BYTES, share // (CACHED_ROWS * (LINE_BYTES // 2 + 8))
        operands = (bitmap, values, chunks, CACHED_ROWS // 16, share, share, address(words), WORD_ROWS["few"], CHUNK_TIMES)
        return timed_ns(run, ELEMENT_CODES["bfloat16"], CHUNK_GROUP, *operands, threads) / (chunks * CACHED_ROWS)

    def minute(self, threads: int) -> tuple[float, float]:
        """What drifts on a host that others use too, in a few milliseconds: a line from memory for each of so many threads, and a step of
        one core (rows of bfloat16 times 8 tokens, in L1); nanoseconds, the middle one of three."""
        read = self._native("xm_rate_reads", c_void_p, c_int64, c_int64, c_int64, c_int)
        multiply = self._native("xm_rate_rows", c_int, c_int, c_void_p, c_void_p, c_int64, c_int64, c_void_p, c_int64, c_int64, c_int)
        words, lines = self._words(WORD_ROWS["few"], MINUTE_GROUP), self._memory_words.nbytes // LINE_BYTES // threads // 64 * 64
        at, passes = address(self._memory_words), 400
        reads = [timed_ns(read, at, lines * 8, lines * 8, 1, threads) / lines for _ in range(3)]
        steps = [
            timed_ns(multiply, ELEMENT_CODES["bfloat16"], MINUTE_GROUP, 0, at, CACHED_ROWS, 0, address(words), WORD_ROWS["few"], passes, 1)
            / (passes * CACHED_ROWS)
            for _ in range(3)
        ]
        return sorted(reads)[1], sorted(steps)[1]

    def _reads(self, level: str, nbytes: int) -> Iterator[Constant]:
        run, words = self._native("xm_rate_reads", c_void_p, c_int64, c_int64, c_int64, c_int), nbytes // 8 // 64 * 64
        for count in self.threads:
            samples = self._samples(partial(run, address(self._memory_words), words, words), words * 8 / LINE_BYTES, count)
            yield Constant.of_samples("read", {"from": level, "threads": count}, "64-byte line", samples)

    def chases(self) -> Iterator[Constant]:
        """Loads that each wait for the one before, at places without an order, by one thread."""
        run = self._native("xm_rate_chases", c_void_p, c_int64)
        sets = {"l2": self.caches["l2"] // 2, "l3": self.caches["l3"] // 4, "memory": self._memory_words.nbytes}
        for level, nbytes in sets.items():
            walk = self._rng.permutation(nbytes // LINE_BYTES) * (LINE_BYTES // 8)
            places = self._memory_words[: nbytes // 8]
            places[walk] = np.roll(walk, -1)
            samples = samples_ns(partial(run, address(places)), 1)
            yield Constant.of_samples("chase", {"from": level, "threads": 1}, "load", samples)

    def gathers(self) -> Iterator[Constant]:
        """Rows of keys or values, as attention reads them.

        From L3: a set of its own for every thread, in no order. From memory: one row of every eight, ascending, asked for ahead. In
        bursts: runs of 64 rows of two streams by turns, not asked for.
        """
        run = self._native("xm_rate_gathers", c_void_p, c_void_p, c_int64, c_int64, c_int64, c_int64, c_int)
        at = address(self._memory_words)
        for row_bytes, count in product((128, 256, 512), self.threads):
            rows = self.caches["l3"] // 8 // row_bytes
            lists = np.stack([self._rng.permutation(rows) + part * rows for part in range(count)]).astype(np.int32)
            samples = self._samples(partial(run, at, address(lists), rows, row_bytes, 0), rows * row_bytes / LINE_BYTES, count)
            yield Constant.of_samples("gather", {"from": "l3", "row_bytes": row_bytes, "threads": count}, "64-byte line", samples)
        row_bytes, apart = 256, 8
        for count in self.threads:
            share = self._memory_words.nbytes // row_bytes // count
            streams = np.arange(share // 2 // BLOCK_KEYS * BLOCK_KEYS).reshape(-1, BLOCK_KEYS)
            bursts = np.stack([streams, streams + share // 2], axis=1).reshape(-1)
            for name, ahead in (("gather", BLOCK_KEYS), ("burst", 0)):
                samples = []
                for _ in range(MEMORY_SAMPLES):
                    kept = share // apart
                    one = np.arange(kept) * apart + self._rng.integers(0, apart, kept) if name == "gather" else bursts
                    lists = np.ascontiguousarray(one + np.arange(count)[:, None] * share, np.int32)
                    spent = timed_ns(run, at, address(lists), len(one), row_bytes, ahead, 1, count)
                    samples.append(spent / (len(one) * row_bytes / LINE_BYTES))
                of = {"from": "memory", "row_bytes": row_bytes, "threads": count}
                yield Constant.of_samples(name, of, "64-byte line", samples)

    def rows(self) -> Iterator[Constant]:
        """A row of 16 words in L1, whole or expanded, times some tokens, whose words are few or many."""
        run = self._native("xm_rate_rows", c_int, c_int, c_void_p, c_void_p, c_int64, c_int64, c_void_p, c_int64, c_int64, c_int)
        for element, group, stored, many, count in product(ELEMENTS, GROUPS, STORED, WORD_ROWS, self.threads):
            (bitmap, values), words = self._stored(element, stored), self._words(WORD_ROWS[many], group)
            step = partial(
                run, ELEMENT_CODES[element], group, _at(bitmap), address(values), CACHED_ROWS, 0, address(words), WORD_ROWS[many]
            )
            samples = self._samples(step, CACHED_ROWS, count)
            of = {"element": element, "stored": stored, "group": group, "words": many, "from": "l1", "threads": count}
            yield Constant.of_samples("row", of, "row", samples)

    def expands(self) -> Iterator[Constant]:
        """A row expanded from bitmap and values into L1."""
        run = self._native("xm_rate_expands", c_int, c_void_p, c_void_p, c_int64, c_int64, c_int)
        for element, count in product(ELEMENTS, self.threads):
            bitmap, values = self._stored(element, "expanded")
            samples = self._samples(
                partial(run, ELEMENT_CODES[element], _at(bitmap), address(values), CACHED_ROWS),
                CACHED_ROWS,
                count,
            )
            yield Constant.of_samples("expand", {"element": element, "threads": count}, "row", samples)

    def token_steps(self) -> Iterator[Constant]:
        """What a layer does to tokens beside its products, by one thread: inputs made ready for a group of one or eight, sums made outputs.

        Inputs and outputs of int8 weights are bfloat16, of others what the weights are.
        """
        pack = self._native("xm_rate_packs", c_int, c_void_p, c_int, c_int64, c_int64, c_int, c_int64)
        tokens, inputs = 16, 2048
        for element, group in product(ELEMENTS, PACKED_GROUPS):
            given = "float32" if element == "float32" else "bfloat16"
            x = self._numbers(given, tokens, inputs)
            step = partial(pack, ELEMENT_CODES[element], address(x), ELEMENT_CODES[given], tokens, inputs, group)
            samples = samples_ns(step, tokens * inputs / LINE_BYTES)
            yield Constant.of_samples("pack", {"element": element, "group": group, "threads": 1}, "64 inputs", samples)
        finish = self._native("xm_rate_finishes", c_int, *[c_void_p] * 5, c_int, *[c_int64] * 3)
        blocks = 64
        sums, scales, steps = (self._numbers("float32", 1, count) for count in (tokens * BLOCK_COLUMNS, blocks * BLOCK_COLUMNS, tokens))
        for element in ELEMENTS:
            given = "float32" if element == "float32" else "bfloat16"
            y = self._numbers(given, tokens, blocks * BLOCK_COLUMNS)
            operands = [address(x) for x in (sums, scales, scales, steps, y)]  # any 32 bits are a column's sum
            step = partial(finish, int(element == "int8"), *operands, ELEMENT_CODES[given], tokens, blocks)
            samples = samples_ns(step, tokens * blocks)
            yield Constant.of_samples("finish", {"element": element, "threads": 1}, "32 outputs of a token", samples)

    def tiles(self) -> Iterator[Constant]:
        """Two weight tiles times 16 or 32 tokens on AMX; nothing on a host without it."""
        if offered_isa() != "amx":
            return
        run = self._native("xm_rate_tiles", c_int, c_int, c_int64, c_int64, c_int)
        for element, tokens, count in product(("bfloat16", "int8"), (16, 32), self.threads):
            samples = self._samples(partial(run, int(element == "int8"), tokens, 256), 256, count)
            yield Constant.of_samples("tiles", {"element": element, "tokens": tokens, "threads": count}, "pair of tiles", samples)

    def attention(self) -> Iterator[Constant]:
        """One query row of a tile against up to 64 listed keys of its 256, and the lists."""
        run = self._native("xm_rate_attend", c_int, *[c_void_p] * 4, c_int64, c_int, c_int, c_int64, c_int)
        for dtype, dim, kept, count in product(("bfloat16", "float32"), HEAD_DIMS, (16, 32, 48, 64), self.threads):
            q, keys, values = (self._numbers(dtype, rows, dim) for rows in (TILE_ROWS, TILE_KEYS, TILE_KEYS))
            keep = self._rng.random((TILE_ROWS, TILE_KEYS)).argsort(axis=1) < kept
            words = _on_lines(np.packbits(keep, axis=1, bitorder="little").view(np.uint64))
            operands = [address(x) for x in (q, keys, values, words)]
            step = partial(run, int(dtype == "bfloat16"), *operands, TILE_ROWS, TILE_KEYS // 64, dim)
            samples = self._samples(step, TILE_ROWS, count)
            yield Constant.of_samples("attend", {"element": dtype, "head_dim": dim, "keys": kept, "threads": count}, "row", samples)
        lists_run = self._native("xm_rate_lists", c_void_p, c_int64, c_int64, c_int64, c_int)
        for words_a_list, count in product((4, 16), self.threads):
            words = self._rng.integers(0, 1 << 62, 256, dtype=np.uint64) & self._rng.integers(0, 1 << 62, 256, dtype=np.uint64)
            samples = self._samples(partial(lists_run, address(words), len(words), words_a_list), 256 // words_a_list, count)
            yield Constant.of_samples("list", {"words": words_a_list, "threads": count}, "list", samples)

    def selections(self) -> Iterator[Constant]:
        """Exponentials, and the largest of 64 numbers."""
        run = self._native("xm_rate_exponentials", c_void_p, c_int64, c_int64, c_int)
        values = -np.abs(self._rng.standard_normal(1024, dtype=np.float32)) * 8
        for count in self.threads:
            samples = self._samples(partial(run, address(values), len(values)), len(values) / 16, count)
            yield Constant.of_samples("exponential", {"threads": count}, "16 numbers", samples)
        select = self._native("xm_rate_selections", c_void_p, c_int64, c_int, c_int64, c_int)
        numbers = self._rng.standard_normal((64, 64), dtype=np.float32)
        for kept, count in product((8, 16), self.threads):
            samples = self._samples(partial(select, address(numbers), 64, kept), 64, count)
            yield Constant.of_samples("select", {"kept": kept, "threads": count}, "block of 64", samples)

    def predictions(self) -> Iterator[Constant]:
        """Scores of 64 low-bit keys for four query heads, and what X:M keeps of them, by one thread."""
        run = self._native("xm_rate_predictions", *[c_void_p] * 9, *[c_int64] * 3, c_int, c_int, c_int64)
        heads, blocks = LIST_HEADS, 32
        for bits, dim in product((4, 8), HEAD_DIMS):
            codes = _on_lines(self._rng.integers(0, 256, blocks * dim * 64 * bits // 8, dtype=np.uint8))
            q = self._rng.integers(-7, 8, (heads, dim), dtype=np.int8)
            offsets = q.sum(axis=1, dtype=np.int32) << (bits - 1)
            factors = np.full(heads, 0.01 if bits == 4 else 0.001, np.float32)
            scores, exponentials = (huge_empty((heads, blocks, 64), np.float32) for _ in range(2))
            tops, sums = (np.zeros((heads, blocks), np.float32) for _ in range(2))
            words = np.zeros(blocks, np.uint64)
            parts = [address(x) for x in (codes, q, offsets, factors, scores, exponentials, tops, sums, words)]
            for step, selects in (("predict", 0), ("select_xm", 1)):
                if selects and (bits, dim) != (4, HEAD_DIMS[-1]):
                    continue  # what is selected does not depend on them
                samples = self._samples(partial(run, *parts, heads, blocks, dim, bits, selects), blocks, 1)
                of = {"threads": 1} if selects else {"bits": bits, "head_dim": dim, "threads": 1}
                yield Constant.of_samples(step, of, "block of 64 keys, 4 heads", samples)

    def decisions(self) -> Iterator[Constant]:
        """Lists of four rows that float32 leaves in doubt, decided in float64, by one thread: all blocks' shares, or the order of two keys.

        At two lengths: a key may cost more where there are more.
        """
        run = self._native("xm_rate_decisions", c_void_p, c_void_p, c_int64, c_int64, c_int, c_int64)
        for keys, (step, ranks) in product(DECIDED_KEYS, (("classify_again", 0), ("rank_again", 1))):
            scores = self._numbers("float32", LIST_HEADS, keys)
            tops = np.ascontiguousarray(scores.reshape(LIST_HEADS, -1, BLOCK_KEYS).max(axis=-1))
            samples = samples_ns(partial(run, address(scores), address(tops), LIST_HEADS, keys // BLOCK_KEYS, ranks), keys, samples=9)
            yield Constant.of_samples(step, {"keys": keys, "threads": 1}, "key of 4 heads", samples)

    def _fork_ns(self, count: int) -> float:
        run, nothing = self._native("xm_rate_lists", c_void_p, c_int64, c_int64, c_int64, c_int), np.zeros(4, np.uint64)
        # the fastest quarter: of a host that others use too, the middle one may be longer than a whole short step
        return sorted(timed_ns(run, address(nothing), 0, 4, 1, count) for _ in range(201))[50]

    def _samples(self, run: Callable[..., object], steps: float, count: int) -> list[float]:
        return samples_ns(run, steps, after=(count,), offset_ns=self.fork_ns[count])

    def _stored(self, element: str, stored: str) -> tuple[np.ndarray | None, np.ndarray]:
        """CACHED_ROWS rows, whole (no bitmap), or as bitmap and values."""
        values = _on_lines(self._rng.integers(0, 120, CACHED_ROWS * LINE_BYTES, dtype=np.uint8))
        if stored == "whole":
            return None, values
        keep = self._rng.random(CACHED_ROWS * LINE_BYTES // ELEMENTS[element]) >= STORED_SPARSITY
        return _on_lines(np.packbits(keep, bitorder="little")), _on_lines(np.pad(values, (0, 8 * LINE_BYTES)))

    def _words(self, rows: int, group: int) -> np.ndarray:
        return _on_lines(self._rng.integers(0, 120, rows * group * 4, dtype=np.uint8))

    def _numbers(self, dtype: str, rows: int, dim: int) -> np.ndarray:
        values = self._rng.standard_normal((rows, dim), dtype=np.float32)
        return _on_lines(values if dtype == "float32" else (values.view(np.uint32) >> 16).astype(np.uint16))

    @staticmethod
    def _native(name: str, *arguments: Any) -> Native:
        from ctypes import c_uint64

        run = kernel(name, c_uint64, *arguments)
        assert run is not None  # offered_isa() said that there are kernels
        return run


def cache_bytes() -> dict[str, int]:
    """Sizes of the caches that the first core sees, as Linux tells; usual ones where it does not."""
    found = dict(FALLBACK_CACHES)
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            kind, level, size = ((index / name).read_text().strip() for name in ("type", "level", "size"))
        except OSError:
            continue
        if kind != "Instruction" and f"l{level}" in found and size[-1] in "KM":
            found[f"l{level}"] = int(size[:-1]) << {"K": 10, "M": 20}[size[-1]]
    return found


def _on_lines(array: np.ndarray) -> np.ndarray:
    """The same, from the start of a cache line on."""
    own = huge_empty(array.shape, array.dtype)
    own[...] = array
    return own


def _at(array: np.ndarray | None) -> int:
    return 0 if array is None else address(array)
