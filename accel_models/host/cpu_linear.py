"""Linear layers on a core: bytes from memory against rows of weights that are expanded and multiplied.

The walk is that of reference/kernels/cpu (linear_rows.cpp, linear_tiles.cpp); times of its steps are the host's constants.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from xmsim.accel_models.host.constants import LINE_BYTES, MEMORY, HostConstants
from xmsim.accel_models.host.prediction import HostPrediction, overlapped_ns
from xmsim.workloads.linear import LinearWorkload
from xmsim.workloads.measuring.calibration.core_rates import BLOCK_COLUMNS, CHUNK_GROUP, CHUNK_TIMES, PACKED_GROUPS, STORED_SPARSITY

Element = Literal["float32", "bfloat16", "int8"]
Stored = Literal["dense", "sparse"]

ELEMENT_BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}
ROW_WORDS, WORD_BYTES, TILE_ROWS = 16, 4, 16
FEW_WORDS = 256  # of a token: those of 12 tokens still lie in L1 beside the rows
GROUP_SIZES = (1, 2, 3, 4, 6, 8, 12)
MOST_GROUP = GROUP_SIZES[-1]
MEASURED_GROUPS = (1, 2, 4, 8, 12)
PASS_TOKENS = 96
TILE_TOKENS = 4  # from here on AMX tiles serve a call where the processor has them


@dataclass(frozen=True, slots=True)
class LinearShape:
    """What of a linear layer its time depends on."""

    in_features: int
    out_features: int
    tokens: int
    nonzeros: int  # weights that are stored in a sparse form

    @classmethod
    def of(cls, workload: LinearWorkload) -> LinearShape:
        return cls(workload.in_features, workload.out_features, workload.tokens, workload.nonzeros)

    @property
    def weights(self) -> int:
        return self.in_features * self.out_features


def weight_bytes(shape: LinearShape, element: Element, stored: Stored) -> float:
    """Bytes of the weights as our kernels store them: all of them, or those that are not zero and a bit for each.

    Source: the formats of the SparAMX note, sections 1.1 and 1.3.
    """
    size = ELEMENT_BYTES[element]
    return size * shape.weights if stored == "dense" else size * shape.nonzeros + shape.weights / 8


def group_size(tokens: int) -> int:
    """Tokens that share a row while it is in a register: one group where that is possible, else the least work.

    Source: linear_rows.cpp, group_size: a row costs each group its tokens, empty places too, and a load.
    """
    if tokens <= MOST_GROUP:
        return next(size for size in GROUP_SIZES if size >= tokens)
    return min(reversed(GROUP_SIZES), key=lambda size: -(-tokens // size) * (size + 1))


def linear(
    host: HostConstants, shape: LinearShape, *, element: Element, stored: Stored, threads: int, weights_in: str = MEMORY
) -> HostPrediction:
    """Time of one call of our dense or sparse layer.

    Args:
        weights_in: memory, as in decoding, where other layers' weights came between; l3 or l2 where a call finds what the last one left.
    Source: t = overlap(bytes / bandwidth, products) + fork, the roofline of docs/host_models.md.
    """
    blocks = -(-shape.out_features // BLOCK_COLUMNS)
    words = -(-shape.in_features // (TILE_ROWS * WORD_BYTES // ELEMENT_BYTES[element])) * TILE_ROWS  # of a token, padded
    rows = words * BLOCK_COLUMNS // ROW_WORDS  # of a block
    block_rows = -(-blocks // threads) * rows  # of the busiest thread
    lines = weight_bytes(shape, element, stored) / (blocks * rows) / LINE_BYTES  # of a row
    streamed = lines * host.ns("read", **{"from": weights_in, "threads": threads})
    tiles = element != "float32" and shape.tokens >= TILE_TOKENS and host.has("tiles")
    if tiles:
        memory, products = streamed, _tile_row_ns(host, shape, element, stored, threads)
        row = overlapped_ns(memory, products, host.sharpness(threads))
    elif shape.tokens <= MOST_GROUP:
        memory = streamed
        products = row_ns(host, group_size(shape.tokens), element, "whole" if stored == "dense" else "expanded", words, threads)
        row = overlapped_ns(memory, products, host.sharpness(threads))
    else:
        # memory rests while the other groups of a chunk of rows are multiplied, and starts again with the next chunk
        memory = lines * _chunk_line_ns(host, stored, threads) if weights_in == MEMORY and host.has("chunk") else streamed
        products = _groups_row_ns(host, shape.tokens, element, stored, threads)
        row = memory + products
    group = group_size(shape.tokens)
    packing = host.ns("pack", element=element, group=PACKED_GROUPS[group > 1], threads=1)
    inputs = shape.tokens * shape.in_features / LINE_BYTES * packing / min(threads, -(-shape.tokens // group))  # a group by one thread
    outputs = -(-blocks // threads) * shape.tokens * host.ns("finish", element=element, threads=1)
    fork = 2 * host.ns("fork", threads=threads) if threads > 1 else 0.0
    call = host.call_ns("linear", weight_bytes(shape, element, stored) if weights_in == MEMORY else 0)
    return HostPrediction(
        ns=call + fork + inputs + block_rows * row + outputs,
        parts_ns={
            "call": call,
            "fork": fork,
            "inputs": inputs,
            "memory": block_rows * memory,
            "products": block_rows * products,
            "outputs": outputs,
        },
    )


def _chunk_line_ns(host: HostConstants, stored: Stored, threads: int) -> float:
    """A line of a chunk of rows that is multiplied several times before memory is asked for the next: what products do not hide."""
    form = "whole" if stored == "dense" else "expanded"
    row = CHUNK_TIMES * row_ns(host, CHUNK_GROUP, "bfloat16", "whole", FEW_WORDS, threads)
    if stored == "sparse":
        row += host.ns("expand", element="bfloat16", threads=threads)
    lines = 1.0 if stored == "dense" else 1 - STORED_SPARSITY + 1 / 16
    exposed = max(0.0, host.ns("chunk", **{"stored": form, "from": MEMORY, "threads": threads}) - row)
    return exposed * host.memory_drift / lines


def _groups_row_ns(host: HostConstants, tokens: int, element: Element, stored: Stored, threads: int) -> float:
    """A row for all groups of tokens: expanded into L1 once a pass, read there by each."""
    group = group_size(tokens)
    groups = -(-tokens // group)
    passes = -(-groups // (PASS_TOKENS // group))
    expand = 0.0 if stored == "dense" else host.ns("expand", element=element, threads=threads)
    return passes * expand + groups * row_ns(host, group, element, "whole", FEW_WORDS, threads)


def row_ns(host: HostConstants, group: int, element: Element, stored: str, words: int, threads: int) -> float:
    """A row times a group of tokens with so many words each; between the sizes that were measured it grows evenly."""
    below, above = max(size for size in MEASURED_GROUPS if size <= group), min(size for size in MEASURED_GROUPS if size >= group)
    share = 0.0 if below == above else (group - below) / (above - below)
    of = {"element": element, "stored": stored, "words": "few" if words <= FEW_WORDS else "many", "from": "l1", "threads": threads}
    low, high = (host.ns("row", **of, group=size) for size in (below, above))
    return low + (high - low) * share


def _tile_row_ns(host: HostConstants, shape: LinearShape, element: Element, stored: Stored, threads: int) -> float:
    """The same on AMX: pairs of tiles, 32 rows, with up to 32 tokens at a time; expanded tiles pass through L1 each time."""
    full, rest = divmod(shape.tokens, 32)
    times = [32] * full + ([16 if rest <= 16 else 32] if rest else [])
    expand = 0.0 if stored == "dense" else host.ns("expand", element=element, threads=threads)
    return sum(expand + host.ns("tiles", element=element, tokens=tokens, threads=threads) / (2 * TILE_ROWS) for tokens in times)
