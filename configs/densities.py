"""The three densities of a keep mask, as every record writes them. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Densities:
    """Shares of a keep mask, as fractions; `allowed` pairs are those the dense model computes."""

    density: float  # kept / allowed, over query heads
    full_density: float  # kept / (queries × keys)
    kv_density: float  # keys that any query head of a KV group keeps / allowed
