"""Print the table of predictions of docs/kernels/cuda.md: python docs/make_cuda_predictions.py

Every number is predicted: the longest of what memory, instruction issue, shared memory and tensor cores need, plus launches. Nothing was
measured on a GPU for it. Instruction counts are those of compiled loops (docs/cuda_loops.py), which a test counts again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# An H200, from its data sheet and the derivations of the kernels' design notes; none of it was measured here.
MULTIPROCESSORS = 132
CLOCK_HZ = 1.83e9
ISSUES_A_CLOCK = 4  # warp instructions, of a multiprocessor
SHARED_BYTES_A_CLOCK = 128  # of a multiprocessor
TENSOR_FLOP_A_CLOCK = 4096 * 0.62  # bfloat16; mma.sync reaches about 62 % of what wgmma does (assumed, from FlashAttention 2 on an H100)
WGMMA_FLOP_A_CLOCK = 4096 * 0.58  # FlashAttention 3 without overlap inside a warpgroup: 570 of 989 TFLOP/s (published ablation, H100)
L2_BYTES_A_CLOCK = 25  # of a multiprocessor (not verified)
MEMORY_BYTES_A_SECOND = 4.2e12  # of a large copy
MEMORY_SHARE = 0.85  # of that, by a kernel that streams, ours or the library's (assumed)
ISSUE_SHARE = 0.75  # of the issue slots that a kernel bound by instructions fills (assumed)
LAUNCH_SECONDS = 1.2e-6  # of each kernel after another in a graph (assumed)
READ_SECONDS = 0.8e-6  # until a read of memory comes that others wait for (assumed)
CACHED_READ_SECONDS = 0.3e-6  # the same of what the kernel before has written, from the second-level cache (assumed)
DENSE_ATTENTION_FLOP_A_SECOND = 6.0e14  # causal prefill by the best library kernels on an H100 (published)

HEADS, KV_HEADS, DIM, TILE = 32, 8, 128, 64


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop of a compiled kernel."""

    source: str
    kernel: str  # part of its mangled name
    instructions: int


DENSE = Loop("linear_dense.cu", "dense_rowsINS_4Bf16E", 150)  # 1024 weights
TCA_BME = Loop("linear_tca_bme.cu", "tca_bme_rowsINS_4Bf16ELi8E", 253)  # a warp's 16 × 64 of a GroupTile
MACKO = Loop("linear_macko.cu", "macko_rowsINS_4Bf16E", 94)  # 256 stored weights
TEAL = Loop("linear_teal.cu", "teal_columnsINS_4Bf16E", 88)  # 32 active inputs × 32 outputs
TEAL_LIST = Loop("linear_teal.cu", "teal_columnsINS_4Bf16E", 178)  # around it: 128 inputs are listed
SPDP = Loop("linear_spdp.cu", "spdp_columnsINS_4Bf16E", 266)  # 32 active columns × 32 rows
SPDP_LIST = Loop("linear_spdp.cu", "spdp_columnsINS_4Bf16E", 387)  # around it: 128 columns are listed
PREFILL = Loop("attention_prefill.cu", "prefill_tilesINS_4Bf16ELi128E", 1010)  # 16 queries × 64 keys
PREFILL_COPY = Loop("attention_prefill.cu", "prefill_tilesINS_4Bf16ELi128E", 101)  # inside it, twice, with two rounds each
HOPPER = Loop("attention_prefill_hopper.cu", "prefill_hopperINS_4Bf16ELi128E", 677)  # a warp's 16 queries × 64 keys
DECODE = Loop("attention_decode.cu", "attend_keptINS_4Bf16ELi128E", 665)  # 16 keys and values for up to 8 heads
DECODE_LIST = Loop("attention_decode.cu", "attend_keptINS_4Bf16ELi128E", 215)  # inside it: kept keys of 512 are listed
DECODE_ENTRY = Loop("attention_decode.cu", "attend_keptINS_4Bf16ELi128E", 11)  # inside that: a kept key of the 16 of each lane
SCORE = Loop("decode_scores.cu", "score_keysILi128ELi4ELi4E", 549)  # 64 keys for 4 heads, exponentials in float64 among them
WEIGH = Loop("decode_select.cu", "select_keysILi4ELb0Es", 84)  # 64 keys for 4 heads
MERGE = Loop("decode_select.cu", "select_keysILi4ELb0Es", 101)  # one of two steps of four lanes that sort a block, 8 blocks at once
LOOPS = (
    DENSE,
    TCA_BME,
    MACKO,
    TEAL,
    TEAL_LIST,
    SPDP,
    SPDP_LIST,
    PREFILL,
    PREFILL_COPY,
    HOPPER,
    DECODE,
    DECODE_LIST,
    DECODE_ENTRY,
    SCORE,
    WEIGH,
    MERGE,
)

# Clocks for which a warp holds shared memory and the first-level cache of its multiprocessor, which serve 32 lanes a clock if no two want
# different words of a bank. Population counts go on meanwhile: 2 clocks each, 17 of a TCA_BME, half of what shared memory takes.
TCA_BME_CLOCKS = 72  # of a TCA_BME: 32 for weights, 18 for words and sums, 8 for inputs, 4 for half words, 10 for copies
MACKO_CLOCKS = 8 * 3.3 + 6  # of a MACKO: the fullest bank has 3.3 of 32 inputs (counted on random rows); shuffles
TEAL_CLOCKS = 16 + 4 + 16  # of a TEAL and its share of a list: 512 bytes a read, records, and what writes them
SPDP_CLOCKS = 16 * (2 * 2 + 1) + 20  # of an SPDP and its share of a list: two reads of two runs each, records, and what writes them
PREFILL_BIAS = 84  # of the prefill loops: ALiBi's, which are skipped without it (counted as the length of a forward branch)
RANKED_AROUND = 300  # instructions of 8 blocks beside their loops: sorts of sixteen, places, words (counted without the branches in doubt)
SELECT_WARPS = 264 * 8  # of a launch
CLASSES = 220  # of a warp for the classes of 8 blocks (counted likewise)
DECODE_WARPS = 4 * 49 * KV_HEADS  # of a launch
MOST_LISTED = 8  # of 16 keys, by the lane that lists most, where a tenth is kept (estimated)
RANKED_BLOCKS = 0.65  # of the blocks, where a tenth of the keys is kept (estimated)


@dataclass(frozen=True, slots=True)
class Prediction:
    """One kernel, or a few that follow each other, on one shape."""

    kernel: str
    shape: str
    memory: float  # seconds
    issue: float
    other: float  # shared memory, second cache or tensor cores, the longest
    launches: int
    extra: float  # seconds of steps that nothing overlaps
    baseline: float  # seconds of the library's dense kernel
    goal: str  # of the project
    wanted: float | None  # the goal as a ratio over the baseline

    @property
    def seconds(self) -> float:
        return max(self.memory, self.issue, self.other) + self.launches * LAUNCH_SECONDS + self.extra

    @property
    def ratio(self) -> float:
        return self.baseline / self.seconds

    @property
    def bound(self) -> str:
        kinds = {"memory": self.memory, "instructions": self.issue, "cache, shared memory, tensor cores": self.other}
        return max(kinds, key=lambda kind: kinds[kind])


def streamed(nbytes: float) -> float:
    """Seconds to read bytes once."""
    return nbytes / (MEMORY_BYTES_A_SECOND * MEMORY_SHARE)


def issued(slots: float) -> float:
    """Seconds to issue warp instructions."""
    return slots / (MULTIPROCESSORS * ISSUES_A_CLOCK * CLOCK_HZ * ISSUE_SHARE)


def linear_predictions(outputs: int, inputs: int) -> Iterator[Prediction]:
    """One token; half of the weights pruned, for TEAL and SPDP half of the inputs inactive."""
    weights = outputs * inputs
    dense = streamed(2 * weights) + LAUNCH_SECONDS
    shape = f"{outputs} × {inputs}"

    def row(kernel: str, nbytes: float, warps: float, loop: float, clocks: float, rows: int, wait: float, *goal: Any) -> Prediction:
        """Bytes of a weight, so many warps' loops with their instructions and clocks, rows of a block, and a wait before the first."""
        blocks = -(-outputs // rows)
        share = -(-blocks // MULTIPROCESSORS) * MULTIPROCESSORS / blocks  # of the multiprocessor with most blocks, in an even one
        cached = warps * clocks / (MULTIPROCESSORS * CLOCK_HZ)
        return Prediction(kernel, shape, streamed(nbytes * weights), share * issued(warps * loop), share * cached, 1, wait, dense, *goal)

    yield row("own dense", 2, weights / 1024, DENSE.instructions, 0, 8, 0, "a control", None)
    tiles = weights / 1024
    yield row("TCA-BME, 50 %", 1.125, tiles, TCA_BME.instructions, TCA_BME_CLOCKS, 16, READ_SECONDS, "≥ 1.4×", 1.4)
    steps = outputs * (0.5 * inputs / 256 + 0.5)  # half of a warp is idle in the last of a row
    yield row("MACKO, 50 %", 0.5 * 2.5, steps, MACKO.instructions, MACKO_CLOCKS, 16, 0, "≥ 1.4×", 1.4)
    active = 0.5 * weights
    listing = TEAL.instructions + (TEAL_LIST.instructions - TEAL.instructions) / 2
    yield row("TEAL, 50 %", 1.0, active / 1024, listing, TEAL_CLOCKS, 32, CACHED_READ_SECONDS, "≥ 1.7×", 1.7)
    listing = SPDP.instructions + (SPDP_LIST.instructions - SPDP.instructions) / 2
    # runs of 64 bytes, whose halves two blocks read at about one time, touch a quarter more sectors; bitmap words of 8 bytes, starts of 2
    nbytes = 0.25 * 2 * 1.25 + 0.125 + 0.03125
    yield row("SPDP, 50 % × 50 %", nbytes, active / 1024, listing, SPDP_CLOCKS, 32, READ_SECONDS, "≥ 2.2×", 2.2)


def decode_attention(keys: float, kept: float, most_listed: float) -> tuple[float, float]:
    """Seconds of instructions, and of shared memory, to attend to the kept ones of the keys of all KV heads."""
    steps = kept / 16 + DECODE_WARPS / 2  # the last step of a warp is half empty
    listing = DECODE_LIST.instructions + (most_listed - 1) * DECODE_ENTRY.instructions
    slots = steps * (DECODE.instructions - DECODE_LIST.instructions) + max(keys / 512, DECODE_WARPS) * listing
    shared = steps * 4 * 16 * DIM * 2  # bytes: keys and values are written and read
    return issued(slots), shared / (SHARED_BYTES_A_CLOCK * MULTIPROCESSORS * CLOCK_HZ)


def decode_predictions(tokens: int) -> Iterator[Prediction]:
    """One token of a Llama-3-8B layer, a tenth of the keys kept by each group."""
    rows = KV_HEADS * tokens
    cache_bytes = 4 * DIM * rows
    dense = streamed(cache_bytes) + 2 * LAUNCH_SECONDS
    shape = f"{tokens} keys"
    whole, sparse = decode_attention(rows, rows, 16), decode_attention(rows, 0.1 * rows, MOST_LISTED)
    wanted_share = 3.4e12 / (MEMORY_BYTES_A_SECOND * MEMORY_SHARE)
    yield Prediction("own dense decode", shape, streamed(cache_bytes), *whole, 2, 0, dense, "≥ 3.4 TB/s", wanted_share)
    gathered = streamed(0.1 * cache_bytes / 0.8)  # rows of 256 bytes, 80 % of streaming (assumed)
    yield Prediction("X:M decode, keys given", shape, gathered, *sparse, 2, READ_SECONDS, dense, "no goal", None)
    blocks, products = rows / TILE, 2 * HEADS * tokens  # bytes, written; they are read from the second-level cache
    scoring = max(streamed(cache_bytes / 8 + products), issued(blocks * SCORE.instructions))
    beside = min(8, -(-blocks // SELECT_WARPS))  # blocks that a warp ranks at once
    ranking = (2 * MERGE.instructions + RANKED_AROUND + CLASSES) / beside + RANKED_BLOCKS * WEIGH.instructions
    predicted = scoring + issued(blocks * ranking) + 3 * CACHED_READ_SECONDS  # totals, classes, products
    wanted = {32768: 2.0, 131072: 3.0}.get(tokens)
    goal = "no goal" if wanted is None else f"≥ {wanted:g}×"
    yield Prediction("X:M decode with prediction", shape, gathered, *sparse, 4, READ_SECONDS + predicted, dense, goal, wanted)


def prefill_predictions(tokens: int, live: float) -> Iterator[Prediction]:
    """A Llama-3-8B layer, causal; a share of the tiles at or below the diagonal is live, each independently of its neighbours."""
    tiles = live * HEADS * (tokens / TILE) ** 2 / 2
    tile_bytes, tile_flop = 2 * TILE * DIM * 2, 4 * TILE * TILE * DIM  # keys and values; scores and output
    flop = 2 * tokens**2 * DIM * HEADS
    dense = flop / DENSE_ATTENTION_FLOP_A_SECOND

    def row(kernel: str, loop: int, read: float, fetched: float, flop_a_clock: float, goal: str, wanted: float | None) -> Prediction:
        """`read` bytes of shared memory and `fetched` tiles for a live tile of 64 queries."""
        clocks = max(
            (read + fetched * tile_bytes) / SHARED_BYTES_A_CLOCK, fetched * tile_bytes / L2_BYTES_A_CLOCK, tile_flop / flop_a_clock
        )
        issue, other = issued(4 * (loop - PREFILL_BIAS) * tiles), clocks * tiles / (MULTIPROCESSORS * CLOCK_HZ)
        return Prediction(f"prefill, {kernel}, {live:.0%} live", f"{tokens} tokens", 0, issue, other, 2, 0, dense, goal, wanted)

    loop = PREFILL.instructions + 2 * PREFILL_COPY.instructions
    yield row("mma.sync", loop, 4 * 64 * 512, 1, TENSOR_FLOP_A_CLOCK, "for sm_80", None)  # each warp reads all keys and values
    fetched = (1 - (1 - live) ** 3) / (3 * live)  # three rows of tiles share what is live for any of them
    read = 3 * TILE * DIM * 2  # queries, keys and values
    goal = "≥ 400 TFLOP/s on live tiles"
    yield row("wgmma", HOPPER.instructions, read, fetched, WGMMA_FLOP_A_CLOCK, goal, 4e14 / DENSE_ATTENTION_FLOP_A_SECOND / live)


def predictions() -> Iterator[Prediction]:
    """The shapes of the project's goals."""
    for outputs, inputs in ((4096, 4096), (14336, 4096), (4096, 14336)):
        yield from linear_predictions(outputs, inputs)
    for tokens in (32768, 131072):
        yield from decode_predictions(tokens)
    for live in (0.2, 1.0):
        yield from prefill_predictions(32768, live)


def table() -> str:
    """Markdown."""
    lines = [
        "| kernel | shape | bound by | predicted µs | library's dense, predicted µs | predicted ratio | goal | predicted to | measured |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in predictions():
        verdict = "" if row.wanted is None else "reach it" if row.ratio >= row.wanted else "miss it"
        times = f"{row.seconds * 1e6:.1f} | {row.baseline * 1e6:.1f} | {row.ratio:.2f}×"
        lines.append(f"| {row.kernel} | {row.shape} | {row.bound} | {times} | {row.goal} | {verdict} | no GPU was at hand |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
