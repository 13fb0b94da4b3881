import numpy as np
import pytest

from xmsim.accel_models import load_accelerator
from xmsim.accel_models.errors import WorkloadError
from xmsim.accel_models.sanger import Sanger, SangerConfig, sub_row_record_bytes
from xmsim.accel_models.sanger_arithmetic import score_peak
from xmsim.accel_models.sanger_array import PassOperands, pass_period_cycles, trace_passes
from xmsim.accel_models.shift_exp import exp_table, shift_exp
from xmsim.sim.event_engine import run_events
from xmsim.workloads.attention import AttentionOperands, AttentionWorkload

PASS, TILE = 384, 256  # cycles of a pass and of a prediction tile of `sanger` with 64 channels


def workload(keep, head_dim=64, causal=False, **options):
    return AttentionWorkload.from_keep(keep, head_dim=head_dim, causal=causal, **options)


def machine_with(name="sanger", **parts):
    """A shipped machine with keys of parts of its configuration replaced: `pack={"split": "column"}`."""
    machine = load_accelerator(name)
    changed = {
        part: keys if not isinstance(keys, dict) else getattr(machine.config, part).model_copy(update=keys) for part, keys in parts.items()
    }
    return Sanger("changed", machine.config.model_copy(update=changed))


def test_one_tile_with_one_pass_takes_its_stages_one_after_the_other():
    keep = np.zeros((1, 64, 64), bool)
    keep[0, :, :16] = True  # 64 rows, one sub-row each
    result = load_accelerator("sanger").simulate(workload(keep))
    query_load = 2 * 64 * 64 // 256 + 50  # 256 B/cycle, 100 ns at 500 MHz
    kv_load = 2 * 2 * 64 * 64 // 256 + 50
    row_sums = 1 + 16
    divide, store = 64 * 64 // 64, 2 * 64 * 64 // 256
    pack = 64
    assert result.cycles == query_load + TILE + pack + kv_load + PASS + row_sums + divide + store
    assert result.metrics == {"passes": 1, "sub_rows": 64, "load_balance": 1.0, "mac_slot_utilisation": 1.0}


def test_passes_follow_each_other_without_a_gap_when_their_masks_are_there():
    keep = np.random.default_rng(0).random((1, 128, 256)) < 0.6
    machine = machine_with(prediction_phase="free")
    result = machine.simulate(workload(keep))
    passes = result.metrics["passes"]
    assert result.busy["execute"] == passes * PASS
    assert result.idle["execute"]["starved"] == 0 and not result.stalls["execute"]
    assert result.busy["predictor"] == result.busy["pack"] == 0


def test_a_head_waits_for_its_first_masks_and_the_next_head_is_predicted_meanwhile():
    """Four heads with one tile each, all keys kept: execution (4 passes a head) hides prediction (1 tile) of all but the first."""
    result = load_accelerator("sanger").simulate(workload(np.ones((4, 64, 64), bool)))
    alone = load_accelerator("sanger").simulate(workload(np.ones((1, 64, 64), bool)))
    assert result.cycles == alone.cycles + 3 * 4 * PASS


def test_execution_of_a_stripe_begins_before_the_whole_window_is_predicted():
    schedule = load_accelerator("sanger").schedule(workload(np.ones((1, 512, 64), bool)))
    log = run_events(schedule)
    names = [schedule.stages[stage].name for stage in schedule.visit_stage]
    first_pass = min(log.start[visit] for visit, name in enumerate(names) if name == "execute")
    last_mask = max(log.done[visit] for visit, name in enumerate(names) if name == "pack")
    assert first_pass < last_mask


def test_prediction_runs_at_most_two_windows_ahead_of_execution():
    machine = machine_with(pack={"window_rows": 64})
    schedule = machine.schedule(workload(np.ones((1, 512, 64), bool)))
    log = run_events(schedule)
    first = {name: [] for name in ("query_load", "divider")}
    finished = []
    for job in range(schedule.jobs):
        name = schedule.stages[schedule.visit_stage[schedule.visit_start[job]]].name
        if name == "kv_load":
            finished.append(log.finish[job])
        elif name in first:
            first[name].append(log.start[schedule.visit_start[job]])
    executed = finished[3::4]  # 64 rows of 64 kept keys: 4 passes a window
    assert len(executed) == 8
    assert all(start >= done for start, done in zip(first["query_load"][2:], executed, strict=False))


@pytest.mark.parametrize(
    ("kept", "split", "empty_rows", "passes", "sub_rows"),
    [
        (16, "row", "skipped", 1, 32),  # 32 of 64 rows keep 16 keys
        (16, "row", "kept", 1, 64),
        (17, "row", "skipped", 1, 64),
        (17, "row", "kept", 2, 96),
        (16, "column", "kept", 1, 64),
        (17, "column", "skipped", 2, 64),
        (17, "column", "kept", 2, 128),
        (64, "row", "skipped", 2, 128),
        (64, "column", "kept", 4, 256),
    ],
)
def test_splits_count_sub_rows_and_passes_as_by_hand(kept, split, empty_rows, passes, sub_rows):
    keep = np.zeros((1, 64, 64), bool)
    keep[0, ::2, :kept] = True
    result = machine_with(pack={"split": split, "empty_rows": empty_rows}).simulate(workload(keep))
    assert (result.metrics["passes"], result.metrics["sub_rows"]) == (passes, sub_rows)
    assert result.metrics["load_balance"] == 32 * kept / (16 * sub_rows)
    assert result.busy["execute"] == passes * PASS
    repeated = passes - 1 if split == "column" else 0
    assert result.busy["pack"] == 64 + repeated


def test_a_pass_of_the_column_split_streams_its_own_columns_alone():
    keep = np.ones((1, 64, 64), bool)
    queries, low_bit_keys = 2 * 64 * 64, 64 * 64 // 2
    by_column = load_accelerator("sanger_rtl_split").simulate(workload(keep))
    by_row = load_accelerator("sanger").simulate(workload(keep))
    assert by_column.traffic["dram"]["read_bytes"] == queries + low_bit_keys + 2 * 2 * 64 * 64
    assert by_row.traffic["dram"]["read_bytes"] == queries + low_bit_keys + 4 * 2 * 2 * 64 * 64


def test_keys_and_values_stream_for_every_pass_and_low_bit_keys_once_for_a_kv_group_if_they_fit():
    keep = np.ones((4, 128, 128), bool)
    for buffer_bytes, times in ((128 * 64 // 2, 2), (128 * 64 // 2 - 1, 4 * 2)):
        machine = machine_with(prediction_array={"key_buffer_bytes": buffer_bytes})
        result = machine.simulate(workload(keep, kv_heads=2))
        passes = 4 * 2 * 8
        assert result.metrics["passes"] == passes
        streamed = passes * 2 * 2 * 64 * 64
        assert result.traffic["dram"]["read_bytes"] == 4 * 2 * 128 * 64 + times * 128 * 64 // 2 + streamed


@pytest.mark.parametrize(
    ("causal_tiles", "window", "tiles"), [("computed", None, 16), ("skipped", None, 1 + 2 + 3 + 4), ("skipped", 64, 1 + 2 + 2 + 2)]
)
def test_tiles_in_which_no_query_sees_a_key_are_predicted_or_not(causal_tiles, window, tiles):
    keep = np.eye(256, dtype=bool)[None]
    result = machine_with(causal_tiles=causal_tiles).simulate(workload(keep, causal=True, window=window))
    assert result.busy["predictor"] == tiles * TILE
    assert result.busy["pack"] == tiles * 64


def test_vectors_above_the_diagonal_take_no_row_even_where_empty_ones_are_kept():
    keep = np.eye(128, dtype=bool)[None]
    causal = machine_with(pack={"empty_rows": "kept"}).simulate(workload(keep, causal=True))
    full = machine_with(pack={"empty_rows": "kept"}).simulate(workload(keep))
    assert (causal.metrics["sub_rows"], full.metrics["sub_rows"]) == (128 + 64, 4 * 64)


def test_the_clock_changes_cycles_through_memory_alone():
    keep = np.random.default_rng(0).random((2, 128, 128)) < 0.3
    at_500, at_1000 = (load_accelerator(name).simulate(workload(keep)) for name in ("sanger", "sanger_1ghz"))
    assert at_500.busy == at_1000.busy | {"kv_load": at_500.busy["kv_load"]}
    assert at_500.cycles < at_1000.cycles < 1.1 * at_500.cycles


def test_skewed_control_needs_the_passes_of_the_second_published_model_and_two_cycles():
    machine = load_accelerator("sanger_skewed")
    assert pass_period_cycles(768, machine.config.execute_array) == (768 + 64) + (768 + 64) + 2
    keep = np.random.default_rng(0).random((2, 128, 128)) < 0.3
    assert machine.simulate(workload(keep)).cycles < load_accelerator("sanger").simulate(workload(keep)).cycles


@pytest.mark.parametrize("name", ["sanger", "sanger_rtl_split", "sanger_skewed"])
@pytest.mark.parametrize(("queries", "keys", "window"), [(1, 100, None), (37, 100, None), (100, 100, 30), (130, 200, 70)])
def test_odd_lengths_windows_and_decode_are_served_within_their_bounds(name, queries, keys, window):
    position = np.arange(queries)[:, None] + keys - queries
    allowed = (np.arange(keys) <= position) & (np.arange(keys) > position - (window or keys))
    result = load_accelerator(name).simulate(workload(np.repeat(allowed[None], 2, axis=0), causal=True, kv_heads=1, window=window))
    assert result.roofline_cycles <= result.cycles <= result.serial_cycles
    assert sum(head.cycles for head in result.heads) == result.cycles
    assert result.useful_macs == 2 * 64 * 2 * int(allowed.sum()) <= result.actions["execute_array"]["mac"]


def test_one_decoded_token_takes_a_pass_for_each_stripe_it_keeps_keys_of():
    keep = np.zeros((1, 1, 640), bool)
    keep[0, 0, [0, 5, 200, 639]] = True
    result = load_accelerator("sanger").simulate(workload(keep, causal=True))
    assert result.metrics["passes"] == 3
    assert result.busy["predictor"] == 10 * TILE


def test_a_mask_that_keeps_nothing_reads_no_keys_at_full_precision():
    result = load_accelerator("sanger").simulate(workload(np.zeros((1, 64, 64), bool)))
    assert result.traffic["dram"]["read_bytes"] == 64 * 64 // 2 + 2 * 64 * 64
    assert result.metrics == {"passes": 0, "sub_rows": 0, "load_balance": 0.0, "mac_slot_utilisation": 0.0}


def test_a_window_larger_than_the_head_is_the_head():
    keep = np.random.default_rng(0).random((2, 130, 130)) < 0.2
    whole, more = (machine_with(pack={"window_rows": rows}).simulate(workload(keep)) for rows in (192, 2**30))
    assert whole == more


def test_a_packed_sub_row_is_a_select_code_for_each_unit():
    assert sub_row_record_bytes(load_accelerator("sanger").config.execute_array) == 14  # 16 codes of 7 bits


def test_a_window_that_cuts_a_tile_is_refused_with_the_nearest_that_does_not():
    config = load_accelerator("sanger").config.model_dump()
    config["pack"]["window_rows"] = 200
    with pytest.raises(ValueError, match="200 is no multiple of the 64 rows of prediction_array; the nearest that is: 192"):
        SangerConfig.model_validate(config)


def operands(heads, queries, keys, head_dim, kv_heads=None, spread=1.0, slopes=None, seed=0):
    random = np.random.default_rng(seed)
    kv_heads = kv_heads or heads
    q = random.standard_normal((heads, queries, head_dim), dtype=np.float32) * np.float32(spread)
    k, v = random.standard_normal((2, kv_heads, keys, head_dim), dtype=np.float32)
    return AttentionOperands(q, k, v, head_dim**-0.5, slopes)


def causal(heads, queries, keys, share=1.0, seed=0):
    allowed = np.arange(keys) <= np.arange(queries)[:, None] + keys - queries
    return allowed & (
        (np.random.default_rng(seed).random((heads, queries, keys)) < share) | np.eye(queries, keys, keys - queries, dtype=bool)
    )


@pytest.mark.parametrize("name", ["sanger", "sanger_rtl_split"])
@pytest.mark.parametrize(
    ("heads", "queries", "keys", "kv_heads", "slopes"),
    [(2, 100, 100, 2, None), (4, 64, 150, 2, None), (4, 1, 90, 1, None), (2, 96, 96, 2, np.array([0.05, 0.01], np.float32))],
)
def test_the_machine_s_arithmetic_stays_within_one_percent_of_exact_attention(name, heads, queries, keys, kv_heads, slopes):
    given = operands(heads, queries, keys, 32, kv_heads, slopes=slopes)
    keep = causal(heads, queries, keys, share=0.5)
    result = load_accelerator(name).compute(workload(keep, 32, causal=True, kv_heads=kv_heads, operands=given))
    assert 1e-5 < result.error.relative < 0.01
    assert result.error.relative < result.error_to_dense.relative


def test_kept_pairs_far_below_their_row_s_maximum_count_as_if_at_the_floor():
    """The unit serves no negative scores: 1 / e^peak of the maximum is the least that a kept pair weighs."""
    q, k = np.ones((1, 1, 1), np.float32), np.array([[[0.0], [20.0]]], np.float32)
    given = AttentionOperands(q, k, np.array([[[1.0], [0.0]]], np.float32), 1.0)
    output = load_accelerator("sanger").compute(workload(np.ones((1, 1, 2), bool), 1, operands=given)).output
    assert output.item() == pytest.approx(1 / (1 + 2**10), rel=0.02)


def test_narrow_words_show_in_the_error():
    given = workload(causal(1, 64, 64), 32, causal=True, operands=operands(1, 64, 64, 32))
    wide, narrow = (machine_with(arithmetic={"bits": bits, "point": point}).compute(given) for bits, point in ((32, 16), (16, 8)))
    assert wide.error.relative < 0.01 < 0.1 < narrow.error.relative


def test_a_row_that_keeps_nothing_gives_zeros():
    keep = causal(1, 8, 8)
    keep[0, 3] = False
    output = load_accelerator("sanger").compute(workload(keep, 32, causal=True, operands=operands(1, 8, 8, 32))).output
    assert not output[0, 3].any() and output[0, 4].any()


def test_compute_without_operands_is_refused():
    with pytest.raises(WorkloadError, match="make it with operands"):
        load_accelerator("sanger").compute(workload(causal(1, 8, 8), causal=True))


def test_compute_equals_the_register_model_pass_by_pass():
    """The preset of the accumulators enters the register model as one more channel: its key is 1."""
    machine = machine_with(
        prediction_array={"rows": 4, "columns": 4}, pack={"window_rows": 8}, execute_array={"rows": 4, "pes": 2, "ports": 8}
    )
    array, bits, point = machine.config.execute_array, 32, 16
    given = operands(1, 8, 16, 6, spread=0.5)
    keep = causal(1, 8, 16, share=0.6)[0]
    result = machine.compute(workload(keep[None], 6, causal=True, operands=given))

    one = 2**point
    value_scale = 2.0 ** np.ceil(np.log2(np.abs(given.v).max()))
    q = np.rint(given.q[0].astype(np.float64) * given.scale * one).astype(np.int64)
    k, v = (np.rint(x[0] * float(one)).astype(np.int64) for x in (given.k, given.v / value_scale))
    steps = [np.float32(7) / np.abs(x).max() for x in (given.q, given.k)]
    predicted = np.rint(given.q[0] * steps[0]) @ np.rint(given.k[0] * steps[1]).T * (given.scale / float(steps[0]) / float(steps[1]))
    predicted[~(np.arange(16) <= np.arange(8)[:, None] + 8)] = -np.inf
    start = np.rint((score_peak(machine.config.arithmetic, array.pes) - predicted.max(axis=1)) * one).astype(np.int64)

    sub_rows = []
    for first in (0, 8):
        for query in range(8):
            kept = np.flatnonzero(keep[query, first : first + 8])
            sub_rows += [(first, query, kept[place : place + 2]) for place in range(0, len(kept), 2)]
    sums = np.zeros((8, 7), np.int64)
    for first, query, kept in sub_rows:
        idle = [column for column in range(8) if column not in kept][: 2 - len(kept)]
        columns = np.sort([*kept, *idle])
        extended = np.append(q[query], start[query])
        keys = np.concatenate([k[first : first + 8], np.full((8, 1), one)], axis=1)
        values = np.concatenate([v[first : first + 8], np.zeros((8, 1), np.int64)], axis=1)
        row = PassOperands(np.tile(extended, (4, 1)), keys, values, np.tile(columns, (4, 1)), np.tile(np.isin(columns, kept), (4, 1)))
        trace = trace_passes([row], array, bits=bits, point=point)
        begin = pass_period_cycles(7, array) - (7 + 8 + 4 - 1) + 8
        sums[query, :6] += trace.outputs[begin : begin + 6, 0]
        sums[query, 6] += trace.row_sums[-1, 0] - len(idle) * shift_exp(0, bits, point, exp_table(point))
    expected = (sums[:, :6] << point) // sums[:, 6:] / one * value_scale
    assert np.array_equal(result.output[0], expected)
