import numpy as np
import pytest

from xmsim.accel_models import load_accelerator
from xmsim.accel_models.errors import WorkloadError
from xmsim.accel_models.systolic import output_stationary_cycles
from xmsim.workloads.attention import AttentionWorkload


def full(heads, queries, keys, head_dim, **options):
    causal = options.get("causal", False)
    allowed = np.arange(keys) <= np.arange(queries)[:, None] + keys - queries if causal else np.ones((queries, keys), bool)
    return AttentionWorkload.from_keep(np.repeat(allowed[None], heads, axis=0), head_dim=head_dim, **{"causal": causal} | options)


def sliding(heads, queries, keys, head_dim, window):
    position, key = np.arange(queries)[:, None] + keys - queries, np.arange(keys)
    allowed = (key <= position) & (key > position - window)
    return AttentionWorkload.from_keep(np.repeat(allowed[None], heads, axis=0), head_dim=head_dim, window=window)


@pytest.mark.parametrize(("queries", "keys", "head_dim"), [(64, 64, 64), (100, 100, 64), (1, 77, 32), (33, 97, 80)])
@pytest.mark.parametrize("causal", [True, False])
def test_compute_cycles_are_those_of_the_two_products_of_each_head(queries, keys, head_dim, causal):
    machine = load_accelerator("dense")
    result = machine.simulate(full(3, queries, keys, head_dim, causal=causal))
    array = machine.config.pe_array
    assert result.busy["pe_array"] == 3 * (
        output_stationary_cycles(queries, keys, head_dim, array) + output_stationary_cycles(queries, head_dim, keys, array)
    )


def test_cycles_do_not_depend_on_the_mask():
    machine = load_accelerator("dense")
    sparse = AttentionWorkload.from_keep(np.eye(96, dtype=bool)[None], head_dim=64)
    assert machine.simulate(sparse).cycles == machine.simulate(full(1, 96, 96, 64, causal=True)).cycles


def test_skipping_causal_tiles_computes_row_tiles_up_to_their_last_key():
    machine = load_accelerator("dense_causal")
    result = machine.simulate(full(1, 96, 96, 64, causal=True))
    array = machine.config.pe_array
    by_hand = sum(output_stationary_cycles(32, seen, 64, array) + output_stationary_cycles(32, 64, seen, array) for seen in (32, 64, 96))
    assert result.busy["pe_array"] == by_hand


def test_resident_keys_and_values_are_read_once_for_each_kv_head():
    result = load_accelerator("dense").simulate(full(4, 128, 128, 64, kv_heads=2))
    assert result.traffic["dram"] == {"read_bytes": 2 * (4 * 128 * 64 + 2 * 2 * 128 * 64), "write_bytes": 2 * 4 * 128 * 64}


def test_one_tile_alone_is_load_scores_softmax_values_store_one_after_the_other():
    machine = load_accelerator("dense")
    result = machine.simulate(full(1, 32, 32, 64))
    load_query_and_key = -(-2 * (32 * 64 + 32 * 64) // 256) + 50  # 256 B/cycle, 100 ns at 500 MHz
    scores, softmax = 64 + 62, 32
    load_values = -(-2 * 32 * 64 // 256) + 50
    values, store = 2 * (32 + 62), 2 * 32 * 64 // 256
    assert result.cycles == load_query_and_key + scores + softmax + load_values + values + store


def test_a_sliding_window_leaves_out_the_tiles_that_lie_before_it():
    machine = load_accelerator("dense_causal")
    result = machine.simulate(sliding(1, 96, 200, 64, window=50))
    array = machine.config.pe_array
    # queries 0 to 31 stand at keys 104 to 135, the first of them sees keys 55 to 104
    spans = [136 - 55, 168 - 87, 200 - 119]
    by_hand = sum(output_stationary_cycles(32, keys, 64, array) + output_stationary_cycles(32, 64, keys, array) for keys in spans)
    assert result.busy["pe_array"] == by_hand
    # keys that an earlier tile has loaded stay
    assert result.traffic["dram"]["read_bytes"] == 2 * 64 * (96 + 2 * (200 - 55))


def test_a_sliding_window_is_computed_in_full_where_tiles_are_computed():
    machine = load_accelerator("dense")
    assert machine.simulate(sliding(1, 96, 200, 64, window=50)).cycles == machine.simulate(full(1, 96, 200, 64, causal=True)).cycles


def test_keys_and_values_that_do_not_fit_are_streamed_for_every_tile_of_every_head():
    machine = load_accelerator("dense_causal")
    head_bytes = 2 * 2 * 96 * 64
    small = type(machine)("small", machine.config.model_copy(update={"kv_buffer_bytes": head_bytes - 1}))
    workload = full(4, 96, 96, 64, kv_heads=2, causal=True)
    queries, streamed, kept = 4 * 96, 4 * (32 + 64 + 96), 2 * 96
    assert small.simulate(workload).traffic["dram"]["read_bytes"] == 2 * 64 * (queries + 2 * streamed)
    assert machine.simulate(workload).traffic["dram"]["read_bytes"] == 2 * 64 * (queries + 2 * kept)


def test_the_softmax_of_a_tile_hides_behind_the_scores_of_the_next():
    machine = load_accelerator("dense")
    one, two = (machine.simulate(full(1, 32 * tiles, 512, 64)) for tiles in (1, 2))
    assert two.cycles < 2 * one.cycles - two.busy["softmax"] // 2
    assert two.busy["softmax"] == 2 * 512


@pytest.mark.parametrize("name", ["dense", "dense_causal", "dense_ws"])
@pytest.mark.parametrize("keys", [512, 4096])  # kept on chip, and streamed
def test_the_array_waits_for_the_first_operands_and_the_last_softmax_alone(name, keys):
    result = load_accelerator(name).simulate(full(2, keys, keys, 128, causal=True))
    idle = result.cycles - result.busy["pe_array"]
    last_softmax = result.busy["softmax"] // result.metrics["query_tiles"] * 2  # of a causal head's last tile, twice the mean
    assert idle < 10_000 + last_softmax
    assert idle < 0.06 * result.cycles


def test_a_decode_step_computes_one_row_of_a_tile():
    machine = load_accelerator("dense")
    result = machine.simulate(full(8, 1, 500, 64, kv_heads=2, causal=True))
    assert result.busy["pe_array"] == 8 * (output_stationary_cycles(1, 500, 64, machine.config.pe_array) + 2 * (500 + 62))
    assert result.actions["pe_array"]["mac"] == 8 * 32 * 32 * (-(-500 // 32) * 64 + 2 * 500)  # all units, 31 of 32 rows of which are idle


def test_a_context_that_overflows_the_score_buffer_is_refused_with_the_nearest_sizes_that_work():
    def with_queries(count):
        return AttentionWorkload.from_packed(np.zeros((1, count, 16384 // 64), np.uint64), keys=16384, head_dim=64)

    machine = load_accelerator("dense")
    with pytest.raises(WorkloadError, match=r"is 1048576; raise it to 2097152, or lower pe_array\.rows to 16"):
        machine.simulate(with_queries(32))
    assert machine.simulate(with_queries(1)).cycles > 0
    array = machine.config.pe_array.model_copy(update={"rows": 16})
    assert type(machine)("lower", machine.config.model_copy(update={"pe_array": array})).simulate(with_queries(32)).cycles > 0
    higher = machine.config.model_copy(update={"score_buffer_bytes": 2097152})
    assert type(machine)("higher", higher).simulate(with_queries(32)).cycles > 0


def test_the_share_of_useful_slots_is_that_of_kept_pairs_in_the_cycles_of_the_array():
    machine = load_accelerator("dense_causal")
    workload = full(2, 96, 96, 64, causal=True)
    result = machine.simulate(workload)
    assert result.metrics["query_tiles"] == 6
    assert result.metrics["mac_slot_utilisation"] == result.useful_macs / (result.busy["pe_array"] * 1024)
