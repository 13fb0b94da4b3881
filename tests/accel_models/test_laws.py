"""What must hold for every shipped machine, and for the documented example of one, on any mask."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmsim.accel_models import load_accelerator, shipped_accelerators
from xmsim.workloads.attention import AttentionWorkload

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "row_gather" / "row_gather.yaml"


@st.composite
def workloads(draw):
    """Masks of any density, causal or not, with queries that may be the last of the keys."""
    keys = draw(st.integers(1, 150))
    queries = draw(st.integers(1, keys))
    kv_heads, group = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    causal = draw(st.booleans())
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    keep = random.random((kv_heads * group, queries, keys)) < draw(st.sampled_from([0.0, 0.02, 0.3, 1.0]))
    if causal:
        keep &= np.arange(keys) <= np.arange(queries)[:, None] + keys - queries
    return AttentionWorkload.from_keep(keep, head_dim=draw(st.sampled_from([32, 64, 128])), kv_heads=kv_heads, causal=causal)


MACHINES = [
    *((name, projections) for name in shipped_accelerators() for projections in ("none", "simulated")),
    pytest.param(EXAMPLE, "none", id="row_gather"),
]


@pytest.mark.parametrize(("name", "projections"), MACHINES)
@settings(max_examples=40, deadline=None)
@given(workload=workloads())
def test_a_run_lies_between_its_bounds_and_every_cycle_has_a_place(name, projections, workload):
    machine = load_accelerator(name)
    result = type(machine)("other", machine.config.model_copy(update={"projections": projections})).simulate(workload)
    assert result.roofline_cycles <= result.cycles <= result.serial_cycles
    for stage, servers in result.servers.items():
        assert min([*result.stalls[stage].values(), *result.idle[stage].values(), result.busy[stage]]) >= 0
        whole = result.busy[stage] + sum(result.stalls[stage].values()) + sum(result.idle[stage].values())
        assert whole == servers * result.cycles
    phases = (result.projections.input, result.projections.output) if result.projections else ()
    assert len(phases) == (2 if projections == "simulated" else 0)
    assert sum(part.cycles for part in (*result.heads, *phases)) == result.cycles
    for verb in ("read_bytes", "write_bytes"):
        assert sum(part.traffic["dram"][verb] for part in (*result.heads, *phases)) == result.traffic["dram"][verb]
    # every query is read and every output of attention written, once
    output_bytes = 2 * workload.heads * workload.queries * workload.head_dim
    assert sum(head.traffic["dram"]["write_bytes"] for head in result.heads) == output_bytes
    assert sum(head.traffic["dram"]["read_bytes"] for head in result.heads) >= output_bytes


@pytest.mark.parametrize("name", ["dynax_s", "dynax_l"])
@settings(max_examples=25, deadline=None)
@given(workload=workloads())
def test_dram_bytes_never_rise_with_a_larger_buffer_and_the_roofline_not_with_bandwidth(name, workload):
    machine = load_accelerator(name)

    def bytes_with(buffer_bytes):
        kv = machine.config.kv.model_copy(update={"buffer_bytes": buffer_bytes})
        return type(machine)("other", machine.config.model_copy(update={"kv": kv})).simulate(workload).traffic["dram"]["read_bytes"]

    def roofline_with(gigabytes_per_second):
        dram = machine.config.dram.model_copy(update={"gigabytes_per_second": gigabytes_per_second})
        return type(machine)("other", machine.config.model_copy(update={"dram": dram})).simulate(workload).roofline_cycles

    head_kv_bytes = 2 * 2 * workload.keys * workload.head_dim
    least = 2 * 2 * machine.config.pruning.block * workload.head_dim  # one block; a smaller buffer is refused
    sizes = [bytes_with(max(least, size)) for size in (least, head_kv_bytes - 1, head_kv_bytes, 2 * head_kv_bytes)]
    assert sizes == sorted(sizes, reverse=True)
    rooflines = [roofline_with(rate) for rate in (1.0, 25.6, 128.0, 1000.0)]
    assert rooflines == sorted(rooflines, reverse=True)


@settings(max_examples=25, deadline=None)
@given(workload=workloads())
def test_execution_works_for_whole_hardware_blocks(workload):
    machine = load_accelerator("dynax_s")
    result = machine.simulate(workload)
    period = 2 * workload.head_dim + 2
    assert result.busy["execute"] == period * result.metrics["hardware_blocks"]
    kept = int(workload.kept_pairs().sum())
    assert result.actions["execute_array"]["exp"] >= kept
    assert result.actions["execute_array"]["mac"] >= 2 * kept * workload.head_dim == result.useful_macs


def test_fewer_kept_pairs_are_slower_where_a_pass_then_waits_for_the_next_tile():
    """Sanger, as docs/simulate.md has it: 64 sub-rows of the first query tile fill a pass, 63 wait for a row of the second."""
    machine = load_accelerator("sanger")
    keep = np.zeros((1, 128, 128), bool)
    keep[0, :, :16] = True
    fewer = keep.copy()
    fewer[0, 0] = False
    whole, part = (machine.simulate(AttentionWorkload.from_keep(one, head_dim=64, causal=False)) for one in (keep, fewer))
    assert whole.metrics["passes"] == part.metrics["passes"] == 2
    assert part.cycles > whole.cycles


def test_a_taller_array_under_broadcast_control_has_longer_passes():
    machine, workload = load_accelerator("sanger"), AttentionWorkload.from_keep(np.ones((1, 1, 64), bool), head_dim=64)

    def cycles(rows):
        array = machine.config.execute_array.model_copy(update={"rows": rows})
        return type(machine)("other", machine.config.model_copy(update={"execute_array": array})).simulate(workload).cycles

    assert cycles(128) == cycles(64) + 2 * 64  # the row that is used waits for all others, with scores and with values
