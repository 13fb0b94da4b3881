import math

import numpy as np
import pytest

from xmsim.accel_models import load_accelerator
from xmsim.accel_models.dynax import prediction_latency_cycles
from xmsim.accel_models.dynax_predictor_array import PredictionArrayConfig, tile_period_cycles
from xmsim.accel_models.dynax_top_k import PruningConfig
from xmsim.accel_models.errors import WorkloadError
from xmsim.configs.errors import ConfigError
from xmsim.configs.shipped import find_config
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


def changed(machine, **changes):
    return type(machine)(machine.name, machine.config.model_copy(update=changes))


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


def test_one_tile_with_one_hardware_block_takes_its_stages_one_after_the_other():
    keep = np.zeros((1, 32, 32), bool)
    keep[0, :, :4] = True  # 32 rows, one segment each: one full hardware block
    machine = load_accelerator("dynax_s")
    result = machine.simulate(workload(keep, causal=False))
    query_load = 2 * 32 * 64 // 128 + 50  # 128 B/cycle, 100 ns at 500 MHz
    predict = tile_period_cycles(32, 64, machine.config.prediction_array)
    latency = prediction_latency_cycles(machine.config.pruning)
    decide, scan = 1, 1
    kv_load = 2 * 2 * 32 * 64 // 128 + 50
    execute = 2 * 64 + 2 + 33
    divide, store = 32 * 64 // 128, 2 * 32 * 64 // 128
    assert result.cycles == query_load + predict + latency + decide + scan + kv_load + execute + divide + store
    assert result.metrics == {"hardware_blocks": 1, "packing_efficiency": 1.0, "overfull_blocks": 0}


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
    one_block = machine.config.kv.model_copy(update={"buffer_bytes": 2 * 2 * 32 * 64})
    streamed = changed(machine, kv=one_block).simulate(workload(keep, kv_heads=2, causal=False))
    windows = 4 * 256 // 128
    assert streamed.traffic["dram"]["read_bytes"] == queries + low_bit + windows * 2 * 2 * 256 * 64


@pytest.mark.parametrize(("buffer_bytes", "stream_blocks"), [(16384, 8), (65535, 2)])
def test_streamed_blocks_never_hold_more_places_than_there_are(buffer_bytes, stream_blocks):
    machine = load_accelerator("dynax_s")
    kv = machine.config.kv.model_copy(update={"buffer_bytes": buffer_bytes, "stream_blocks": stream_blocks})
    machine = changed(machine, kv=kv)  # two places, because no more blocks fit, or because there are no more
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


@pytest.mark.parametrize(("name", "head_dim", "predict_cycles"), [("dynax_s", 64, 1152), ("dynax_l", 128, 1248)])
def test_a_decode_step_costs_a_tile_of_one_query_and_the_blocks_it_keeps(name, head_dim, predict_cycles):
    """1000 keys, in blocks 1024, stream past one query; of two blocks it keeps one segment each, on two arrays."""
    machine = load_accelerator(name)
    config, channel = machine.config, machine.dram_channel()
    block, bits = config.pruning.block, config.prediction_array.bits
    keep = np.zeros((1, 1, 1000), bool)
    keep[0, 0, [5, 900]] = True
    result = machine.simulate(workload(keep, head_dim))
    query_bytes, low_bit_bytes, kv_bytes = 2 * head_dim, 1000 * head_dim * bits // 8, 2 * 2 * 2 * block * head_dim
    busy = {"predictor": predict_cycles, "decision": 1024 // block, "scheduler": 1, "execute": 2 * (2 * head_dim + 2), "divider": 1}
    assert {stage: result.busy[stage] for stage in busy} == busy
    assert result.traffic["dram"] == {"read_bytes": query_bytes + low_bit_bytes + kv_bytes, "write_bytes": query_bytes}
    rows = config.prediction_array.rows  # all clocked, for one query
    assert result.actions["prediction_array"] == {"mac": 1024 * rows * head_dim // config.prediction_array.group, "exp": 1024 * rows}

    sent = lambda size: math.ceil(size / channel.bytes_per_cycle)  # noqa: E731
    predicted = sent(query_bytes) + channel.latency_cycles + max(predict_cycles, sent(low_bit_bytes) + channel.latency_cycles)
    scheduled = predicted + prediction_latency_cycles(config.pruning) + 1024 // block + 1
    executed = scheduled + sent(kv_bytes) + channel.latency_cycles + 2 * head_dim + 2 + config.execute_array.rows + 1
    assert result.cycles == executed + 1 + sent(query_bytes)


def test_where_prediction_is_free_masks_cost_neither_cycles_nor_bytes():
    machine = load_accelerator("dynax_s")
    load = workload(block_mask(2, 256, 32, 8, True))
    simulated, free = machine.simulate(load), changed(machine, prediction_phase="free").simulate(load)
    assert free.cycles < simulated.cycles
    assert {free.busy[stage] for stage in ("predictor", "predictor_drain", "decision", "scheduler")} == {0}
    assert not any(count for part in ("prediction_array", "top_k", "decision", "index_buffer") for count in free.actions[part].values())
    assert simulated.traffic["dram"]["read_bytes"] - free.traffic["dram"]["read_bytes"] == 2 * 256 * 64 // 2
    for part in ("execute_array", "accumulator", "divider", "kv_buffer"):
        assert free.actions[part] == simulated.actions[part]


def test_key_blocks_before_a_sliding_window_are_skipped():
    machine = load_accelerator("dynax_s")
    keys, sliding = 256, 40
    position = np.arange(keys)[:, None]
    keep = (np.arange(keys) <= position) & (np.arange(keys) > position - sliding)
    result = machine.simulate(workload(keep[None], window=sliding))
    first = [max(0, tile - sliding + 1) // 32 for tile in range(0, keys, 32)]
    seen = [tile + 32 - 32 * block for tile, block in zip(range(0, keys, 32), first, strict=True)]
    assert seen == [32, 64, 96, 96, 96, 96, 96, 96]
    assert result.busy["predictor"] == sum(tile_period_cycles(count, 64, array()) for count in seen)
    assert result.actions["index_buffer"]["write_bytes"] == 7 * sum(seen)  # a record of 7 bytes for each of 32 rows and block of 32
    everything = changed(machine, causal_tiles="computed").simulate(workload(keep[None], window=sliding))
    assert everything.busy["predictor"] == 8 * tile_period_cycles(keys, 64, array())


def test_every_index_record_that_is_written_is_read_and_no_other():
    for name in ("dynax_s", "dynax_l"):
        records = load_accelerator(name).simulate(workload(block_mask(1, 512, 64, 16, True))).actions["index_buffer"]
        assert records["read_bytes"] == records["write_bytes"] > 0


def test_released_control_makes_a_block_longer_and_nothing_else():
    load = workload(block_mask(1, 256, 32, 8, False), causal=False)
    for name in ("dynax_s", "dynax_l"):
        skewed, released = load_accelerator(name), load_accelerator(f"{name}_released")
        same = released.config.model_copy(update={"execute_array": skewed.config.execute_array, "sources": skewed.config.sources})
        assert same == skewed.config
        rows, blocks = skewed.config.execute_array.rows, skewed.metrics(load)["hardware_blocks"]
        assert skewed.simulate(load).busy["execute"] == blocks * (2 * 64 + 2)
        assert released.simulate(load).busy["execute"] == blocks * 2 * (64 + rows)


def test_the_ripple_of_the_cascade_and_two_registers_follow_a_tile():
    assert prediction_latency_cycles(PruningConfig(block=32, kept=8)) == 10  # the exponential, 8 ranks, the record


def test_a_head_dim_the_group_does_not_divide_is_refused_with_the_nearest_group_that_does():
    message = "dynax_l: prediction_array.group: 4 does not divide head_dim 66; the nearest that does: 3"
    for act in ("simulate", "compute"):
        with pytest.raises(WorkloadError, match=message):
            getattr(load_accelerator("dynax_l"), act)(workload(np.eye(8, dtype=bool)[None], head_dim=66))


def test_a_buffer_smaller_than_a_block_is_refused_with_the_least_that_would_do():
    machine = load_accelerator("dynax_s")
    small = changed(machine, kv=machine.config.kv.model_copy(update={"buffer_bytes": 8191}))
    with pytest.raises(WorkloadError, match=r"kv.buffer_bytes: 8191 do not hold K and V of one block of 32 keys .* that do: 8192"):
        small.simulate(workload(np.eye(8, dtype=bool)[None]))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: xm_32", "name: xm", "method xm prunes blocks of 64; set pruning.block to 64 or choose a method with blocks of 32"),
        ("prediction: {group: 2, bits: 4}", "prediction: {group: 4, bits: 6}", "set group to 4 and bits to 6"),
        ("bits: 24, point: 12", "bits: 24, point: 20", "no room to add up the exponentials of 4 columns; the most that do: 19"),
        ("pipelining: block", "pipelining: tile", "pipelining: input should be 'block' or 'window'"),
        ("prediction_phase: simulated", "prediction_phase: off", "prediction_phase"),
    ],
)
def test_a_machine_that_cannot_work_is_refused_with_what_would(old, new, message, tmp_path):
    text = find_config("accelerators", "dynax_s", "machine").read_text()
    assert old in text
    (tmp_path / "mine.yaml").write_text(text.replace(old, new))
    with pytest.raises(ConfigError, match=message):
        load_accelerator(tmp_path / "mine.yaml")


def test_a_native_method_without_blocks_is_served(tmp_path):
    text = find_config("accelerators", "dynax_s", "machine").read_text()
    (tmp_path / "mine.yaml").write_text(text.replace("{name: xm_32, prediction: {group: 2, bits: 4}}", "{name: sanger}"))
    assert load_accelerator(tmp_path / "mine.yaml").config.method.load().name == "sanger"
