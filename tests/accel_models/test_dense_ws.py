import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmsim.accel_models import load_accelerator
from xmsim.accel_models.dense_ws import scalesim_weight_stationary_cycles
from xmsim.accel_models.errors import WorkloadError
from xmsim.accel_models.systolic import weight_stationary_cycles
from xmsim.workloads.attention import AttentionWorkload


def full(heads, queries, keys, head_dim, **options):
    causal = options.get("causal", False)
    allowed = np.arange(keys) <= np.arange(queries)[:, None] + keys - queries if causal else np.ones((queries, keys), bool)
    return AttentionWorkload.from_keep(np.repeat(allowed[None], heads, axis=0), head_dim=head_dim, **{"causal": causal} | options)


def machine_with(**parts):
    shipped = load_accelerator("dense_ws")
    return type(shipped)("other", shipped.config.model_copy(update=parts))


@pytest.mark.parametrize(("queries", "keys", "head_dim"), [(64, 64, 64), (128, 500, 80), (1, 77, 32)])
def test_queries_that_make_one_tile_take_the_two_products_of_each_head(queries, keys, head_dim):
    machine = load_accelerator("dense_ws")
    array = machine.config.pe_array
    expected = weight_stationary_cycles(queries, keys, head_dim, array) + weight_stationary_cycles(queries, head_dim, keys, array)
    assert machine.simulate(full(3, queries, keys, head_dim)).busy["pe_array"] == 3 * expected
    printed = sum(scalesim_weight_stationary_cycles(queries, *shape, array) for shape in [(keys, head_dim), (head_dim, keys)])
    assert printed == expected - 2  # SCALE-Sim prints one cycle too few for each layer


def test_every_further_tile_loads_all_folds_again():
    machine = load_accelerator("dense_ws")
    folds = 2 * 8 + 2 * 8  # 64 channels and 256 keys in parts of 32, twice
    rows, load_and_skew = 300, 94
    assert machine.simulate(full(1, rows, 256, 64)).busy["pe_array"] == folds * (rows + 3 * load_and_skew)


def test_longer_query_tiles_are_never_slower_on_the_array():
    busy = [machine_with(query_tile=tile).simulate(full(1, 512, 512, 64)).busy["pe_array"] for tile in (32, 64, 128, 256, 512)]
    assert busy == sorted(busy, reverse=True) and busy[0] > 2 * busy[-1]


def test_partial_sums_are_added_up_outside_once_for_each_fold():
    result = load_accelerator("dense_ws").simulate(full(2, 100, 70, 64))
    assert result.actions["accumulator"]["add"] == 2 * (100 * 70 * 2 + 100 * 64 * 3)
    assert load_accelerator("dense").simulate(full(2, 100, 70, 64)).actions["accumulator"]["add"] == 0


def test_both_dataflows_move_and_multiply_the_same():
    """Where tiles of queries are as long, only cycles and partial sums tell the dataflows apart."""
    workload = full(2, 96, 96, 64)
    stationary_sums = load_accelerator("dense").simulate(workload)
    stationary_weights = machine_with(query_tile=32).simulate(workload)
    assert stationary_sums.traffic == stationary_weights.traffic
    assert {k: v for k, v in stationary_sums.actions.items() if k != "accumulator"} == {
        k: v for k, v in stationary_weights.actions.items() if k != "accumulator"
    }


def test_a_long_query_tile_is_refused_by_its_own_name():
    with pytest.raises(WorkloadError, match="lower query_tile to 64"):
        load_accelerator("dense_ws").simulate(full(1, 128, 16384, 64))


@settings(max_examples=25, deadline=None)
@given(
    queries=st.integers(1, 120),
    earlier=st.integers(0, 60),
    window=st.one_of(st.none(), st.integers(1, 100)),
    group=st.integers(1, 3),
    skipped=st.booleans(),
)
@pytest.mark.parametrize("name", ["dense", "dense_ws"])
def test_dram_bytes_never_rise_with_the_key_buffer_and_every_query_sees_its_keys(name, queries, earlier, window, group, skipped):
    keys = queries + earlier
    workload = AttentionWorkload.from_packed(
        np.zeros((2 * group, queries, -(-keys // 64)), np.uint64), keys=keys, head_dim=32, kv_heads=2, window=window
    )
    shipped = load_accelerator(name)
    tiling = {"causal_tiles": "skipped" if skipped else "computed"}
    sizes = [1, 4 * keys * 32 - 1, 4 * keys * 32, 8 * keys * 32]
    machines = [type(shipped)("other", shipped.config.model_copy(update=tiling | {"kv_buffer_bytes": size})) for size in sizes]
    read = [machine.simulate(workload).traffic["dram"]["read_bytes"] for machine in machines]
    assert read == sorted(read, reverse=True)
    tiles = machines[0].tiles(workload)
    assert tiles.queries.sum() == queries
    position = np.cumsum(tiles.queries) + earlier  # one past the last of each tile
    first_seen = np.maximum(position - tiles.queries - (window or keys) + 1, 0)
    assert np.array_equal(tiles.end_key, position if skipped else np.full_like(position, keys))
    assert np.array_equal(tiles.first_key, first_seen if skipped else np.zeros_like(position))
