"""What docs/semantics.md says, on schedules small enough to count by hand, for each engine."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmsim.sim.compiled_engine import run_compiled
from xmsim.sim.event_engine import run_events
from xmsim.sim.log import head_accounts, idle_cycles, layer_account
from xmsim.sim.schedule import Stage, bounds

pytestmark = pytest.mark.parametrize("run", [run_events, run_compiled])


def test_a_full_queue_stalls_the_producer(run, line):
    log = run(line([[2, 5], [2, 5], [2, 5]], queues=[1]))
    # job 2 is done in stage 0 at 6; stage 1 serves job 0 until 7, and job 1 holds the one place until then
    assert log.done[4] == 6
    assert log.leave[4] == 7
    assert log.cycles == 2 + 5 + 5 + 5


def test_without_a_queue_a_visit_is_handed_over_only_to_a_free_server(run, line):
    log = run(line([[2, 5], [2, 5]], queues=[0]))
    assert log.leave[2] == log.start[3] == 7


def test_a_place_freed_in_a_cycle_is_filled_in_the_same_cycle(run, line):
    log = run(line([[1, 3], [1, 3], [1, 3]], queues=[1]))
    assert log.leave[4] == log.enter[5] == log.start[3] == 4


def test_waiting_visits_start_in_order_of_entering_not_of_job_number(run, schedule_of, job_of, visit_of):
    stages = [Stage("slow"), Stage("fast"), Stage("shared")]
    schedule = schedule_of(stages, [job_of([visit_of(0, 4), visit_of(2, 5)]), job_of([visit_of(1, 2), visit_of(2, 5)])])
    log = run(schedule)
    assert log.start[3] == 2 and log.start[1] == 7


def test_done_visits_enter_before_a_job_that_begins_in_the_stage(run, schedule_of, job_of, visit_of):
    stages = [Stage("first"), Stage("second", queue=0)]
    jobs = [job_of([visit_of(1, 3)]), job_of([visit_of(1, 3)]), job_of([visit_of(0, 3), visit_of(1, 3)])]
    log = run(schedule_of(stages, jobs))
    assert log.start[3] == 3 and log.start[1] == 6  # the visit done at 3 goes before job 1, which waited from 0


def test_equally_done_visits_enter_by_job_number(run, schedule_of, job_of, visit_of):
    stages = [Stage("many", servers=2), Stage("one", queue=0)]
    log = run(schedule_of(stages, [job_of([visit_of(0, 3), visit_of(1, 2)])] * 2))
    assert log.start[1] == 3 and log.start[3] == 5


def test_nothing_overtakes_the_head_of_an_issue_list(run, schedule_of, job_of, visit_of):
    stages = [Stage("a"), Stage("b")]
    jobs = [job_of([visit_of(0, 10)]), job_of([visit_of(1, 1)], after=[0]), job_of([visit_of(1, 1)])]
    log = run(schedule_of(stages, jobs))
    assert log.start[1] == 10 and log.start[2] == 11


def test_a_barrier_finishes_with_the_last_job_it_waits_for(run, schedule_of, job_of, visit_of):
    jobs = [job_of([visit_of(0, 3)]), job_of([visit_of(0, 4)]), job_of([], after=[0, 1]), job_of([], after=[2]), job_of([])]
    log = run(schedule_of([Stage("a")], jobs))
    assert log.finish.tolist() == [3, 7, 7, 7, 0]


def test_a_barrier_that_waits_for_a_free_barrier_finishes_at_zero_and_releases_once(run, schedule_of, job_of, visit_of):
    jobs = [job_of([]), job_of([], after=[0]), job_of([visit_of(0, 3)]), job_of([visit_of(0, 1)], after=[1, 2])]
    log = run(schedule_of([Stage("a")], jobs))
    assert log.finish.tolist() == [0, 0, 3, 4]


def test_requests_of_one_cycle_are_placed_by_stage_then_job(run, schedule_of, job_of, visit_of, dram):
    stages = [Stage("low", servers=2), Stage("high")]
    jobs = [job_of([visit_of(1, 1, 64)]), job_of([visit_of(0, 1, 64)]), job_of([visit_of(0, 1, 64)])]
    log = run(schedule_of(stages, jobs, [dram(64)]))
    assert log.done.tolist() == [3, 1, 2]


def test_bandwidth_is_exact_over_many_requests(run, schedule_of, job_of, visit_of, dram):
    schedule = schedule_of([Stage("a", servers=10)], [job_of([visit_of(0, 1, 64)])] * 10, [dram(Fraction(256, 5))])
    assert run(schedule).cycles == 13  # 640 B at 51.2 B/cycle are 12.5 cycles; rounded one by one they would be 20


def test_a_read_pays_the_latency_and_a_write_does_not(run, schedule_of, job_of, visit_of, dram):
    stages = [Stage("a"), Stage("b")]
    jobs = [job_of([visit_of(0, 1, 64)]), job_of([visit_of(1, 1, 64, write=True)])]
    log = run(schedule_of(stages, jobs, [dram(64, latency_cycles=9)]))
    assert log.done.tolist() == [1 + 9, 2]


def test_in_a_stage_with_servers_a_shorter_job_overtakes(run, schedule_of, job_of, visit_of):
    stages = [Stage("pool", servers=2), Stage("out")]
    jobs = [job_of([visit_of(0, 9), visit_of(1, 1)]), job_of([visit_of(0, 2), visit_of(1, 1)])]
    log = run(schedule_of(stages, jobs))
    assert log.start[3] == 2 and log.start[1] == 9


def test_the_example_drawn_in_the_docs_is_what_an_engine_gives(run, schedule_of, job_of, visit_of, dram):
    stages = [Stage("load"), Stage("work", queue=1), Stage("store")]
    jobs = [job_of([visit_of(0, 2, 8), visit_of(1, work), visit_of(2, 1)]) for work in (7, 4, 2)]
    log = run(schedule_of(stages, jobs, [dram(4, latency_cycles=1)]))
    assert log.enter.tolist() == [0, 3, 10, 0, 6, 14, 0, 10, 16]
    assert log.start.tolist() == [0, 3, 10, 3, 10, 14, 6, 14, 16]
    assert log.done.tolist() == [3, 10, 11, 6, 14, 15, 9, 16, 17]
    assert log.leave.tolist() == [3, 10, 11, 6, 14, 15, 10, 16, 17]


def test_an_empty_schedule_takes_no_cycles(run, schedule_of):
    assert run(schedule_of([Stage("a")], [])).cycles == 0


@st.composite
def lines(draw):
    jobs, stages = draw(st.integers(1, 12)), draw(st.integers(1, 5))
    cycles = [[draw(st.integers(1, 7)) for _ in range(stages)] for _ in range(jobs)]
    return cycles, [draw(st.integers(0, 3)) for _ in range(stages - 1)]


@settings(max_examples=300, deadline=None)
@given(case=lines())
def test_a_line_of_single_servers_obeys_the_recurrence(run, line, case):
    cycles, queues = case
    from_recurrence = _leave_times(cycles, queues)
    log = run(line(cycles, queues))
    assert log.leave.reshape(len(cycles), -1).tolist() == from_recurrence


def _leave_times(cycles, queues):
    """leave[j, s] = max(done[j, s], leave[j − q − 1, s + 1]); a visit starts when it and the server are ready."""
    jobs, stages = len(cycles), len(cycles[0])
    leave = [[0] * stages for _ in range(jobs)]
    for j in range(jobs):
        arrival = 0
        for s in range(stages):
            start = max(arrival, leave[j - 1][s] if j else 0)
            done = start + cycles[j][s]
            room = j - queues[s] - 1 if s + 1 < stages else -1
            leave[j][s] = max(done, leave[room][s + 1]) if room >= 0 else done
            arrival = leave[j][s]
    return leave


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_every_run_keeps_the_laws_of_the_semantics(run, any_schedule, data):
    schedule = data.draw(any_schedule)
    log = run(schedule)
    assert (log.enter <= log.start).all() and (log.start < log.done).all() and (log.done <= log.leave).all()
    roofline, serial = bounds(schedule)
    assert roofline <= log.cycles <= serial
    account, idle = layer_account(schedule, log), idle_cycles(schedule, log)
    for stage in schedule.stages:
        causes = [*account.stalls[stage.name].values(), *idle[stage.name].values()]
        assert min(causes) >= 0
        assert account.busy[stage.name] + sum(causes) == stage.servers * log.cycles
    assert sum(account.traffic["dram"].values()) == schedule.visit_bytes.sum()
    heads = head_accounts(schedule, log)
    assert sum(cycles for cycles, _ in heads.values()) == log.cycles
    assert sum(own.busy[stage.name] for _, own in heads.values() for stage in schedule.stages) == schedule.visit_cycles.sum()


def test_stalls_name_the_stage_and_the_channel_they_wait_for(run, schedule_of, job_of, visit_of, dram):
    stages = [Stage("first"), Stage("second", queue=1)]
    jobs = [job_of([visit_of(0, 2), visit_of(1, 5)])] * 3
    schedule = schedule_of(stages, jobs)
    assert layer_account(schedule, run(schedule)).stalls["first"] == {"second_full": 1}
    schedule = schedule_of(stages[:1], [job_of([visit_of(0, 2, 640)])], [dram(64)])
    assert layer_account(schedule, run(schedule)).stalls["first"] == {"dram": 8}


def test_idle_cycles_are_fill_starved_and_drain(run, schedule_of, job_of, visit_of):
    stages = [Stage("first"), Stage("second")]
    jobs = [job_of([visit_of(0, 2), visit_of(1, 1)]), job_of([visit_of(0, 4), visit_of(1, 1)]), job_of([visit_of(0, 3)])]
    schedule = schedule_of(stages, jobs)
    idle = idle_cycles(schedule, run(schedule))
    assert idle == {"first": {"fill": 0, "starved": 0, "drain": 0}, "second": {"fill": 2, "starved": 3, "drain": 2}}


@pytest.mark.parametrize("servers", [1, 3])
def test_a_stage_nobody_visits_is_filling_all_the_time(run, schedule_of, job_of, visit_of, servers):
    schedule = schedule_of([Stage("used"), Stage("unused", servers=servers)], [job_of([visit_of(0, 4)])])
    assert idle_cycles(schedule, run(schedule))["unused"] == {"fill": 4 * servers, "starved": 0, "drain": 0}
