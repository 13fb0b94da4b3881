import pytest

from xmsim.sim.compiled_engine import run_compiled
from xmsim.sim.event_engine import run_events
from xmsim.sim.schedule import ScheduleError, Stage
from xmsim.sim.schedule_sequence import in_sequence

STAGES = [Stage("first"), Stage("second")]


@pytest.mark.parametrize("run", [run_compiled, run_events])
def test_a_phase_begins_when_the_last_job_of_the_phase_before_has_finished(schedule_of, job_of, visit_of, run):
    before = schedule_of(STAGES, [job_of([visit_of(0, 2), visit_of(1, 3)]), job_of([visit_of(0, 2), visit_of(1, 3)])])
    behind = schedule_of(STAGES, [job_of([visit_of(0, 1), visit_of(1, 1)], head=1), job_of([visit_of(0, 1)], after=[0], head=2)])
    log = run(in_sequence([before, behind]))
    # alone the phases take 8 and 3; the third job is the barrier
    assert log.finish.tolist() == [5, 8, 8, 10, 11]
    assert log.start.tolist() == [0, 2, 2, 5, 8, 9, 10]


def test_a_barrier_works_for_the_head_before_it_and_jobs_keep_what_they_waited_for(schedule_of, job_of, visit_of):
    phase = schedule_of(STAGES, [job_of([visit_of(0, 1)], head=3), job_of([], after=[0], head=4), job_of([visit_of(1, 1)], head=5)])
    both = in_sequence([phase, phase])
    assert both.job_head.tolist() == [3, 4, 5, 5, 3, 4, 5]
    waits = [both.after[both.after_start[job] : both.after_start[job + 1]].tolist() for job in range(both.jobs)]
    assert waits == [[], [0], [], [0, 1, 2], [3], [4], [3]]


def test_a_phase_without_jobs_leaves_nothing_behind(schedule_of, job_of, visit_of):
    phase, empty = schedule_of(STAGES, [job_of([visit_of(0, 1)])]), schedule_of(STAGES, [])
    assert in_sequence([empty, phase, empty]).jobs == 1
    assert in_sequence([empty]).jobs == 0


def test_phases_of_different_machines_are_refused(schedule_of):
    with pytest.raises(ScheduleError, match="same stages, channels and actions"):
        in_sequence([schedule_of(STAGES, []), schedule_of(STAGES[:1], [])])
