"""Counting in packed mask words from compiled code, which knows no `np.bitwise_count`."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True)
def bit_count(word: np.uint64) -> int:
    """Bits set in a word."""
    pairs = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    fours = (pairs & np.uint64(0x3333333333333333)) + ((pairs >> np.uint64(2)) & np.uint64(0x3333333333333333))
    eights = (fours + (fours >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return int(np.int64((eights * np.uint64(0x0101010101010101)) >> np.uint64(56)))


@njit(cache=True)
def lowest_bit(word: np.uint64) -> int:
    """Place of the lowest bit set; 64 in 0."""
    return bit_count(~word & (word - np.uint64(1)))


@njit(cache=True)
def lowest_bits(word: np.uint64, count: int) -> np.uint64:
    """The `count` lowest bits set in a word, or all if there are no more."""
    if bit_count(word) <= count:
        return word
    rest = word
    for _ in range(count):
        rest &= rest - np.uint64(1)
    return word & ~rest


@njit(cache=True)
def span(first: int, end: int) -> np.uint64:
    """A word with the bits from `first` up to `end` set; at least one."""
    return (~np.uint64(0) >> np.uint64(64 - (end - first))) << np.uint64(first)
