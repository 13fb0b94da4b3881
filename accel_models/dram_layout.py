"""Where the tensors of a layer are in DRAM: what decides which rows a machine's requests open, and nothing else."""

from __future__ import annotations

from typing import NamedTuple

from numba import njit

from xmsim.workloads.attention import AttentionWorkload

PAGE_BYTES = 4096  # regions begin at one


class DramLayout(NamedTuple):
    """Queries, keys with their values, low-bit keys, and outputs, in this order, each head after head.

    A key is followed by its value, since all machines here but the dense arrays bring both in one request; those have them apart.
    """

    queries: int
    keys: int
    row_bytes: int  # of a query, a key, a value or an output
    low_bit_row_bits: int
    key_at: int
    low_bit_key_at: int
    output_at: int


def dram_layout(workload: AttentionWorkload, word_bytes: int, low_bits: int = 0) -> DramLayout:
    """Regions for `word_bytes` an element, and keys of `low_bits` for prediction beside them."""
    row_bytes, low_bit_row_bits = workload.head_dim * word_bytes, workload.head_dim * low_bits
    query_bytes = workload.heads * workload.queries * row_bytes
    key_at = _next_page(query_bytes)
    low_bit_key_at = _next_page(key_at + workload.kv_heads * workload.keys * 2 * row_bytes)
    output_at = _next_page(low_bit_key_at + workload.kv_heads * -(-workload.keys * low_bit_row_bits // 8))
    return DramLayout(workload.queries, workload.keys, row_bytes, low_bit_row_bits, key_at, low_bit_key_at, output_at)


def _next_page(address: int) -> int:
    return -(-address // PAGE_BYTES) * PAGE_BYTES


@njit(cache=True)
def query_address(layout: DramLayout, head: int, query: int) -> int:
    """Of a query of a query head."""
    return (head * layout.queries + query) * layout.row_bytes


@njit(cache=True)
def key_value_address(layout: DramLayout, kv_head: int, key: int) -> int:
    """Of a key, which its value follows."""
    return layout.key_at + (kv_head * layout.keys + key) * 2 * layout.row_bytes


@njit(cache=True)
def key_address(layout: DramLayout, kv_head: int, key: int) -> int:
    """Of a key where all keys of a head come before its values."""
    return layout.key_at + (2 * kv_head * layout.keys + key) * layout.row_bytes


@njit(cache=True)
def value_address(layout: DramLayout, kv_head: int, key: int) -> int:
    """Of the value of a key, behind all keys of the head."""
    return layout.key_at + ((2 * kv_head + 1) * layout.keys + key) * layout.row_bytes


@njit(cache=True)
def low_bit_key_address(layout: DramLayout, kv_head: int, key: int) -> int:
    """Of a key in the precision of the prediction."""
    head_bytes = -(-layout.keys * layout.low_bit_row_bits // 8)
    return layout.low_bit_key_at + kv_head * head_bytes + key * layout.low_bit_row_bits // 8


@njit(cache=True)
def output_address(layout: DramLayout, head: int, query: int) -> int:
    """Of the output for a query of a query head."""
    return layout.output_at + (head * layout.queries + query) * layout.row_bytes
