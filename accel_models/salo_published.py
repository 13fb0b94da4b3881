"""The performance models that SALO's authors published, as they stand. Nothing else of xmsim uses them.

They know no memory, no merge of passes beyond the array, and no part of a mask but its width.
"""

from __future__ import annotations

from dataclasses import dataclass

PROJECTION_FACTOR = 0.14  # v2 multiplies both projections by it; 9 / 64 = 0.1406 (window and global over block), or fitted: unexplained
MULTIPLIERS = 128  # what v2's printed figure is scaled to
_PRINTED_UNITS = 64 * 12 + 8  # of the array, whatever its size
_PRINTED_MATCHING_UNITS = 64 * 64
_PRINTED_BLOCK = 64


@dataclass(frozen=True, slots=True)
class PublishedEstimate:
    """What a published model says of the sparse attention of one layer."""

    cycles: float  # whole, unless the tokens do not fill blocks
    seconds: float
    utilisation: float  # operations / (seconds × peak); not a share, it can pass 1
    parts: dict[str, float]  # what the model says besides


def published_model_v1(
    tokens: int, window: int, dim: int, heads: int, *, pe_rows: int, pe_cols: int, pe_globals: int, clock_ghz: float = 1.0
) -> PublishedEstimate:
    """SALO v1: a pass for each group of rows and piece of the window.

    Args:
        window: keys that a query sees besides global ones.
        dim: channels of all heads.
    Source: sjtu-zhao-lab/SALO, tree of the DAC 2022 release, performance_model.py: (2·d + 3 + C)·it + (it − 1) + (C + G − 1).
    """
    head_dim = dim // heads
    passes = -(-tokens // pe_rows) * -(-window // pe_cols) * heads
    cycles = (2 * head_dim + 3 + pe_cols) * passes + (passes - 1) + (pe_cols + pe_globals - 1)
    seconds = cycles / clock_ghz / 1e9
    operations = tokens * (window + 2 * pe_globals) * (4 * head_dim * heads + 4)
    peak = (pe_rows * pe_cols + pe_globals * pe_rows + pe_cols) * 2 * clock_ghz * 1e9
    return PublishedEstimate(cycles, seconds, operations / (seconds * peak), {"passes": passes})


def published_matching_cycles(tokens: int, dim: int, heads: int, *, block: int = 64) -> int:
    """Cycles of SALOv2's pattern matching. Source: performance_model.py: (d + 1)·it + (it − 1) + 2·B + 2, it = ceil(n / B)²·heads."""
    blocks = (-(-tokens // block)) ** 2 * heads
    return (dim // heads + 1) * blocks + (blocks - 1) + 2 * block + 2


def published_model_v2(
    tokens: int,
    window: int,
    dim: int,
    heads: int,
    *,
    block: int = 64,
    globals: int = 1,
    randoms: int = 3,
    pe_rows: int = 64,
    pe_cols: int = 8,
    pe_globals: int = 1,
    pe_randoms: int = 3,
    clock_ghz: float = 1.0,
    projection_factor: float = PROJECTION_FACTOR,
    round_blocks_up: bool = False,
) -> PublishedEstimate:
    """SALOv2: a pass for each block of the score matrix.

    `parts` has matching_cycles and matching_seconds, qkv_projection_seconds and output_projection_seconds, layer_seconds (all
    four together, each unit with its own multipliers), and the authors' figure for 128 multipliers twice: printed_ms, as they print
    it, divides the array's part by the number of blocks (36 of 384 tokens); undivided_ms does not.

    Args:
        window, globals, randoms: keys that a query sees in each block.
        dim: channels of all heads.
        projection_factor: what both projections are multiplied by; 0.14 as published, 1.0 for all of their operations.
        round_blocks_up: count blocks that the tokens fill in part as whole ones; as published, they count in part.
    Source: sjtu-zhao-lab/SALO, performance_model.py: (2·d + 2)·it + (it − 1) + (C + X + G − 1).
    """
    blocks: float = (-(-tokens // block) if round_blocks_up else tokens / block) ** 2
    passes = blocks * -(-block // pe_rows) * -(-window // pe_cols) * heads
    cycles = (2 * (dim // heads) + 2) * passes + (passes - 1) + (pe_cols + pe_randoms + pe_globals - 1)
    seconds = cycles / clock_ghz / 1e9
    peak = (pe_rows * pe_cols + (pe_randoms + 2 * pe_globals) * pe_rows) * 2 * clock_ghz * 1e9
    operations = blocks * block * (window + randoms + 2 * globals) * (4 * dim + 3)
    utilisation = operations / (seconds * peak)
    qkv_projection = 6 * tokens * dim**2 * projection_factor / peak / utilisation
    output_projection = 2 * tokens * dim**2 * projection_factor / peak / utilisation
    matching_cycles = published_matching_cycles(tokens, dim, heads, block=block)
    matching = matching_cycles / clock_ghz / 1e9
    array = qkv_projection + seconds + output_projection
    scaled_matching = _PRINTED_MATCHING_UNITS / MULTIPLIERS * matching
    scaled_array = _PRINTED_UNITS / MULTIPLIERS * array
    parts = {
        "passes": passes,
        "matching_cycles": matching_cycles,
        "matching_seconds": matching,
        "qkv_projection_seconds": qkv_projection,
        "output_projection_seconds": output_projection,
        "layer_seconds": matching + array,
        "printed_ms": (scaled_matching + scaled_array / (tokens / _PRINTED_BLOCK) ** 2) * 1e3,
        "undivided_ms": (scaled_matching + scaled_array) * 1e3,
    }
    return PublishedEstimate(cycles, seconds, utilisation, parts)
