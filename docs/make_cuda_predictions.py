"""Print the table of predictions of docs/kernels/cuda.md: python docs/make_cuda_predictions.py

Every number is predicted: the longest of what memory, instruction issue, shared memory and tensor cores need, plus launches. Nothing was
measured on a GPU for it. Instruction counts are those of compiled loops (docs/cuda_loops.py), which a test counts again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

# An H200, from its data sheet and the derivations of the kernels' design notes; none of it was measured here.
MULTIPROCESSORS = 132
CLOCK_HZ = 1.83e9
ISSUES_A_CLOCK = 4  # warp instructions, of a multiprocessor
SHARED_BYTES_A_CLOCK = 128  # of a multiprocessor
TENSOR_FLOP_A_CLOCK = 4096 * 0.62  # bfloat16; mma.sync reaches about 62 % of what wgmma does (assumed, from FlashAttention 2 on an H100)
WGMMA_FLOP_A_CLOCK = 4096 * 0.58  # FlashAttention 3 without its two kinds of overlap: 570 of 989 TFLOP/s (its authors' account, H100)
PRODUCT_FLOP_A_CLOCK = 4096 * 0.79  # a large matrix product: 780 of 989 TFLOP/s (published, H200)
L2_BYTES_A_CLOCK = 25  # of a multiprocessor (not verified)
MEMORY_BYTES_A_SECOND = 4.2e12  # of a large copy
MEMORY_SHARE = 0.85  # of that, by a kernel that streams, ours or the library's (assumed)
ISSUE_SHARE = 0.75  # of the issue slots that a kernel bound by instructions fills (assumed)
LAUNCH_SECONDS = 1.2e-6  # of each kernel after another in a graph (assumed)
READ_SECONDS = 0.8e-6  # until a read of memory comes that others wait for (assumed)
CACHED_READ_SECONDS = 0.3e-6  # the same of what the kernel before has written, from the second-level cache (assumed)
EARLY_LAUNCH_SECONDS = 0.5e-6  # from the end of a kernel that lets the next one start to where that goes on (assumed)
DENSE_ATTENTION_FLOP_A_SECOND = 6.0e14  # causal prefill by the best library kernels on an H100 (published)

HEADS, KV_HEADS, DIM, TILE = 32, 8, 128, 64


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop of a compiled kernel."""

    source: str
    kernel: str  # part of its mangled name
    instructions: int


DENSE = Loop("linear_dense.cu", "dense_rowsINS_4Bf16E", 150)  # 1024 weights
TCA_BME = Loop("linear_tca_bme.cu", "tca_bme_rowsINS_4Bf16ELi8E", 237)  # a warp's 16 × 64 of a GroupTile
MACKO = Loop("linear_macko.cu", "macko_rowsINS_4Bf16E", 94)  # 256 stored weights
TEAL = Loop("linear_teal.cu", "teal_columnsINS_4Bf16E", 88)  # 32 active inputs × 32 outputs
TEAL_LIST = Loop("linear_teal.cu", "teal_columnsINS_4Bf16E", 178)  # around it: 128 inputs are listed
SPDP = Loop("linear_spdp.cu", "spdp_columnsINS_4Bf16E", 215)  # 32 active columns × 32 rows
SPDP_LIST = Loop("linear_spdp.cu", "spdp_columnsINS_4Bf16E", 342)  # around it: 128 columns are listed
SPDP_SHORT = Loop("linear_spdp.cu", "spdp_columnsINS_4Bf16E", 217)  # 64 active columns × 16 rows
SPDP_SHORT_LIST = Loop("linear_spdp.cu", "spdp_columnsINS_4Bf16E", 373)  # around it: 128 columns are listed
PREFILL = Loop("attention_prefill.cu", "prefill_tilesINS_4Bf16ELi128E", 1010)  # 16 queries × 64 keys
PREFILL_COPY = Loop("attention_prefill.cu", "prefill_tilesINS_4Bf16ELi128E", 101)  # inside it, twice, with two rounds each
HOPPER = Loop("attention_prefill_hopper.cu", "prefill_hopperINS_4Bf16ELi128E", 505)  # a warp's 16 queries × 64 keys
HOPPER_FETCH = Loop("attention_prefill_hopper.cu", "prefill_hopperINS_4Bf16ELi128E", 251)  # a quarter of a tile's keys, values, mask
DECODE = Loop("attention_decode.cu", "attend_keptINS_4Bf16ELi128E", 694)  # 16 keys and values for up to 8 heads
DECODE_LIST = Loop("attention_decode.cu", "attend_keptINS_4Bf16ELi128E", 221)  # inside it: kept keys of 512 are listed
DECODE_ENTRY = Loop("attention_decode.cu", "attend_keptINS_4Bf16ELi128E", 11)  # inside that: a kept key of the 16 of each lane
SCORE = Loop("decode_scores.cu", "score_keysILi128ELi4ELi4E", 546)  # 64 keys for 4 heads, exponentials in float64 among them
WEIGH = Loop("decode_select.cu", "select_keysILi4ELb0Es", 83)  # 64 keys for 4 heads
MERGE = Loop("decode_select.cu", "select_keysILi4ELb0Es", 101)  # one of two steps of four lanes that sort a block, 8 blocks at once
MASK_SUMS = Loop("mask_blocks.cu", "keep_blocksILi128ENS0_11PackedSlotsE", 306)  # a warp's 32 queries × 64 keys, all of which they see
MASK_SUMS_HALF = Loop("mask_blocks.cu", "keep_blocksILi128ENS0_11PackedSlotsE", 222)  # inside it, twice: 32 keys
MASK_CLASSES = Loop("mask_blocks.cu", "keep_blocksILi128ENS0_11PackedSlotsE", 265)  # 8 blocks of 64 keys of a warp's queries
MASK_LIVE = Loop("mask_blocks.cu", "keep_blocksILi128ENS0_11PackedSlotsE", 1502)  # a tile of which a warp keeps keys
MASK_RANK = Loop("mask_blocks.cu", "keep_blocksILi128ENS0_11PackedSlotsE", 808)  # inside it: 32 blocks are ranked
ROW_SUMS = Loop("mask_threshold.cu", "note_rowsILi128ELb0E", 247)  # a warp's 32 queries × 64 keys: their sums alone
ROW_SUMS_HALF = Loop("mask_threshold.cu", "note_rowsILi128ELb0E", 173)  # inside it, twice
MASK_ABOVE = Loop("mask_threshold.cu", "keep_aboveILi128ELb0E", 1138)  # the same keys, compared to the row's threshold
SALO_SCORES = Loop("mask_salo.cu", "keep_tilesILi128E", 124)  # a warp's 16 queries × 16 keys
SALO_ROWS = Loop("mask_salo.cu", "keep_tilesILi128E", 53)  # 32 rows of a tile of 64 × 64, 16 scores of each: their sums in float64
SALO_COLUMNS = Loop("mask_salo.cu", "keep_tilesILi128E", 54)  # likewise, of columns
SALO_DIAGONALS = Loop("mask_salo.cu", "keep_tilesILi128E", 95)  # likewise, of diagonals
SALO_WINDOWS = Loop("mask_salo.cu", "keep_tilesILi128E", 6)  # a diagonal's sum is added to those of 32 windows
SALO_LINES = Loop("mask_salo.cu", "keep_tilesILi128E", 39)  # four diagonals of the window are kept by 32 rows
SALO_PICKS = Loop("mask_salo.cu", "keep_tilesILi128E", 59)  # a pick of each of 32 rows
SALO_PICKS_FOUR = Loop("mask_salo.cu", "keep_tilesILi128E", 21)  # inside it: four scores are compared
LOOPS = (
    SALO_SCORES,
    SALO_ROWS,
    SALO_COLUMNS,
    SALO_DIAGONALS,
    SALO_WINDOWS,
    SALO_LINES,
    SALO_PICKS,
    SALO_PICKS_FOUR,
    ROW_SUMS,
    ROW_SUMS_HALF,
    MASK_ABOVE,
    MASK_SUMS,
    MASK_SUMS_HALF,
    MASK_CLASSES,
    MASK_LIVE,
    MASK_RANK,
    DENSE,
    TCA_BME,
    MACKO,
    TEAL,
    TEAL_LIST,
    SPDP,
    SPDP_LIST,
    SPDP_SHORT,
    SPDP_SHORT_LIST,
    PREFILL,
    PREFILL_COPY,
    HOPPER,
    HOPPER_FETCH,
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
MASK_BYTES = 64 * 32  # of a live tile: a word of 8 bytes for each row, in sectors of 32
SPDP_PIECE = 16  # rows: a block has a whole number of pieces
# Of the loops of masks what a whole tile skips (lengths of forward branches): the copy of a last tile, sums at all but one of the places
# where a block may end; bits of keys that are not seen; ranks of smaller blocks, less the ends of ties.
MASK_SUMS_SKIPPED, MASK_LIVE_SKIPPED, MASK_RANK_SKIPPED = 119, 412, 123
ROW_SUMS_SKIPPED, MASK_ABOVE_SKIPPED = 51, 532  # likewise: the copy, a sum; the copy, bits of keys that are not seen
MASK_AROUND = 5  # of a warp's tile: zeros in its words, and a look at which tiles are live
# Of a tile of SALO's rule beside those loops, for all four warps (counted between the loops, without the copy of a last tile, keys that
# are not seen, and what is left where numbers are no multiples): each warp's 117, sums of rows and columns, the lines and the window that
# are chosen, and what two warps keep.
SALO_AROUND = 4 * 117 + 2 * (39 + 35) + (178 + 216 + 155) + 2 * 181
SALO_WINDOW, SALO_PICKED = 8, 3  # of the shipped method, which keeps one line each way
DOUBLE_CONVERSIONS_A_CLOCK = 16  # of a multiprocessor (not verified)
# Of the instructions of X:M the integer ones, comparisons and choices among them, of which half as many are issued a clock (counted in a
# disassembly): for the sums and classes of a warp's tile, for a live tile, for 32 ranks.
MASK_INTEGER_SUMS, MASK_INTEGER_LIVE, MASK_INTEGER_RANK = 43 + 25 + 2, 95, 573
INTEGER_ISSUES_A_CLOCK = 2  # warp instructions, of a multiprocessor
EXPONENTIALS_A_CLOCK = 16  # of a multiprocessor
INT8_PRODUCTS_A_CLOCK = 4096 * 0.62  # multiplications of a multiprocessor, as mma.sync reaches it (assumed, see above)
MASK_WARP_LIVE, MASK_ROW_LIVE = 0.93, 0.33  # of tiles of 32 queries and of rows: the thinnest of xm-tiny's layers (masks_xm_tiny_2048.json)
PREFILL_BIAS = 84  # of the prefill loops: ALiBi's, which are skipped without it (counted as the length of a forward branch)
RANKED_AROUND = 305  # instructions of 8 blocks beside their loops: sorts of sixteen, places, words (counted without the branches in doubt)
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
    early_extra: float | None = None  # of the same steps, if it is launched early behind a kernel that lets it start; None: it is not

    @property
    def seconds(self) -> float:
        return max(self.memory, self.issue, self.other) + self.launches * LAUNCH_SECONDS + self.extra

    @property
    def ratio(self) -> float:
        return self.baseline / self.seconds

    @property
    def early_ratio(self) -> float | None:
        """The ratio if this launch overlaps the kernel before and the library's does not."""
        if self.early_extra is None:
            return None
        return self.baseline / (max(self.memory, self.issue, self.other) + EARLY_LAUNCH_SECONDS + self.early_extra)

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

    def row(kernel: str, nbytes: float, cached: float, slots: float, clocks: float, rows: int, wait: float, *goal: Any) -> Prediction:
        """Bytes of a weight from memory and the second cache, instructions, clocks of shared memory, rows of a block, a wait before all."""
        blocks = -(-outputs // rows)
        share = -(-blocks // MULTIPROCESSORS) * MULTIPROCESSORS / blocks  # of the multiprocessor with most blocks, in an even one
        near = max(clocks, cached * weights / L2_BYTES_A_CLOCK) / (MULTIPROCESSORS * CLOCK_HZ)
        early = min(wait, CACHED_READ_SECONDS)  # what it waits for was prefetched
        return Prediction(kernel, shape, streamed(nbytes * weights), share * issued(slots), share * near, 1, wait, dense, *goal, early)

    yield row("own dense", 2, 2, weights / 1024 * DENSE.instructions, 0, 8, 0, "a control", None)
    tiles = weights / 1024
    # beside the weights, the inputs of each stripe come from the second cache
    slots, clocks = tiles * TCA_BME.instructions, tiles * TCA_BME_CLOCKS
    yield row("TCA-BME, 50 %", 1.125, 1.125 + 0.125, slots, clocks, 16, READ_SECONDS, "≥ 1.4×", 1.4)
    steps = outputs * (0.5 * inputs / 256 + 0.5)  # half of a warp is idle in the last of a row
    yield row("MACKO, 50 %", 0.5 * 2.5, 0.5 * 2.5, steps * MACKO.instructions, steps * MACKO_CLOCKS, 16, 0, "≥ 1.4×", 1.4)
    # of 16 warps a block; half of each one's last step is idle
    lists, steps = inputs / 16 / 128, 0.5 * inputs / 16 / 32 + 0.5
    warps = 16 * outputs / 32
    slots = warps * (steps * TEAL.instructions + lists * (TEAL_LIST.instructions - TEAL.instructions))
    yield row("TEAL, 50 %", 1.0, 1.0, slots, warps * steps * TEAL_CLOCKS, 32, CACHED_READ_SECONDS, "≥ 1.7×", 1.7)
    yield spdp(outputs, inputs, row)


def spdp(outputs: int, inputs: int, row: Callable[..., Prediction]) -> Prediction:
    """A block takes its pieces of 16 rows two at once; the last step of a list is whole or half, and half of that is idle."""
    pieces = ceil(ceil(outputs / SPDP_PIECE) / MULTIPROCESSORS)  # of a block
    lists, active = inputs / 16 / 128, 0.5 * inputs / 16  # of a warp
    long = (active / 32 + 0.25) * SPDP.instructions + lists * (SPDP_LIST.instructions - SPDP.instructions)
    short = (active / 64 + 0.25) * SPDP_SHORT.instructions + lists * (SPDP_SHORT_LIST.instructions - SPDP_SHORT.instructions)
    of_a_piece = (pieces // 2 * long + pieces % 2 * short) / pieces
    warps = 16 * outputs / SPDP_PIECE
    # runs of 64 bytes, whose parts two blocks read at about one time, touch a quarter more sectors; bitmap words of 8 bytes, starts of 2
    nbytes = 0.25 * 2 * 1.25 + 0.125 + 0.03125
    # a block reads 34 bytes of a run, and so 64 in sectors, for 32 rows, and the whole of words and starts
    cached = 0.5 * 64 / 32 + 0.25 + 0.0625
    clocks = warps / 2 * (active / 32 + 0.25) * SPDP_CLOCKS
    return row("SPDP, 50 % × 50 %", nbytes, cached, warps * of_a_piece, clocks, SPDP_PIECE * pieces, READ_SECONDS, "≥ 2.2×", 2.2)


def decode_attention(keys: float, kept: float, most_listed: float) -> tuple[float, float]:
    """Seconds of instructions, and of shared memory, to attend to the kept ones of the keys of all KV heads."""
    steps = kept / 16 + DECODE_WARPS / 2  # the last step of a warp is half empty
    listing = DECODE_LIST.instructions + (most_listed - 1) * DECODE_ENTRY.instructions
    slots = steps * (DECODE.instructions - DECODE_LIST.instructions) + max(keys / 512, DECODE_WARPS) * listing
    shared = steps * 4 * 16 * DIM * 2  # bytes: keys and values are written and read
    return issued(slots), shared / (SHARED_BYTES_A_CLOCK * MULTIPROCESSORS * CLOCK_HZ)


def decode_predictions(tokens: int, sequences: int = 1) -> Iterator[Prediction]:
    """One token of a Llama-3-8B layer, or of each of several sequences, a tenth of the keys kept by each group."""
    rows = KV_HEADS * tokens * sequences
    cache_bytes = 4 * DIM * rows
    dense = streamed(cache_bytes) + 2 * LAUNCH_SECONDS
    shape = f"{tokens} keys" if sequences == 1 else f"{sequences} × {tokens} keys"
    lengths = 0 if sequences == 1 else CACHED_READ_SECONDS  # of each launch: who takes what is known once they are read
    whole, sparse = decode_attention(rows, rows, 16), decode_attention(rows, 0.1 * rows, MOST_LISTED)
    early = EARLY_LAUNCH_SECONDS  # of every launch but the first
    control = ("≥ 3.4 TB/s", 3.4e12 / (MEMORY_BYTES_A_SECOND * MEMORY_SHARE)) if sequences == 1 else ("no goal", None)
    yield Prediction("own dense decode", shape, streamed(cache_bytes), *whole, 1, early + 2 * lengths, dense, *control)
    gathered = streamed(0.1 * cache_bytes / 0.8)  # rows of 256 bytes, 80 % of streaming (assumed)
    yield Prediction("X:M decode, keys given", shape, gathered, *sparse, 1, early + READ_SECONDS + 2 * lengths, dense, "no goal", None)
    blocks, products = rows / TILE, 2 * HEADS * tokens * sequences  # bytes, written; they are read from the second-level cache
    scoring = max(streamed(cache_bytes / 8 + products), issued(blocks * SCORE.instructions))
    beside = min(8, -(-blocks // SELECT_WARPS))  # blocks that a warp ranks at once
    ranking = (2 * MERGE.instructions + RANKED_AROUND + CLASSES) / beside + RANKED_BLOCKS * WEIGH.instructions
    predicted = scoring + issued(blocks * ranking) + 3 * CACHED_READ_SECONDS  # totals, classes, products
    wanted = {32768: 2.0, 131072: 3.0}.get(tokens)
    goal = "no goal" if wanted is None else f"≥ {wanted:g}×"
    extra = READ_SECONDS + predicted + 3 * early + 4 * lengths
    yield Prediction("X:M decode with prediction", shape, gathered, *sparse, 1, extra, dense, goal, wanted)


def listing_seconds(tokens: int, masks: int = HEADS) -> float:
    """All words of the masks are read once, those above the diagonal too, as a list is made whatever the mask is."""
    return streamed(masks * tokens**2 / 8)


def listing_prediction(tokens: int) -> Prediction:
    """Lists of the tiles that are live, a mask a head. Where calls share a mask they are made once and given."""
    dense = 2 * tokens**2 * DIM * HEADS / DENSE_ATTENTION_FLOP_A_SECOND
    return Prediction("lists of live tiles", f"{tokens} tokens", listing_seconds(tokens), 0, 0, 1, 0, dense, "no goal", None)


def prefill_predictions(tokens: int, live: float) -> Iterator[Prediction]:
    """A Llama-3-8B layer, causal; a share of the tiles at or below the diagonal is live, each independently of its neighbours."""
    tiles = live * HEADS * (tokens / TILE) ** 2 / 2
    tile_bytes, tile_flop = 2 * TILE * DIM * 2, 4 * TILE * TILE * DIM  # keys and values; scores and output
    flop = 2 * tokens**2 * DIM * HEADS
    dense = flop / DENSE_ATTENTION_FLOP_A_SECOND

    def row(kernel: str, loop: int, read: float, fetched: float, flop_a_clock: float, goal: str, wanted: float | None) -> Prediction:
        """`read` bytes of shared memory and `fetched` tiles for a live tile of 64 queries."""
        clocks = max(
            (read + fetched * tile_bytes) / SHARED_BYTES_A_CLOCK,
            (fetched * tile_bytes + MASK_BYTES) / L2_BYTES_A_CLOCK,
            tile_flop / flop_a_clock,
        )
        issue, other = issued(4 * (loop - PREFILL_BIAS) * tiles), clocks * tiles / (MULTIPROCESSORS * CLOCK_HZ)
        return Prediction(
            f"prefill, {kernel}, {live:.0%} live, lists given", f"{tokens} tokens", 0, issue, other, 1, 0, dense, goal, wanted
        )

    loop = PREFILL.instructions + 2 * PREFILL_COPY.instructions
    yield row("mma.sync", loop, 4 * 64 * 512, 1, TENSOR_FLOP_A_CLOCK, "for sm_80", None)  # each warp reads all keys and values
    fetched = (1 - (1 - live) ** 3) / (3 * live)  # three rows of tiles share what is live for any of them
    read = 3 * TILE * DIM * 2  # queries, keys and values
    goal = "≥ 400 TFLOP/s on live tiles"
    loop = HOPPER.instructions + fetched * HOPPER_FETCH.instructions
    given = row("wgmma", loop, read, fetched, WGMMA_FLOP_A_CLOCK, goal, 4e14 / DENSE_ATTENTION_FLOP_A_SECOND / live)
    yield given
    lists = listing_prediction(tokens).seconds
    yield replace(given, kernel=f"prefill, wgmma, {live:.0%} live, lists made", extra=lists)


def prefill_rates(live: float) -> tuple[float, float]:
    """TFLOP/s on live tiles of the wgmma kernel with lists given, and with the time that making them takes."""
    flop = live * 2 * 32768**2 * DIM * HEADS
    given, made = (flop / row.seconds / 1e12 for row in prefill_predictions(32768, live) if "wgmma" in row.kernel)
    return given, made


def prefill_in_step() -> tuple[float, float]:
    """TFLOP/s on live tiles if the warpgroups of a block never drifted apart: as the program is, and if nothing overlapped in it either."""
    product = 4 * TILE * TILE * DIM / PRODUCT_FLOP_A_CLOCK  # clocks of a tile, half for scores, half for values
    softmax = (HOPPER.instructions - PREFILL_BIAS) / ISSUE_SHARE
    clocks = product / 2 + max(product / 2, softmax), product + softmax
    as_is, apart = (4 * TILE * TILE * DIM * MULTIPROCESSORS * CLOCK_HZ / of / 1e12 for of in clocks)
    return as_is, apart


def mask_slots(warp_live: float, row_live: float, *, by_share: bool = True) -> float:
    """Warp instructions for 32 queries × 64 keys, where a share of such tiles, and of their rows, keeps keys."""
    sums = MASK_SUMS.instructions + MASK_SUMS_HALF.instructions - MASK_SUMS_SKIPPED if by_share else 0
    live = MASK_LIVE.instructions - MASK_RANK.instructions - MASK_LIVE_SKIPPED
    rank = MASK_RANK.instructions - MASK_RANK_SKIPPED
    return sums + MASK_CLASSES.instructions / 8 + MASK_AROUND + warp_live * live + row_live * rank


def salo_slots() -> float:
    """Warp instructions for 64 queries × 64 keys by SALO's rule."""
    scores = 4 * 4 * SALO_SCORES.instructions
    sums = 2 * 4 * (SALO_ROWS.instructions + SALO_COLUMNS.instructions) + 4 * 4 * SALO_DIAGONALS.instructions
    windows = 4 * SALO_WINDOW * SALO_WINDOWS.instructions + 2 * SALO_WINDOW / 4 * SALO_LINES.instructions
    pick = SALO_PICKS.instructions + (TILE / 4 - 1) * SALO_PICKS_FOUR.instructions
    return scores + sums + windows + 2 * SALO_PICKED * pick + SALO_AROUND


def mask_predictions(tokens: int) -> Iterator[Prediction]:
    """Words of the mask of a Llama-3-8B layer from few-bit codes, causal, blocks of 64 keys, 4 or 6 bits of 1:2 or 1:4."""
    tiles = HEADS * (tokens / 32) * (tokens / TILE) / 2
    dense = 2 * tokens**2 * DIM * HEADS / DENSE_ATTENTION_FLOP_A_SECOND

    def row(kernel: str, warp_live: float, row_live: float, *goal: Any, by_share: bool = True) -> Prediction:
        integer = by_share * MASK_INTEGER_SUMS + warp_live * MASK_INTEGER_LIVE + row_live * MASK_INTEGER_RANK
        clocks = max(
            integer / INTEGER_ISSUES_A_CLOCK / ISSUE_SHARE,
            by_share * 32 * TILE / EXPONENTIALS_A_CLOCK,
            (by_share + warp_live) * 32 * TILE * DIM / INT8_PRODUCTS_A_CLOCK,
        )
        nbytes = 32 * (by_share * 2 * 4 + 2 + 8 + row_live * 8)  # sums and classes, written and read; words, zero and then as they are
        other = clocks * tiles / (MULTIPROCESSORS * CLOCK_HZ)
        issue = issued(tiles * mask_slots(warp_live, row_live, by_share=by_share))
        return Prediction(kernel, f"{tokens} tokens", streamed(nbytes * tiles), issue, other, 1, 0, dense, *goal)

    goal = ("≤ 45 % of dense attention", 1 / 0.45)
    yield row("X:M mask, no block live", 0, 0, *goal)
    yield row("X:M mask, 30 % of warps' tiles live", 0.3, 0.3, *goal)
    yield row("X:M mask, 33 % of rows and 93 % of warps live", MASK_WARP_LIVE, MASK_ROW_LIVE, *goal)
    yield row("X:M mask, all live", 1, 1, *goal)
    yield row("N:M mask", 1, 1, "no goal", None, by_share=False)
    sums = ROW_SUMS.instructions + ROW_SUMS_HALF.instructions - ROW_SUMS_SKIPPED
    above = MASK_ABOVE.instructions - MASK_ABOVE_SKIPPED
    products = 2 * 32 * TILE * DIM / INT8_PRODUCTS_A_CLOCK * tiles / (MULTIPROCESSORS * CLOCK_HZ)
    issue = issued(tiles * (sums + above))
    yield Prediction("Sanger's mask", f"{tokens} tokens", streamed(32 * 8 * tiles), issue, products, 2, 0, dense, "no goal", None)
    tiles /= 2  # of 64 queries
    conversions = 4 * 2 * 32 * TILE / DOUBLE_CONVERSIONS_A_CLOCK * tiles / (MULTIPROCESSORS * CLOCK_HZ)  # two sums of each warp
    issue = issued(tiles * salo_slots())
    yield Prediction("SALO's mask", f"{tokens} tokens", streamed(TILE * 8 * tiles), issue, conversions, 1, 0, dense, "no goal", None)


def predictions() -> Iterator[Prediction]:
    """The shapes of the project's goals."""
    for outputs, inputs in ((4096, 4096), (14336, 4096), (4096, 14336)):
        yield from linear_predictions(outputs, inputs)
    for tokens in (32768, 131072):
        yield from decode_predictions(tokens)
    yield from decode_predictions(16384, sequences=8)
    yield listing_prediction(32768)
    for live in (0.2, 1.0):
        yield from prefill_predictions(32768, live)
    yield from mask_predictions(32768)


def table() -> str:
    """Markdown."""
    lines = [
        "| kernel | shape | bound by | predicted µs | library's dense, predicted µs | predicted ratio | goal | predicted to "
        "| ratio if launched early | measured |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in predictions():
        verdict = "" if row.wanted is None else "reach it" if row.ratio >= row.wanted else "miss it"
        early = "" if row.early_ratio is None else f"{row.early_ratio:.2f}×"
        times = f"{row.seconds * 1e6:.1f} | {row.baseline * 1e6:.1f} | {row.ratio:.2f}×"
        lines.append(f"| {row.kernel} | {row.shape} | {row.bound} | {times} | {row.goal} | {verdict} | {early} | no GPU was at hand |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
    print("wgmma prefill, TFLOP/s with warpgroups in step, as it is and without overlap: {:.0f}, {:.0f}".format(*prefill_in_step()))
