"""Print the table of predictions of docs/kernels/cuda.md: python docs/make_cuda_predictions.py

Every number is predicted: the longest of what memory, instruction issue, shared memory and tensor cores need, plus launches. Nothing was
measured on a GPU for it. Instruction counts are those of compiled loops (docs/cuda_loops.py), which a test counts again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

# An H200, from its data sheet and the derivations of the kernels' design notes; none of it was measured here.
MULTIPROCESSORS = 132
CLOCK_HZ = 1.83e9
ISSUES_A_CLOCK = 4  # warp instructions, of a multiprocessor
SHARED_BYTES_A_CLOCK = 128  # of a multiprocessor
TENSOR_FLOP_A_CLOCK = 4096 * 0.62  # bfloat16; mma.sync reaches about 62 % of what wgmma does (assumed, from FlashAttention 2 on an H100)
MEMORY_BYTES_A_SECOND = 4.2e12  # of a large copy
MEMORY_SHARE = 0.85  # of that, by a kernel that streams, ours or the library's (assumed)
ISSUE_SHARE = 0.75  # of the issue slots that a kernel bound by instructions fills (assumed)
LAUNCH_SECONDS = 1.2e-6  # of each kernel after another in a graph (assumed)
LIST_SECONDS = 0.8e-6  # one block lists 8192 inputs in a step (assumed)
DENSE_ATTENTION_FLOP_A_SECOND = 6.0e14  # causal prefill by the best library kernels on an H100 (published)

HEADS, KV_HEADS, DIM, TILE = 32, 8, 128, 64


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop of a compiled kernel."""

    source: str
    kernel: str  # part of its mangled name
    instructions: int


DENSE = Loop("linear_dense.cu", "dense_rowsINS_4Bf16E", 150)  # 1024 weights
TCA_BME = Loop("linear_tca_bme.cu", "tca_bme_rowsINS_4Bf16ELi8E", 759)  # a warp's 16 × 64 of a GroupTile
TCA_BME_UNUSED = Loop("linear_tca_bme.cu", "tca_bme_rowsINS_4Bf16ELi8E", 106)  # inside it: a copy loop that small GroupTiles skip
MACKO = Loop("linear_macko.cu", "macko_rowsINS_4Bf16E", 180)  # 256 stored weights
TEAL = Loop("linear_teal.cu", "teal_columnsINS_4Bf16E", 169)  # 1024 weights of active inputs
SPDP = Loop("linear_spdp.cu", "spdp_columnsINS_4Bf16E", 181)  # 8 active columns of 64 rows
SPDP_LIST = Loop("linear_spdp.cu", "spdp_columnsINS_4Bf16E", 451)  # around it, 32 active columns
PREFILL = Loop("attention_prefill.cu", "prefill_tilesINS_4Bf16ELi128E", 1060)  # 16 queries × 64 keys
PREFILL_COPY = Loop("attention_prefill.cu", "prefill_tilesINS_4Bf16ELi128E", 101)  # inside it, twice, with two rounds each
DECODE = Loop("attention_decode.cu", "decode_blocksINS_4Bf16ELi4ELi128E", 1229)  # 8 keys and values for 4 heads
SCORE = Loop("decode_predict.cu", "score_keys", 438)  # 4 words of 64 keys, for 8 heads
POWER = Loop("decode_predict.cu", "score_keys", 1509)  # two keys of each lane for 8 heads: exponentials in float64
WEIGHT = Loop("decode_predict.cu", "weigh_blocks", 140)  # 64 keys for 4 heads
RANK = Loop("decode_predict.cu", "select_keys", 67)  # 8 of the 64 comparisons of a key of each lane, in float64
LOOPS = (DENSE, TCA_BME, TCA_BME_UNUSED, MACKO, TEAL, SPDP, SPDP_LIST, PREFILL, PREFILL_COPY, DECODE, SCORE, POWER, WEIGHT, RANK)

DOUBLE_SHARE = 0.6  # of the instructions of exponentials that are on float64, at half rate (estimated); of comparisons a quarter
RANKED_BLOCKS = 0.65  # of the blocks, where a tenth of the keys is kept (estimated)


@dataclass(frozen=True, slots=True)
class Prediction:
    """One kernel, or a few that follow each other, on one shape."""

    kernel: str
    shape: str
    memory: float  # seconds
    issue: float
    other: float  # shared memory or tensor cores, the longer
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
        kinds = {"memory": self.memory, "instructions": self.issue, "shared memory, tensor cores": self.other}
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
    listing = -(-inputs // 8192) * LIST_SECONDS
    shape = f"{outputs} × {inputs}"

    def row(kernel: str, nbytes: float, slots: float, launches: int, extra: float, goal: str, wanted: float | None) -> Prediction:
        return Prediction(kernel, shape, streamed(nbytes * weights), issued(slots * weights), 0, launches, extra, dense, goal, wanted)

    yield row("own dense", 2, DENSE.instructions / 1024, 2, 0, "a control", None)
    group = TCA_BME.instructions - TCA_BME_UNUSED.instructions
    yield row("TCA-BME, 50 %", 1.125, group / 1024, 2, 0, "≥ 1.4×", 1.4)
    yield row("MACKO, 50 %", 0.5 * 2.5, 0.5 * MACKO.instructions / 256, 2, 0, "≥ 1.4×", 1.4)
    yield row("TEAL, 50 %", 1.0, 0.5 * TEAL.instructions / 1024, 3, listing, "≥ 1.7×", 1.7)
    around = SPDP_LIST.instructions - SPDP.instructions
    word = SPDP.instructions / 8 + around / 32  # of a column's 64 rows
    nbytes = 0.25 * 2 * 1.25 + 0.125  # runs of 64 bytes touch a quarter more sectors; bitmap words of 8 bytes nearly all
    yield row("SPDP, 50 % × 50 %", nbytes, 0.5 * word / 64, 3, listing, "≥ 2.2×", 2.2)


def decode_predictions(tokens: int) -> Iterator[Prediction]:
    """One token of a Llama-3-8B layer, a tenth of the keys kept by each group."""
    rows = KV_HEADS * tokens
    cache_bytes = 4 * DIM * rows
    dense = streamed(cache_bytes) + 2 * LAUNCH_SECONDS
    shape = f"{tokens} keys"
    whole = issued(DECODE.instructions * rows / 8)
    wanted_share = 3.4e12 / (MEMORY_BYTES_A_SECOND * MEMORY_SHARE)
    yield Prediction("own dense decode", shape, streamed(cache_bytes), whole, 0, 3, 0, dense, "≥ 3.4 TB/s", wanted_share)
    gathered = streamed(0.1 * cache_bytes / 0.8)  # rows of 256 bytes, 80 % of streaming (assumed)
    yield Prediction("X:M decode, keys given", shape, gathered, 0.1 * whole, 0, 3, 0, dense, "no goal", None)
    blocks = rows / TILE
    scoring = (4 * SCORE.instructions + (1 + DOUBLE_SHARE) * POWER.instructions) * (HEADS // KV_HEADS) / 8
    ranking = RANKED_BLOCKS * 1.25 * 2 * 8 * RANK.instructions
    powers = 2 * 8 * HEADS * tokens  # bytes, written and read
    predicted = issued(blocks * (scoring + 2 * WEIGHT.instructions + ranking)) + streamed(cache_bytes / 8 + powers)
    wanted = {32768: 2.0, 131072: 3.0}.get(tokens)
    goal = "no goal" if wanted is None else f"≥ {wanted:g}×"
    yield Prediction("X:M decode with prediction", shape, gathered, 0.1 * whole, 0, 8, predicted, dense, goal, wanted)


def prefill_predictions(tokens: int, live: float) -> Iterator[Prediction]:
    """A Llama-3-8B layer, causal; a share of the tiles at or below the diagonal is live."""
    warp_tiles = live * HEADS * (tokens / TILE) ** 2 / 2 * (TILE / 16)
    slots = PREFILL.instructions + 2 * PREFILL_COPY.instructions
    tile_flop = 4 * 16 * TILE * DIM  # scores and values
    shared = 64 * 512 + 2 * TILE * DIM * 2 / 4  # 64 ldmatrix of 512 bytes; a quarter of the tile's keys and values is stored
    chip = MULTIPROCESSORS * CLOCK_HZ
    other = warp_tiles * max(shared / SHARED_BYTES_A_CLOCK, tile_flop / TENSOR_FLOP_A_CLOCK) / chip
    flop = 2 * tokens**2 * DIM * HEADS
    dense = flop / DENSE_ATTENTION_FLOP_A_SECOND
    goal = flop * live / 4e14
    yield Prediction(
        f"tile-skipping prefill, {live:.0%} live",
        f"{tokens} tokens",
        0,
        issued(slots * warp_tiles),
        other,
        2,
        0,
        dense,
        "≥ 400 TFLOP/s on live tiles",
        dense / goal,
    )


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
