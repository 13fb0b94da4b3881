"""The latency models that Sanger's authors published, as they stand: one BERT-base attention layer, projections included.

They know neither heads nor prediction nor the cost of packing, and round nothing up. Nothing else of xmsim uses them.
"""

from __future__ import annotations

HIDDEN = 768  # BERT-base
OPERATIONS_PER_SECOND = 2 * 64 * 16 * 1e9  # 1024 multiply-accumulates at 1 GHz
PORTS = 64  # columns of a stripe, and rows of a pass
ROWS_PER_FULL_VECTOR = 4  # sub-rows of a vector whose 64 columns are all kept, on 16 units
REQUIRED_GIGABYTES_PER_SECOND = PORTS * 2 * 1.0  # 16-bit words on all ports at 1 GHz
DRAM_GIGABYTES_PER_SECOND = 128.0


def published_model_v1(density: float, load_balance: float, tokens: int) -> float:
    """Seconds of one layer: every operation at the peak rate, the sparse ones divided by the load balance.

    As published, the output projection is counted among the sparse ones, and `sparsity` there is our density.

    Args:
        density: share of kept pairs, in (0, 1].
        load_balance: share of the array's places that kept pairs fill, in (0, 1].
    Source: hatsu3/Sanger, bench_sanger.py: 6·n·h² + (4·n²·h + 2·n·h²)·s / b operations.
    """
    dense = 6 * tokens * HIDDEN**2
    sparse = 4 * tokens**2 * HIDDEN + 2 * tokens * HIDDEN**2
    return (dense + sparse * density / load_balance) / OPERATIONS_PER_SECOND


def published_model_v2(density: float, load_balance: float, tokens: int) -> float:
    """Seconds of one layer: the attention as passes of 64 sub-rows, while keys and values stream from DRAM.

    As published, a pass's values take as many cycles as a stripe has sub-rows, not as a head has channels, and all heads are one of
    width 768.

    Args: as `published_model_v1`.
    Source: hatsu3/Sanger, bench_sanger_v2.py: (u/64)·(n/64)·((h + 64) + (u + 64)) cycles of 1 ns with u = 4·s·n/b.
    """
    sub_rows = ROWS_PER_FULL_VECTOR * density * tokens / load_balance
    passes = sub_rows / PORTS * (tokens / PORTS)
    pass_cycles = (HIDDEN + PORTS) + (sub_rows + PORTS)
    transfer = max(1.0, REQUIRED_GIGABYTES_PER_SECOND / DRAM_GIGABYTES_PER_SECOND)
    dense = 6 * tokens * HIDDEN**2
    output_projection = 2 * tokens * HIDDEN**2 * density / load_balance
    return (dense + output_projection) / OPERATIONS_PER_SECOND + passes * pass_cycles * transfer * 1e-9
