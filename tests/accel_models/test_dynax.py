import numpy as np
import pytest

from xmsim.accel_models import load_accelerator
from xmsim.accel_models.dynax import (
    ExecuteArrayConfig,
    PredictionArrayConfig,
    PruningConfig,
    block_drain_cycles,
    block_period_cycles,
    index_record_bytes,
    prediction_latency_cycles,
    segments,
    tile_period_cycles,
)
from xmsim.accel_models.errors import WorkloadError
from xmsim.sim.event_engine import run_events
from xmsim.workloads.attention import AttentionWorkload


def array(rows=32, columns=32, group=2, bits=4):
    return PredictionArrayConfig(rows=rows, columns=columns, group=group, bits=bits, key_buffer_bytes=1)


def block_mask(heads, tokens, block, kept, causal, seed=0):
    """X of every `block` keys kept at random, X in {0, kept / 2, kept}."""
    draw = np.random.default_rng(seed)
    x = draw.choice([0, kept // 2, kept], size=(heads, tokens, tokens // block, 1))
    keep = (draw.random((heads, tokens, tokens // block, block)).argsort(axis=-1) < x).reshape(heads, tokens, tokens)
    return keep & np.tril(np.ones((tokens, tokens), bool)) if causal else keep


def workload(keep, head_dim=64, **options):
    return AttentionWorkload.from_keep(keep, head_dim=head_dim, **options)


@pytest.mark.parametrize(
    ("keys", "head_dim", "config", "cycles"),
    [
        (512, 64, array(), 640),  # ceil to 2 of 64 + 512 + 32 + 32 − 1
        (384, 64, array(), 512),
        (2048, 128, array(rows=64, group=4, bits=6), 2272),  # ceil to 4 of 128 + 2048 + 32 + 64 − 1
        (512, 128, array(), 1280),  # twice as wide as the array: two passes
        (9, 32, PredictionArrayConfig(rows=4, columns=4, group=2, bits=4, key_buffer_bytes=1), 4 * 24),
    ],
)
def test_a_tile_period_is_load_keys_and_skew_in_phase_with_the_group_counter(keys, head_dim, config, cycles):
    assert tile_period_cycles(keys, head_dim, config) == cycles


def test_execution_periods_are_those_of_the_two_control_schemes():
    skewed = ExecuteArrayConfig(count=4, rows=32, columns=4, control="skewed")
    broadcast = skewed.model_copy(update={"control": "broadcast"})
    assert (block_period_cycles(64, skewed), block_drain_cycles(skewed)) == (130, 33)
    assert (block_period_cycles(64, broadcast), block_drain_cycles(broadcast)) == (192, 2)


@pytest.mark.parametrize(("block", "kept", "size_bytes"), [(32, 8, 7), (64, 16, 14)])
def test_an_index_record_is_nine_times_smaller_than_the_scores(block, kept, size_bytes):
    assert index_record_bytes(PruningConfig(block=block, kept=kept)) == size_bytes


def test_segments_come_from_kept_keys():
    assert segments(np.array([0, 1, 4, 5, 8, 9, 32]), 4).tolist() == [0, 1, 1, 2, 2, 3, 8]


def test_one_tile_with_one_hardware_block_takes_its_stages_one_after_the_other():
    keep = np.zeros((1, 32, 32), bool)
    keep[0, :, :4] = True  # 32 rows, one segment each: one full hardware block
    machine = load_accelerator("dynax_s")
    result = machine.simulate(workload(keep, causal=False))
    query_load = 2 * 32 * 64 // 128 + 50  # 128 B/cycle, 100 ns at 500 MHz
    predict = tile_period_cycles(32, 64, machine.config.prediction_array)
    latency = prediction_latency_cycles(machine.config.prediction_array, machine.config.pruning)
    decide, scan = 1, 1
    kv_load = 2 * 2 * 32 * 64 // 128 + 50
    execute = 2 * 64 + 2 + 33
    divide, store = 32 * 64 // 128, 2 * 32 * 64 // 128
    assert result.cycles == query_load + predict + latency + decide + scan + kv_load + execute + divide + store
    assert result.metrics == {"hardware_blocks": 1, "packing_efficiency": 1.0, "overfull_blocks": 0}


@pytest.mark.parametrize(("machine", "tokens", "head_dim", "causal"), [("dynax_s", 512, 64, False), ("dynax_l", 512, 128, True)])
def test_cycles_stay_near_the_closed_form_of_predict_and_execute(machine, tokens, head_dim, causal):
    """max(predict, execute) of each window, one after the other; with memory for free the engine adds only pipeline latencies."""
    machine = load_accelerator(machine)
    free_memory = machine.config.dram.model_copy(update={"gigabytes_per_second": 1e6, "latency_ns": 0.0})
    config = machine.config.model_copy(update={"dram": free_memory})
    machine = type(machine)("free_memory", config)
    load = workload(block_mask(1, tokens, config.pruning.block, config.pruning.kept, causal), head_dim, causal=causal)
    window_rows = config.scheduler.window_tiles * config.prediction_array.rows
    counts = segments(load.block_counts(config.pruning.block), config.execute_array.columns)[0]
    predict, execute = [], []
    for first in range(0, tokens, window_rows):
        ends = range(first + config.prediction_array.rows, first + window_rows + 1, config.prediction_array.rows)
        predict.append(sum(tile_period_cycles(end if causal else tokens, head_dim, config.prediction_array) for end in ends))
        blocks = sum(-(-int(n) // config.execute_array.rows) for n in counts[first : first + window_rows].sum(axis=0))
        period = block_period_cycles(head_dim, config.execute_array)
        execute.append(-(-blocks // config.execute_array.count) * period + block_drain_cycles(config.execute_array))
    closed = predict[0] + sum(max(p, e) for p, e in zip(predict[1:], execute, strict=False)) + execute[-1]
    blocks = tokens // config.pruning.block
    latency = prediction_latency_cycles(config.prediction_array, config.pruning) + blocks + config.scheduler.window_tiles * blocks
    divide = window_rows * head_dim // config.dividers
    hand_overs = 8  # one cycle each: loads, store
    assert closed <= machine.simulate(load).cycles <= closed + len(predict) * latency + divide + hand_overs


def test_a_mask_that_keeps_nothing_reads_no_keys_at_full_precision():
    result = load_accelerator("dynax_s").simulate(workload(np.zeros((1, 64, 64), bool)))
    low_bit_keys, queries = 64 * 64 // 2, 2 * 64 * 64
    assert result.traffic["dram"]["read_bytes"] == low_bit_keys + queries
    assert result.busy["execute"] == 0 and result.metrics["packing_efficiency"] == 0.0


def test_resident_keys_are_read_once_for_a_kv_group_and_streamed_ones_for_every_window():
    keep = np.repeat(block_mask(1, 256, 32, 8, False), 4, axis=0)
    machine = load_accelerator("dynax_s")
    resident = machine.simulate(workload(keep, kv_heads=2, causal=False))
    queries, low_bit, kv = 2 * 4 * 256 * 64, 2 * 256 * 64 // 2, 2 * 2 * 2 * 256 * 64
    assert resident.traffic["dram"]["read_bytes"] == queries + low_bit + kv
    streaming = machine.config.model_copy(update={"kv": machine.config.kv.model_copy(update={"buffer_bytes": 1})})
    streamed = type(machine)("streaming", streaming).simulate(workload(keep, kv_heads=2, causal=False))
    windows = 4 * 256 // 128
    assert streamed.traffic["dram"]["read_bytes"] == queries + low_bit + windows * 2 * 2 * 256 * 64


def test_streamed_blocks_never_hold_more_places_than_the_buffer_has():
    machine = load_accelerator("dynax_s")
    config = machine.config.model_copy(update={"kv": machine.config.kv.model_copy(update={"buffer_bytes": 1, "stream_blocks": 2})})
    machine = type(machine)("two_places", config)
    schedule = machine.schedule(workload(block_mask(1, 256, 32, 8, False), causal=False))
    log = run_events(schedule)
    loads = [j for j in range(schedule.jobs) if schedule.visit_start[j] < schedule.visits and _first_stage(schedule, j) == "kv_load"]
    for number in range(2, len(loads)):
        earlier = [j for j in range(loads[number - 2], loads[number - 1]) if _first_stage(schedule, j) == "execute"]
        assert log.start[schedule.visit_start[loads[number]]] >= max(log.finish[j] for j in earlier)


def _first_stage(schedule, job):
    visit = schedule.visit_start[job]
    return schedule.stages[schedule.visit_stage[visit]].name if visit < schedule.visit_start[job + 1] else None


def test_prediction_runs_at_most_two_windows_ahead_of_execution():
    machine = load_accelerator("dynax_s")
    schedule = machine.schedule(workload(block_mask(1, 512, 32, 8, False), causal=False))
    log = run_events(schedule)
    loads = [j for j in range(schedule.jobs) if _first_stage(schedule, j) == "query_load"]
    barriers = [j for j in range(schedule.jobs) if _first_stage(schedule, j) is None]
    executed = [log.finish[j] for j in barriers]  # K and V are resident: the only barriers are those behind windows
    tiles = machine.config.scheduler.window_tiles
    for number, job in enumerate(loads):
        if number // tiles >= 2:
            assert log.start[schedule.visit_start[job]] >= executed[number // tiles - 2]


def test_causal_tiles_are_skipped_in_whole_key_blocks():
    machine = load_accelerator("dynax_s")
    keep = block_mask(1, 128, 32, 8, True)
    by_hand = sum(tile_period_cycles(keys, 64, machine.config.prediction_array) for keys in (32, 64, 96, 128))
    assert machine.simulate(workload(keep)).busy["predictor"] == by_hand


def test_blocks_with_more_than_n_kept_keys_are_served_and_counted():
    result = load_accelerator("dynax_s").simulate(workload(np.tril(np.ones((1, 64, 64), bool))))
    assert result.metrics["overfull_blocks"] == sum(1 for i in range(64) for b in (0, 32) if min(max(i + 1 - b, 0), 32) > 8)
    assert result.actions["execute_array"]["exp"] >= 64 * 65 // 2


@pytest.mark.parametrize(("queries", "keys"), [(1, 100), (37, 100), (100, 100)])
def test_odd_lengths_and_decode_are_served_within_their_bounds(queries, keys):
    allowed = np.arange(keys) <= np.arange(queries)[:, None] + keys - queries
    for name in ("dynax_s", "dynax_l"):
        result = load_accelerator(name).simulate(workload(np.repeat(allowed[None], 2, axis=0), kv_heads=1))
        assert result.roofline_cycles <= result.cycles <= result.serial_cycles
        assert sum(head.cycles for head in result.heads) == result.cycles
        assert result.useful_macs == 2 * 64 * 2 * int(allowed.sum())


def test_a_head_dim_the_group_does_not_divide_is_refused():
    with pytest.raises(WorkloadError, match="head_dim 66 is no multiple"):
        load_accelerator("dynax_l").simulate(workload(np.eye(8, dtype=bool)[None], head_dim=66))
