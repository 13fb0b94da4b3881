"""A pipelined bitonic network that finds the k largest of n: one vector a cycle, `top_k_latency` cycles through.

Source: SALOv2, hardware/src/matching/BitonicSort. Stage s of a full network has s register levels. Once groups hold twice as many
keys as are wanted (k rounded up to a power of two), the lower half of each sorted group is dropped and the rest merged pairwise.
"""

from __future__ import annotations


def top_k_stages(keys: int, kept: int) -> tuple[tuple[int, int], ...]:
    """Each stage as (keys in it, register levels).

    Raises: ValueError: keys is no power of two, at least 2; kept is not between 1 and keys.
    """
    if keys < 2 or keys & (keys - 1):
        raise ValueError(f"keys: {keys} is no power of two, at least 2")
    if not 1 <= kept <= keys:
        raise ValueError(f"kept: {kept} must be between 1 and keys, {keys}")
    stages = (keys - 1).bit_length()
    full = min((kept - 1).bit_length() + 1, stages)
    sorting = tuple((keys, level) for level in range(1, full + 1))
    pruned = tuple((keys >> number, full) for number in range(1, stages - full + 1))
    return sorting + pruned


def top_k_latency(keys: int, kept: int) -> int:
    """Cycles from a vector's entry to its k largest."""
    return sum(levels for _, levels in top_k_stages(keys, kept))


def top_k_comparators(keys: int, kept: int) -> int:
    """Compare-and-exchange units of the network: one for each pair of keys at each level."""
    return sum(size // 2 * levels for size, levels in top_k_stages(keys, kept))
