"""SALOv2's matching module: scores of a block in few bits, sums along its rows, columns and diagonals, and from them its pattern."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from xmsim.accel_models.bitonic import top_k_comparators, top_k_latency
from xmsim.accel_models.salo_pattern import BLOCK
from xmsim.configs.schema import Config, PositiveInt


class MatchingConfig(Config):
    """An array of 64 × 64 low-bit units, a module that finds the best window, and a sorter."""

    bits: Annotated[int, Field(ge=2, le=8)]
    sorted_keys: Annotated[int, Field(ge=1, le=BLOCK)]  # largest of 64 that the sorter finds
    key_buffer_bytes: PositiveInt  # low-bit keys of one KV head stay here if they fit, else every tile streams them again
    pattern_buffer_blocks: Annotated[int, Field(ge=1, le=2**16)]  # blocks matched ahead of the array


def scoring_cycles(head_dim: int) -> int:
    """Cycles that a block holds the array: scores, reduction, clear. Source: performance_model.py, (d + 1) and 1 of flush."""
    return head_dim + 2


def window_search_cycles() -> int:
    """Cycles from the array's last one for a block until its window is known.

    Source: performance_model.py, 2·B + 2 after d + 1; about what the released LocalModule takes to slide over 127 diagonal sums.
    """
    return 2 * BLOCK + 1


def sorting_cycles() -> int:
    """Cycles that a block holds the sorter: its rows, row sums and column sums, a vector a cycle. Source: released RTL (PEArray)."""
    return BLOCK + 2


def matching_period_cycles(head_dim: int) -> int:
    """Cycles from one block to the next: those of the array, as published, or of the sorter, whichever takes longer (inferred)."""
    return max(scoring_cycles(head_dim), sorting_cycles())


def matching_latency_cycles(head_dim: int, config: MatchingConfig) -> int:
    """Cycles from a block's start to its last pick: scores, window, and sorting of what the window leaves (inferred).

    Source of the sorter's own latency: released RTL (BitonicSort), 15 cycles for 4 of 64.
    """
    return scoring_cycles(head_dim) + window_search_cycles() + sorting_cycles() + top_k_latency(BLOCK, config.sorted_keys)


def sorter_compares(config: MatchingConfig) -> int:
    """Compare-and-exchange operations for a block."""
    return sorting_cycles() * top_k_comparators(BLOCK, config.sorted_keys)


def pattern_record_bytes(picks: int, global_lines: int) -> int:
    """Bytes of a block's pattern: its window's first diagonal, the global row and column, and each row's picks (inferred)."""
    index_bits = (BLOCK - 1).bit_length()
    return -(-(index_bits + 1 + 2 * global_lines * index_bits + BLOCK * picks * index_bits) // 8)
