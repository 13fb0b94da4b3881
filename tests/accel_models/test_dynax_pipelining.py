"""The two pipelinings: the one equals the closed form, the other is that plus what the closed form leaves out."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmsim.accel_models import load_accelerator
from xmsim.accel_models.dynax_pipelining import HIDDEN, pipelining_causes, without_stages
from xmsim.accel_models.dynax_predictor_array import tile_period_cycles
from xmsim.accel_models.dynax_window_pipeline import window_closed_form, window_execute_cycles
from xmsim.sim.compiled_engine import run_compiled
from xmsim.sim.schedule import bounds
from xmsim.workloads.attention import AttentionWorkload

GOLDEN = Path(__file__).parents[1] / "golden"


def variant(name, *, unlimited_channel=False, window_tiles=None, **changes):
    machine = load_accelerator(name)
    config = machine.config
    if unlimited_channel:
        changes["dram"] = config.dram.model_copy(update={"gigabytes_per_second": 1e6, "latency_ns": 0.0})
    if window_tiles:
        changes["scheduler"] = config.scheduler.model_copy(update={"window_tiles": window_tiles})
    return type(machine)(name, config.model_copy(update=changes))


def full_blocks(machine, tokens, head_dim, hardware_blocks):
    """A mask of which each tile fills so many hardware blocks: every row keeps 2 segments of the first key blocks, and 1 of the others."""
    array, block = machine.config.execute_array, machine.config.pruning.block
    keep = np.zeros((1, tokens, tokens // block, block), bool)
    twice = hardware_blocks - tokens // block
    keep[:, :, :twice, : 2 * array.columns] = True
    keep[:, :, twice:, : array.columns] = True
    return AttentionWorkload.from_keep(keep.reshape(1, tokens, tokens), head_dim=head_dim, causal=False)


@pytest.mark.parametrize("engine", ["compiled", "event"])
@pytest.mark.parametrize(("hardware_blocks", "cycles"), [(24, 13648), (20, 11568)])
def test_the_small_machine_with_512_tokens_takes_the_cycles_of_the_closed_form(hardware_blocks, cycles, engine):
    machine = variant("dynax_s", unlimited_channel=True, window_tiles=1, pipelining="window")
    assert window_execute_cycles(hardware_blocks, 64, machine.config.execute_array) == {24: 813, 20: 683}[hardware_blocks]
    assert window_closed_form([640] * 16, [window_execute_cycles(hardware_blocks, 64, machine.config.execute_array)] * 16) == cycles
    result = machine.simulate(full_blocks(machine, 512, 64, hardware_blocks), engine)
    assert result.metrics["hardware_blocks"] == 16 * hardware_blocks
    assert result.cycles == cycles


@pytest.mark.parametrize(
    ("name", "tokens", "head_dim", "causal", "cycles"),
    [("dynax_s", 512, 64, False, 10240), ("dynax_l", 2048, 128, True, 40960), ("dynax_l", 4096, 128, True, 147456)],
)
def test_the_predictor_alone_bounds_a_head_by_its_tile_periods(name, tokens, head_dim, causal, cycles):
    machine = load_accelerator(name)
    workload = AttentionWorkload.from_keep(np.eye(tokens, dtype=bool)[None], head_dim=head_dim, causal=causal)
    assert machine.simulate(workload).busy["predictor"] == cycles


@st.composite
def layers(draw):
    """A machine with the pipelining of the closed form, and a mask of any density on it."""
    machine = variant(
        draw(st.sampled_from(["dynax_s", "dynax_l", "dynax_s_released", "dynax_l_released"])),
        unlimited_channel=True,
        window_tiles=draw(st.integers(1, 4)),
        pipelining="window",
        prediction_phase=draw(st.sampled_from(["simulated", "simulated", "free"])),
        causal_tiles=draw(st.sampled_from(["skipped", "computed"])),
    )
    keys = draw(st.integers(1, 400))
    queries, causal = draw(st.integers(1, keys)), draw(st.booleans())
    kv_heads, group = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    keep = random.random((kv_heads * group, queries, keys)) < draw(st.sampled_from([0.0, 0.001, 0.1, 1.0]))
    if causal:
        keep &= np.arange(keys) <= np.arange(queries)[:, None] + keys - queries
    workload = AttentionWorkload.from_keep(keep, head_dim=draw(st.sampled_from([32, 64, 128])), kv_heads=kv_heads, causal=causal)
    return machine, keep, workload


def closed_form(machine, keep, workload):
    """By hand from the unpacked mask: tiles and hardware blocks of each window of each head."""
    config, offset = machine.config, workload.query_offset
    rows, block = config.prediction_array.rows, config.pruning.block
    window_rows = rows * config.scheduler.window_tiles
    predict, execute = [], []
    for head in keep:
        for first in range(0, workload.queries, window_rows):
            end = min(first + window_rows, workload.queries)
            predict.append(0)
            for tile in range(first, end, rows):
                seen = workload.keys
                if workload.causal and config.causal_tiles == "skipped":
                    seen = offset + min(tile + rows, workload.queries)
                period = tile_period_cycles(-(-seen // block) * block, workload.head_dim, config.prediction_array)
                predict[-1] += period if config.prediction_phase == "simulated" else 1  # the cycle that asks for the queries
            kept = np.add.reduceat(head[first:end].astype(int), np.arange(0, workload.keys, block), axis=1)
            waiting = (-(-kept // config.execute_array.columns)).sum(axis=0)
            blocks = int((-(-waiting // config.execute_array.rows)).sum())
            execute.append(window_execute_cycles(blocks, workload.head_dim, config.execute_array))
    return window_closed_form(predict, execute)


@settings(max_examples=100, deadline=None)
@given(layers())
def test_both_engines_equal_the_closed_form_on_any_mask(layer):
    machine, keep, workload = layer
    expected = closed_form(machine, keep, workload)
    assert machine.simulate(workload, "compiled").cycles == expected == machine.simulate(workload, "event").cycles


@settings(max_examples=50, deadline=None)
@given(layers())
def test_both_pipelinings_do_the_same_work_and_read_the_same_bytes(layer):
    machine, _, workload = layer
    finer = type(machine)("finer", machine.config.model_copy(update={"pipelining": "block"})).simulate(workload)
    whole = machine.simulate(workload)
    assert finer.actions == whole.actions
    assert finer.traffic == whole.traffic


def golden_masks():
    for path in sorted(GOLDEN.glob("dynax_mask_*_256.npz")):
        file = np.load(path)
        for name in file:
            if name.endswith("__bits"):
                keep = np.unpackbits(file[name])[: 2 * 256 * 256].reshape(2, 256, 256).astype(bool)
                yield f"{path.stem} {name}", keep


@pytest.mark.parametrize("name", ["dynax_s", "dynax_l", "dynax_s_released", "dynax_l_released"])
def test_finer_pipelining_is_never_slower_on_golden_masks_and_the_difference_is_told_by_cause(name):
    machine = load_accelerator(name)
    faster = 0
    for label, keep in golden_masks():
        for head_dim in (64, 128):
            workload = AttentionWorkload.from_keep(keep, head_dim=head_dim)
            causes = pipelining_causes(machine, workload)
            assert causes["overlap"] <= 0, label
            assert min(causes[cause] for cause in (*HIDDEN, "memory")) >= 0, label
            assert sum(causes.values()) == machine.simulate(workload).cycles
            faster += causes["overlap"] < 0
    assert faster > 0


def test_a_stage_that_is_left_out_leaves_the_others_and_their_order():
    machine = load_accelerator("dynax_s")
    schedule = machine.schedule(AttentionWorkload.from_keep(np.tril(np.ones((1, 64, 64), bool)), head_dim=64))
    shorter = without_stages(schedule, ["decision", "store"])
    assert shorter.visits == schedule.visits - 2 - 1  # two tiles, one window
    assert bounds(shorter)[1] < bounds(schedule)[1]
    assert run_compiled(shorter).cycles < run_compiled(schedule).cycles
