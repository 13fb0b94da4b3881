"""Timelines say what the log says: who held which server, why, and what waited."""

from __future__ import annotations

import gzip
import json
import math
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmsim.configs.errors import XmsimError
from xmsim.configs.record import record_kind
from xmsim.sim.compiled_engine import run_compiled
from xmsim.sim.log import EngineLog, layer_account
from xmsim.sim.schedule import UNLIMITED, Schedule, Stage
from xmsim.sim.timeline import channel_uses, queue_occupancy, server_spans, visit_servers
from xmsim.sim.trace_events import write_timeline


@pytest.fixture
def two_stages(line) -> Schedule:
    """Job 2 is done in stage 0 at 6 and leaves at 7, when job 1 starts in stage 1 and frees the place that it waited in."""
    return line([[2, 5], [2, 5], [2, 5]], queues=[1])


def rows(schedule: Schedule, log: EngineLog) -> list[tuple[str, int, int, int, int, str]]:
    """(stage, server, job, begin, cycles, cause) of every span."""
    spans = server_spans(schedule, log)
    columns = (column.tolist() for column in (spans.stage, spans.server, spans.job, spans.begin, spans.cycles, spans.cause))
    return [(schedule.stages[stage].name, *row, spans.causes[cause]) for stage, *row, cause in zip(*columns, strict=True)]


def test_spans_of_two_stages_are_those_counted_by_hand(two_stages):
    assert rows(two_stages, run_compiled(two_stages)) == [
        ("stage0", 0, 0, 0, 2, "busy"),
        ("stage0", 0, 1, 2, 2, "busy"),
        ("stage0", 0, 2, 4, 2, "busy"),
        ("stage0", 0, 2, 6, 1, "stage1_full"),
        ("stage1", 0, 0, 2, 5, "busy"),
        ("stage1", 0, 1, 7, 5, "busy"),
        ("stage1", 0, 2, 12, 5, "busy"),
    ]


def test_waiting_for_data_is_a_span_named_by_its_channel(schedule_of, job_of, visit_of, dram):
    schedule = schedule_of([Stage("load")], [job_of([visit_of(0, 2, 640)])], [dram(64)])
    assert rows(schedule, run_compiled(schedule)) == [("load", 0, 0, 0, 2, "busy"), ("load", 0, 0, 2, 8, "dram")]


def test_a_visit_takes_the_lowest_numbered_of_the_servers_that_are_free_in_its_cycle(schedule_of, job_of, visit_of):
    jobs = [job_of([visit_of(0, cycles)]) for cycles in (4, 2, 3, 2, 9, 9)]
    schedule = schedule_of([Stage("pool", servers=3)], jobs)
    log = run_compiled(schedule)
    # 0, 1, 2 start at 0; job 3 takes server 1 at 2, job 4 server 2 at 3; servers 0 and 1 are both given back at 4
    assert log.start.tolist() == [0, 0, 0, 2, 3, 4]
    assert visit_servers(schedule, log).tolist() == [0, 1, 2, 1, 2, 0]


def test_visits_that_enter_in_one_cycle_take_servers_by_when_they_were_done_before_then_new_jobs(schedule_of, job_of, visit_of):
    stages = [Stage("gate", servers=2), Stage("hold"), Stage("pool", servers=3, queue=0)]
    jobs = [
        job_of([visit_of(2, 5)]),
        job_of([visit_of(0, 3), visit_of(2, 4)]),
        job_of([visit_of(0, 3), visit_of(2, 4)]),
    ]
    begins_later = job_of([visit_of(2, 4)], after=[3])
    jobs += [job_of([visit_of(1, 5)]), begins_later, job_of([visit_of(0, 2), visit_of(2, 4)])]
    schedule = schedule_of(stages, jobs)
    log = run_compiled(schedule)
    # at 5 the server that job 0 leaves goes to job 5, done in the gate at 5, and not to job 4, which may begin from 5
    pool = schedule.visit_stage == 2
    columns = (schedule.visit_job, log.start, visit_servers(schedule, log))
    by_job = {job: (start, server) for job, start, server in zip(*(column[pool].tolist() for column in columns), strict=True)}
    assert by_job == {0: (0, 0), 1: (3, 1), 2: (3, 2), 5: (5, 0), 4: (7, 1)}


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_spans_add_up_to_busy_and_stalls_of_the_account_exactly(any_schedule, data):
    schedule = data.draw(any_schedule)
    log = run_compiled(schedule)
    sums: dict[str, dict[str, int]] = {stage.name: {"busy": 0} for stage in schedule.stages}
    for stage, _server, _job, _begin, cycles, cause in rows(schedule, log):
        assert cycles > 0
        sums[stage][cause] = sums[stage].get(cause, 0) + cycles
    account = layer_account(schedule, log)
    assert sums == {name: {"busy": busy} | account.stalls[name] for name, busy in account.busy.items()}


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_no_two_spans_of_a_server_overlap_and_no_server_is_one_too_many(any_schedule, data):
    schedule = data.draw(any_schedule)
    spans = server_spans(schedule, run_compiled(schedule))
    servers = [stage.servers for stage in schedule.stages]
    columns = (spans.stage.tolist(), spans.server.tolist(), spans.begin.tolist(), spans.cycles.tolist())
    placed = list(zip(*columns, strict=True))
    assert all(0 <= server < servers[stage] for stage, server, _, _ in placed)
    for (stage, server, begin, cycles), (next_stage, next_server, next_begin, _) in pairwise(placed):
        assert (stage, server) != (next_stage, next_server) or begin + cycles <= next_begin


def test_a_queue_changes_when_a_visit_waits_and_not_when_one_takes_the_place_of_another(two_stages):
    cycles, waiting = queue_occupancy(two_stages, run_compiled(two_stages), stage=1)
    assert cycles.tolist() == [4, 12]  # job 1 waits from 4 to 7, job 2 from 7 to 12
    assert waiting.tolist() == [1, 0]


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_queue_ends_empty_and_never_holds_more_than_its_places(any_schedule, data):
    schedule = data.draw(any_schedule)
    log = run_compiled(schedule)
    for number, stage in enumerate(schedule.stages):
        waiting = queue_occupancy(schedule, log, number)[1].tolist()
        assert not waiting or (waiting[-1] == 0 and min(waiting) == 0)
        assert stage.queue == UNLIMITED or max(waiting, default=0) <= stage.queue


def test_requests_follow_each_other_on_a_channel_in_fractions_of_a_cycle(schedule_of, job_of, visit_of, dram):
    jobs = [job_of([visit_of(0, 1, 64)]), job_of([visit_of(0, 1, 64)])]
    schedule = schedule_of([Stage("load", servers=2)], jobs, [dram(Fraction(256, 5), latency_cycles=9)])
    uses = [(use.begin_cycle, use.end_cycle) for use in channel_uses(schedule, run_compiled(schedule))]
    assert uses == [(0, Fraction(5, 4)), (Fraction(5, 4), Fraction(5, 2))]


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_channel_is_used_for_as_long_as_its_bytes_take_and_every_visit_has_its_data_by_then(any_schedule, data):
    schedule = data.draw(any_schedule)
    log = run_compiled(schedule)
    uses = list(channel_uses(schedule, log))
    busy = sum(use.end_cycle - use.begin_cycle for use in uses)
    assert busy == int(schedule.visit_bytes.sum()) / schedule.channels[0].bytes_per_cycle
    assert all(before.end_cycle <= after.begin_cycle for before, after in pairwise(uses))
    assert all(log.start[use.visit] <= use.begin_cycle and math.ceil(use.end_cycle) <= log.done[use.visit] for use in uses)


def test_the_file_holds_every_span_in_cycles_and_the_account(two_stages, tmp_path):
    path, packed = tmp_path / "run.json", tmp_path / "run.json.gz"
    log = run_compiled(two_stages)
    for name in (path, packed):
        write_timeline(name, two_stages, log, title="two stages", facts={"clock_mhz": 500})
    assert gzip.decompress(packed.read_bytes()) == path.read_bytes()
    assert record_kind(path) == "timeline"
    data = json.loads(path.read_text())
    threads = {event["tid"]: event["args"]["name"] for event in data["traceEvents"] if event["name"] == "thread_name"}
    slices = [(threads[e["tid"]], e["ts"], e["dur"], e["name"]) for e in data["traceEvents"] if e["ph"] == "X"]
    assert slices == [
        ("heads", 0, 17, "head 0"),
        ("0 stage0", 0, 2, "job 0"),
        ("0 stage0", 2, 2, "job 1"),
        ("0 stage0", 4, 2, "job 2"),
        ("0 stage0", 6, 1, "stage1_full"),
        ("1 stage1", 2, 5, "job 0"),
        ("1 stage1", 7, 5, "job 1"),
        ("1 stage1", 12, 5, "job 2"),
    ]
    counters = [(e["ts"], e["name"], e["args"]["queue"]) for e in data["traceEvents"] if e["ph"] == "C"]
    assert counters == [(0, "stage0", 2), (2, "stage0", 1), (4, "stage0", 0), (4, "stage1", 1), (12, "stage1", 0)]
    assert data["busy_cycles"] == {"stage0": 6, "stage1": 15} and data["stall_cycles"]["stage0"] == {"stage1_full": 1}
    assert data["total_cycles"] == 17 and data["clock_mhz"] == 500


def test_channel_slices_touch_and_do_not_overlap(schedule_of, job_of, visit_of, dram, tmp_path):
    schedule = schedule_of([Stage("load", servers=9)], [job_of([visit_of(0, 1, 64)])] * 9, [dram(Fraction(300, 7))])
    write_timeline(tmp_path / "run.json", schedule, run_compiled(schedule), title="loads", facts={})
    events = json.loads((tmp_path / "run.json").read_text(), parse_float=Fraction)["traceEvents"]
    crossing = [(e["ts"], e["ts"] + e["dur"]) for e in events if e["ph"] == "X" and e["name"] == "load"]
    assert len(crossing) == 9 and all(before[1] == after[0] for before, after in pairwise(crossing))


def test_perfetto_reads_the_file_to_the_end(two_stages, tmp_path):
    write_timeline(tmp_path / "run.json", two_stages, run_compiled(two_stages), title="two stages", facts={})
    text = (tmp_path / "run.json").read_text()
    assert text.startswith('{"traceEvents":[')  # it stops at the first key that it does not know
    assert "displayTimeUnit" not in text  # it would take times for nanoseconds


def test_a_file_that_cannot_be_finished_is_not_begun(two_stages, tmp_path):
    path = tmp_path / "run.json.gz"
    path.write_text("earlier")
    with pytest.raises(ValueError, match="JSON"):
        write_timeline(path, two_stages, run_compiled(two_stages), title="two stages", facts={"clock_mhz": math.nan})
    assert path.read_text() == "earlier" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(XmsimError, match="choose a folder you may write to"):
        write_timeline(path / "run.json", two_stages, run_compiled(two_stages), title="two stages", facts={})


def test_an_empty_schedule_has_an_empty_timeline(schedule_of, tmp_path):
    schedule = schedule_of([Stage("a")], [])
    write_timeline(tmp_path / "run.json", schedule, run_compiled(schedule), title="nothing", facts={})
    assert json.loads((tmp_path / "run.json").read_text())["total_cycles"] == 0
