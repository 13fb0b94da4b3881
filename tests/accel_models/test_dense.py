import numpy as np
import pytest

from xmsim.accel_models import load_accelerator
from xmsim.accel_models.dense import PeArrayConfig, gemm_cycles
from xmsim.accel_models.errors import WorkloadError
from xmsim.workloads.attention import AttentionWorkload


def full(heads, queries, keys, head_dim, **options):
    causal = options.get("causal", False)
    allowed = np.arange(keys) <= np.arange(queries)[:, None] + keys - queries if causal else np.ones((queries, keys), bool)
    return AttentionWorkload.from_keep(np.repeat(allowed[None], heads, axis=0), head_dim=head_dim, **{"causal": causal} | options)


@pytest.mark.parametrize(
    ("shape", "array", "cycles"),
    [
        ((512, 512, 64), (32, 32), 32_255 + 1),
        ((512, 64, 512), (32, 32), 18_367 + 1),
        ((512, 512, 64), (64, 16), 36_351 + 1),
        ((512, 64, 512), (64, 16), 18_879 + 1),
        ((1024, 1024, 128), (64, 16), 210_943 + 1),
        ((1024, 128, 1024), (64, 16), 141_055 + 1),
        ((1, 1, 1), (1, 1), 1),
    ],
)
def test_a_product_takes_one_cycle_more_than_scale_sim_prints(shape, array, cycles):
    """Left of the + 1: what SCALE-Sim prints for these layers."""
    assert gemm_cycles(*shape, PeArrayConfig(rows=array[0], columns=array[1])) == cycles


@pytest.mark.parametrize(("queries", "keys", "head_dim"), [(64, 64, 64), (100, 100, 64), (1, 77, 32), (33, 97, 80)])
@pytest.mark.parametrize("causal", [True, False])
def test_compute_cycles_are_those_of_the_two_products_of_each_head(queries, keys, head_dim, causal):
    machine = load_accelerator("dense")
    result = machine.simulate(full(3, queries, keys, head_dim, causal=causal))
    array = machine.config.pe_array
    assert result.busy["pe_array"] == 3 * (gemm_cycles(queries, keys, head_dim, array) + gemm_cycles(queries, head_dim, keys, array))


def test_cycles_do_not_depend_on_the_mask():
    machine = load_accelerator("dense")
    sparse = AttentionWorkload.from_keep(np.eye(96, dtype=bool)[None], head_dim=64)
    assert machine.simulate(sparse).cycles == machine.simulate(full(1, 96, 96, 64, causal=True)).cycles


def test_skipping_causal_tiles_computes_row_tiles_up_to_their_last_key():
    machine = load_accelerator("dense_causal")
    result = machine.simulate(full(1, 96, 96, 64, causal=True))
    array = machine.config.pe_array
    by_hand = sum(gemm_cycles(32, seen, 64, array) + gemm_cycles(32, 64, seen, array) for seen in (32, 64, 96))
    assert result.busy["pe_array"] == by_hand


def test_resident_keys_and_values_are_read_once_for_each_kv_head():
    result = load_accelerator("dense").simulate(full(4, 128, 128, 64, kv_heads=2))
    assert result.traffic["dram"] == {"read_bytes": 2 * (4 * 128 * 64 + 2 * 2 * 128 * 64), "write_bytes": 2 * 4 * 128 * 64}


def test_one_tile_alone_is_load_scores_softmax_values_store_one_after_the_other():
    machine = load_accelerator("dense")
    result = machine.simulate(full(1, 32, 32, 64))
    load_query_and_key = -(-2 * (32 * 64 + 32 * 64) // 128) + 50  # 128 B/cycle, 100 ns at 500 MHz
    scores, softmax = 64 + 62, 32
    load_values = -(-2 * 32 * 64 // 128) + 50
    values, store = 2 * (32 + 62), 2 * 32 * 64 // 128
    assert result.cycles == load_query_and_key + scores + softmax + load_values + values + store


def test_a_context_that_overflows_the_score_buffer_is_refused_with_the_way_out():
    machine = load_accelerator("dense")
    workload = AttentionWorkload.from_packed(np.zeros((1, 1, 16384 // 64), np.uint64), keys=16384, head_dim=64)
    with pytest.raises(WorkloadError, match=r"lower pe_array\.rows or raise score_buffer_bytes"):
        machine.simulate(workload)
