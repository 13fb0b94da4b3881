"""Print the tables of docs/kernels/cuda.md on designs of prefill: python docs/make_prefill_designs.py

What masks leave of tiles and unions is counted, on xm-tiny (reports/measured/masks_xm_tiny_*.json, which `xmsim trace info --out` wrote).
What a design makes of it is predicted, for a Llama-3-8B layer of 32768 tokens on an H200 with the same shares, from the constants of
make_cuda_predictions.py; the mask is given, and lists are made from it. Nothing was measured on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import comb
from pathlib import Path
from statistics import fmean

import make_cuda_predictions as gpu

from xmsim.workloads.methods.mask_record import MethodMasks, mean_statistics, read_masks

RECORDS = Path(__file__).parents[1] / "reports" / "measured"
TOKENS = 32768
LENGTHS = (512, 2048)  # of the records
ROWS = gpu.TILE  # of a warpgroup: all heads of a group at neighbouring queries
POSITIONS = 2 * ROWS * gpu.KV_HEADS // gpu.HEADS  # of a block of the kernel that gathers: two warpgroups share what is gathered
TILE_BYTES = 2 * gpu.TILE * gpu.DIM * 2  # keys and values
TILE_FLOP = 4 * gpu.TILE * gpu.TILE * gpu.DIM
TILES = gpu.HEADS * (TOKENS / gpu.TILE) ** 2 / 2  # at or below the diagonal

UNION_STEP = gpu.Loop("attention_prefill_shared.cu", "prefill_sharedINS_4Bf16ELi128E", 440)  # a warp's 16 rows × 64 gathered keys
UNION_FETCH = gpu.Loop("attention_prefill_shared.cu", "prefill_sharedINS_4Bf16ELi128E", 168)  # a quarter of 64 keys and values
PACK_WORD = gpu.Loop("attention_unions.cu", "pack_unionsILi32E", 150)  # a live word of 32 queries
PACK_WORDS = gpu.Loop("attention_unions.cu", "pack_unionsILi32E", 758)  # around it: 32 words
LOOPS = (UNION_STEP, UNION_FETCH, PACK_WORD, PACK_WORDS)

# Of the design that stages tiles and picks rows by ldmatrix, by hand: a step has 16 keys that the heads of a group share for one query.
PICK_READS = 16  # ldmatrix of four matrices, 4 clocks each where no two of eight rows meet in a bank: keys, then values
PICK_PRODUCTS = 16  # mma m16n8k16, keys or channels on the wide side, heads on the narrow one, half empty
PICK_INSTRUCTIONS = 16 + 16 + 16 + 32 + 20  # reads, products, addresses, softmax, lists and loop
PICK_POSITIONS = 32  # of a multiprocessor: 48 registers a lane for the sums and queries of each, 16 warps of two
MMA_FLOP = 2 * 16 * 8 * 16


@dataclass(frozen=True, slots=True)
class Shares:
    """What a mask leaves, of a layer."""

    density: float
    live: float  # tiles of 64 queries
    group_live: float  # tiles of POSITIONS queries of a group
    gathered: float  # keys of those that any row keeps, over all keys at or below the diagonal
    turns: float
    masks: int  # of HEADS heads


@dataclass(frozen=True, slots=True)
class Designs:
    """Times as dense attention over the design; the mask is given."""

    tiles: float
    unions: float
    picked: float
    picked_without_conflicts: float


def independent_turns(kept: int = 8, block: int = gpu.TILE, banks: int = 8) -> float:
    """Turns to read so many keys, drawn from a block at random, from as many banks: the mean of the fullest bank, exactly."""
    in_bank, ways = block // banks, comb(block, kept)

    def at_most(most: int) -> int:
        """Draws in which no bank has more."""
        of_draw = [1] + [0] * kept
        for _ in range(banks):
            of_draw = [sum(of_draw[n - i] * comb(in_bank, i) for i in range(min(n, most) + 1)) for n in range(kept + 1)]
        return of_draw[kept]

    return sum(1 - at_most(most) / ways for most in range(kept))


def independent(kept: int = 8) -> Shares:
    """So many of 64 keys in every block, one list a group, and queries that choose independently."""
    share = kept / gpu.TILE
    return Shares(share, 1, 1, 1 - (1 - share) ** POSITIONS, independent_turns(), gpu.KV_HEADS)


def counted(method: MethodMasks, group_rows: tuple[int, ...], tile_rows: tuple[int, ...]) -> list[Shares]:
    """Those of each layer of a record."""
    own, wide = group_rows.index(POSITIONS), tile_rows.index(gpu.TILE)
    masks = {"xm_shared_sum": gpu.KV_HEADS, "window": 1}.get(method.method["name"], gpu.HEADS)
    found = []
    for one in (layer.statistics for layer in method.layers):
        live, density = one.group_live_tiles[own], one.densities.kv_density
        gathered = live * one.group_unions[own] / method.block
        found.append(Shares(density, one.live_tiles[wide], live, gathered, one.gather_turns, masks))
    return found


def lists_seconds(shares: Shares) -> float:
    """To find what is live in the masks."""
    return gpu.listing_seconds(TOKENS, shares.masks)


def tiles_seconds(shares: Shares) -> float:
    """Live tiles whole: the kernel that skips the others, and its lists."""
    (row,) = (row for row in gpu.prefill_predictions(TOKENS, shares.live) if "wgmma" in row.kernel and "given" in row.kernel)
    return row.seconds + lists_seconds(shares) + gpu.LAUNCH_SECONDS


def unions_seconds(shares: Shares, flop_a_clock: float = gpu.WGMMA_FLOP_A_CLOCK) -> float:
    """Keys that any of POSITIONS queries keeps, gathered for two warpgroups."""
    steps = TILES * shares.gathered
    clocks = max(
        (3 * ROWS * gpu.DIM * 2 + TILE_BYTES / 2) / gpu.SHARED_BYTES_A_CLOCK,
        TILE_BYTES / 2 / gpu.L2_BYTES_A_CLOCK,
        TILE_FLOP / flop_a_clock,
    )
    attention = max(
        steps * clocks / (gpu.MULTIPROCESSORS * gpu.CLOCK_HZ),
        gpu.issued((4 * UNION_STEP.instructions + 2 * UNION_FETCH.instructions) * steps),
    )
    words = gpu.KV_HEADS * TOKENS / POSITIONS * TOKENS / gpu.TILE
    packing = (
        words / gpu.TILE * 2 * (PACK_WORDS.instructions - PACK_WORD.instructions) + shares.group_live / 2 * words * PACK_WORD.instructions
    )
    written = gpu.KV_HEADS * TOKENS**2 / 2 * shares.gathered * (1 / 8 + 2 / POSITIONS)
    return attention + max(gpu.issued(packing), lists_seconds(shares) + gpu.streamed(written)) + 2 * gpu.LAUNCH_SECONDS


def picked_seconds(shares: Shares, turns: float) -> float:
    """Tiles staged once for PICK_POSITIONS queries, rows picked for each query."""
    steps = gpu.KV_HEADS * TOKENS**2 / 2 * shares.density / 16
    staged = gpu.KV_HEADS * (TOKENS / PICK_POSITIONS) * (TOKENS / gpu.TILE) / 2 * shares.group_live * TILE_BYTES
    clocks = max(
        steps * PICK_READS * 4 * turns + staged / gpu.SHARED_BYTES_A_CLOCK,
        staged / gpu.L2_BYTES_A_CLOCK,
        steps * PICK_PRODUCTS * MMA_FLOP / gpu.TENSOR_FLOP_A_CLOCK,
    )
    attention = max(clocks / (gpu.MULTIPROCESSORS * gpu.CLOCK_HZ), gpu.issued(steps * PICK_INSTRUCTIONS))
    return attention + lists_seconds(shares) + 2 * gpu.LAUNCH_SECONDS


def designs(layers: list[Shares]) -> Designs:
    """Over layers that follow each other."""
    dense = len(layers) * 2 * TOKENS**2 * gpu.DIM * gpu.HEADS / gpu.DENSE_ATTENTION_FLOP_A_SECOND
    return Designs(
        tiles=dense / sum(map(tiles_seconds, layers)),
        unions=dense / sum(map(unions_seconds, layers)),
        picked=dense / sum(picked_seconds(one, one.turns) for one in layers),
        picked_without_conflicts=dense / sum(picked_seconds(one, 1) for one in layers),
    )


def rows() -> Iterator[tuple[str, list[Shares]]]:
    """What is compared: masks counted on 2048 tokens, then those of the project's goal."""
    record = read_masks(RECORDS / f"masks_xm_tiny_{LENGTHS[-1]}.json")
    for method in record.methods:
        yield f"`{method.method['name']}`", counted(method, record.group_rows, record.tile_rows)
    yield "8 of 64 in every block, a list a group, queries independent", [independent()]


def statistics_table() -> str:
    """Markdown: what was counted, means over layers and windows."""
    lines = [
        "| method | tokens | density | β(1) | β(16) | β(64) | β(128) | U(16) | heads: β(32) | heads: U(32) | turns |",
        "|" + "---|" * 11,
    ]
    records = {tokens: read_masks(RECORDS / f"masks_xm_tiny_{tokens}.json") for tokens in LENGTHS}
    for number, method in enumerate(records[LENGTHS[0]].methods):
        for tokens, record in records.items():
            one = mean_statistics([layer.statistics for layer in record.methods[number].layers])
            tile, group = record.tile_rows.index, record.group_rows.index
            shares = (one.densities.density, *(one.live_tiles[tile(n)] for n in (1, 16, 64, 128)))
            cells = [f"{100 * share:.1f} %" for share in shares] + [f"{one.unions[tile(16)]:.1f}"]
            cells += [f"{100 * one.group_live_tiles[group(32)]:.1f} %", f"{one.group_unions[group(32)]:.1f}", f"{one.gather_turns:.2f}"]
            lines.append(f"| `{method.method['name']}` | {tokens} | {' | '.join(cells)} |")
    return "\n".join(lines)


def designs_table() -> str:
    """Markdown: what each design makes of it."""
    lines = [
        "| masks | kept by a group | gathered by 32 queries | tiles skipped | unions gathered | rows picked | picked without conflicts |",
        "|" + "---|" * 7,
    ]
    for name, layers in rows():
        found = designs(layers)
        ratios = (found.tiles, found.unions, found.picked, found.picked_without_conflicts)
        shares = (fmean(one.density for one in layers), fmean(one.gathered for one in layers))
        cells = [*(f"{100 * share:.0f} %" for share in shares), *(f"{ratio:.2f}×" for ratio in ratios)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def unions_in_step() -> float:
    """The rate of tensor cores if the two warpgroups of a block never drifted apart: half of a step's products beside its softmax."""
    product = TILE_FLOP / gpu.PRODUCT_FLOP_A_CLOCK
    return TILE_FLOP / (product / 2 + max(product / 2, UNION_STEP.instructions / gpu.ISSUE_SHARE))


def sentences() -> Iterator[str]:
    """Pieces of the page's sentences."""
    by_name = dict(rows())
    shared, goal = designs(by_name["`xm_shared_sum`"]), designs([independent()])
    whole = designs([Shares(1, 1, 1, 1, 1, gpu.KV_HEADS)])
    yield f"{shared.unions:.2f} times as fast as dense attention where skipping tiles gives {shared.tiles:.2f}"
    layers, dense = by_name["`xm_shared_sum`"], 2 * TOKENS**2 * gpu.DIM * gpu.HEADS / gpu.DENSE_ATTENTION_FLOP_A_SECOND
    yield f"{len(layers) * dense / sum(unions_seconds(one, unions_in_step()) for one in layers):.2f} if they stay in step"
    yield f"a mask that costs more than {100 * (1 - 1 / shared.unions):.0f} % of dense attention takes all of it back"
    yield f"with every key kept it is {100 * (whole.tiles / whole.unions - 1):.0f} % slower than tiles"
    yield f"{goal.picked:.2f} times dense for 8 of 64 in every block, against a goal of 1.2"
    yield f"{goal.picked_without_conflicts:.2f} times if no two keys ever met in a bank"
    yield f"{independent_turns():.2f} turns instead of one (those of X:M on xm-tiny {fmean(one.turns for one in layers):.1f};"
    reads = gpu.KV_HEADS * TOKENS**2 / 2 * independent().density / 16 * PICK_READS * 4 / (gpu.MULTIPROCESSORS * gpu.CLOCK_HZ)
    yield f"less than the {dense / reads:.2f} of those reads alone"
    yield f"{PICK_READS} reads, {PICK_PRODUCTS} products and {PICK_INSTRUCTIONS} instructions for 16 keys"
    yield f"{PACK_WORD.instructions} instructions for a live word of {POSITIONS} queries"
    yield f"{UNION_STEP.instructions} instructions for 16 rows × 64 gathered keys, {UNION_FETCH.instructions} of a gathering warp"
    products = 2 * gpu.DIM * gpu.HEADS * TOKENS**2 / 2 / (2 * gpu.TENSOR_FLOP_A_CLOCK * gpu.MULTIPROCESSORS * gpu.CLOCK_HZ)
    yield f"{1e3 * products:.1f} ms of the tensor cores at {TOKENS // 1024}k tokens"


if __name__ == "__main__":
    print(statistics_table(), designs_table(), *sentences(), sep="\n\n")
