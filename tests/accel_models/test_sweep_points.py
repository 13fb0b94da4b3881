"""Keys: what a point's result depends on, and which points share a Schedule."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import xmsim.accel_models.sweep.points
from xmsim.accel_models import load_accelerator
from xmsim.accel_models.accelerator import Accelerator
from xmsim.accel_models.machine_file import shipped_accelerators
from xmsim.accel_models.sweep.points import Axis, Point, Sweep, SweptMachine, with_values
from xmsim.sim.schedule import Channel, Schedule
from xmsim.traces.store import open_trace
from xmsim.workloads.attention import AttentionWorkload
from xmsim.workloads.methods.library import load_method

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
TRACE = open_trace(GOLDEN / "trace_v2")
ARRAYS = ("visit_start", "after_start", "after", "job_head", "visit_stage", "visit_cycles", "visit_channel", "visit_write", "visit_bytes")
OTHER = {  # another value for every field that some machine says its Schedule does not read
    "clock_mhz": 777.0,
    "dram": {"kind": "hbm2e_3200", "latency_ns": 35},
    "area": {"source": "none"},
    "technology": {"node_nm": 14, "voltage_v": 0.8, "sram_cell": "itrs-hp", "dram": "ddr4"},
    "sources": {},
}


def point(machine: str = "dynax_s", method: str | None = None, error_bars: bool = False, **values: object) -> Point:
    axes = tuple(Axis((path.replace("__", "."),), ((value,),)) for path, value in values.items())
    chosen = load_method(method) if method else None
    sweep = Sweep((SweptMachine(machine, load_accelerator(machine)),), (TRACE,), (chosen,), axes, error_bars)
    (only,) = sweep.points()
    return only


def workloads() -> list[AttentionWorkload]:
    """Causal and not, more heads than KV heads, whole tiles and not."""
    random = np.random.default_rng(3)
    keep = random.random((4, 200, 200)) < 0.2
    causal = keep & np.tri(200, dtype=bool)
    return [
        AttentionWorkload.from_keep(keep, head_dim=32, causal=False),
        AttentionWorkload.from_keep(causal, head_dim=32, kv_heads=2, hidden_size=64),
    ]


def schedules(machine: Accelerator) -> list[Schedule]:
    return [machine.layer_schedule(workload) for workload in workloads()]


def with_projections(name: str, projections: str) -> Accelerator:
    machine = load_accelerator(name)
    return type(machine)(machine.name, machine.config.model_copy(update={"projections": projections}))


@pytest.mark.parametrize("projections", ["none", "simulated"])
@pytest.mark.parametrize("name", shipped_accelerators())
def test_a_shipped_schedule_does_not_touch_the_fields_that_it_says_it_does_not_read(name: str, projections: str) -> None:
    machine = with_projections(name, projections)
    expected = schedules(machine)
    blind = type(machine)(name, machine.config.model_copy())
    blind.dram_channel = lambda: Channel("dram", expected[0].channels[0].bytes_per_cycle)  # type: ignore[method-assign]
    for field in machine.unscheduled:
        del blind.config.__dict__[field]
        with pytest.raises(AttributeError):
            getattr(blind.config, field)
    for one, other in zip(schedules(blind), expected, strict=True):
        assert one.stages == other.stages
        assert all(np.array_equal(getattr(one, array), getattr(other, array)) for array in (*ARRAYS, "visit_address", "visit_actions"))


@pytest.mark.parametrize("name", shipped_accelerators())
def test_points_that_differ_in_such_fields_alone_share_a_schedule_but_no_key(name: str) -> None:
    machine = load_accelerator(name)
    assert set(OTHER) | {"arithmetic"} == machine.unscheduled
    plain = point(name)
    for field, value in OTHER.items():
        other = point(name, **{field: value})
        assert other.schedule_key == plain.schedule_key
        assert (other.key == plain.key) == (field == "sources")  # where numbers come from changes none of them


def test_a_schedule_with_another_machines_channel_is_that_machines_schedule() -> None:
    slow, fast = load_accelerator("dynax_s"), load_accelerator("dynax_s")
    fast = type(fast)("fast", fast.config.model_copy(update={"clock_mhz": 900.0}))
    for mine, theirs in zip(schedules(slow), schedules(fast), strict=True):
        moved = replace(mine, channels=(fast.dram_channel(),))
        assert moved.channels == theirs.channels != mine.channels
        assert np.array_equal(moved.visit_cycles, theirs.visit_cycles)


def test_a_field_that_the_schedule_reads_makes_another_one() -> None:
    plain = point()
    for values in ({"execute_array__count": 2}, {"kv__buffer_bytes": 65536}, {"projections": "simulated"}, {"method__kept_low": 2}):
        assert point(**values).schedule_key != plain.schedule_key, values


def test_a_machine_of_ones_own_shares_no_schedule_unless_it_says_so() -> None:
    toy = Path(__file__).resolve().parents[2] / "docs" / "examples" / "row_gather" / "row_gather.yaml"
    assert point(str(toy)).schedule_key != point(str(toy), clock_mhz=777.0).schedule_key


def test_the_key_is_that_of_everything_a_result_depends_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plain = point()
    assert point().key == plain.key
    others = [point(dividers=64), point(method="xm"), point("dynax_l"), point(error_bars=True), point(method__prediction__bits=6)]
    monkeypatch.setattr(xmsim.accel_models.sweep.points, "model_sha256", lambda machine: "another version of the code")
    others.append(point())
    assert len({plain.key, *(other.key for other in others)}) == 7


def test_layers_and_decoded_tokens_are_part_of_every_key() -> None:
    first, *others = ((None, None), ((0,), None), ((1,), None), (None, 2), (None, 3), ((0,), 2))
    plain = part_of_trace(*first)
    for part in map(lambda one: part_of_trace(*one), others):
        assert part.key != plain.key and part.mask_key != plain.mask_key and part.schedule_key != plain.schedule_key
    assert len({part_of_trace(*one).key for one in (first, *others)}) == 6


def test_all_layers_named_are_all_layers() -> None:
    assert part_of_trace(TRACE.layers, None).key == part_of_trace(None, None).key


def part_of_trace(layers: tuple[int, ...] | None, decode_tokens: int | None) -> Point:
    machine = SweptMachine("dynax_s", load_accelerator("dynax_s"))
    (only,) = Sweep((machine,), (TRACE,), (None,), (), False, layers, decode_tokens).points()
    return only


def test_equal_configurations_have_equal_keys_whatever_is_varied() -> None:
    """A value that is varied and one that stands in the YAML are the same; keys are found in whatever order points are asked for."""
    plain = point()
    config = plain.config()
    said = {"clock_mhz": config["clock_mhz"], "kv.buffer_bytes": config["kv"]["buffer_bytes"], "dram": config["dram"], "kv": config["kv"]}
    for path, value in said.items():
        assert point(**{path.replace(".", "__"): value}).key == plain.key, path
    axes = (
        Axis(("kv.buffer_bytes",), ((65536,), (131072,))),
        Axis(("clock_mhz", "kv.outstanding_loads"), ((400.0, 2), (500.0, 4))),
    )
    sweep = Sweep((SweptMachine("dynax_s", load_accelerator("dynax_s")),), (TRACE,), (None,), axes, False)
    forwards = [one.key for one in sweep.points()]
    assert len(set(forwards)) == 4
    for place, key in reversed(list(zip([(0, 0, 0, a, b) for a in (0, 1) for b in (0, 1)], forwards, strict=True))):
        apart = replace(sweep, axes=tuple(Axis(axis.paths, (axis.steps[step],)) for axis, step in zip(axes, place[3:], strict=True)))
        assert sweep.point(place).key == key == next(apart.points()).key


def test_a_machines_own_method_given_to_all_is_the_same_result() -> None:
    assert point("dense", method="dense").key == point("dense").key


def test_a_changed_file_that_the_configuration_names_is_another_key(tmp_path: Path) -> None:
    method = tmp_path / "mine.yaml"
    method.write_text("method: topk\nkept: 8\n")
    before = point("sanger", method=str(method))
    method.write_text("method: topk\nkept: 9\n")
    assert point("sanger", method=str(method)).key != before.key


def test_values_do_not_reach_the_configuration_they_came_from() -> None:
    config = {"kv": {"buffer_bytes": 1, "stream_blocks": 2}, "dram": None}
    changed = with_values(config, {"kv.buffer_bytes": 5, "dram.kind": "x"})
    assert changed == {"kv": {"buffer_bytes": 5, "stream_blocks": 2}, "dram": {"kind": "x"}}
    assert config == {"kv": {"buffer_bytes": 1, "stream_blocks": 2}, "dram": None}
