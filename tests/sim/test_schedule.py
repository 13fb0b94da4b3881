from dataclasses import replace
from fractions import Fraction

import pytest

from xmsim.sim.event_engine import run_events
from xmsim.sim.schedule import Channel, ScheduleError, Stage, bounds


@pytest.mark.parametrize(
    ("route", "after", "message"),
    [
        ([(1, 3), (0, 3)], [], "job 1, stage a: a route visits stages of strictly increasing number"),
        ([(0, 3), (0, 3)], [], "job 1, stage a: a route visits stages of strictly increasing number"),
        ([(0, 0)], [], "job 1, stage a: a visit takes at least 1 cycle"),
        ([(2, 1)], [], "job 1, stage 2: stage numbers go from 0 to 1"),
        ([(0, 1)], [1], "job 1: waits for job 1, but only jobs of lower number may be waited for"),
        ([(0, 1, -5)], [], "job 1, stage a: a request has at least 1 byte and a channel"),
    ],
)
def test_a_broken_rule_is_refused_with_job_stage_and_rule(schedule_of, job_of, visit_of, dram, route, after, message):
    jobs = [job_of([visit_of(0, 1)]), job_of([visit_of(*visit) for visit in route], after)]
    with pytest.raises(ScheduleError, match=f"^{message}$"):
        schedule_of([Stage("a"), Stage("b")], jobs, [dram(1)])


def test_two_stages_of_one_name_are_refused(schedule_of):
    with pytest.raises(ScheduleError, match="same name"):
        schedule_of([Stage("a"), Stage("a")], [])


def test_a_stage_without_servers_is_refused(schedule_of):
    with pytest.raises(ScheduleError, match="stage a: needs at least 1 server"):
        schedule_of([Stage("a", servers=0)], [])


def test_an_address_before_the_first_byte_is_refused(schedule_of, job_of, visit_of, dram):
    schedule = schedule_of([Stage("a")], [job_of([visit_of(0, 1, 64)])], [dram(1)])
    with pytest.raises(ScheduleError, match="job 0, stage a: an address is at least 0"):
        replace(schedule, visit_address=schedule.visit_address - 1)


def test_bounds_hold_where_bytes_times_the_digits_of_a_rate_pass_64_bits(schedule_of, job_of, visit_of):
    rate = Fraction(10**17 + 3, 10**17 + 9)
    schedule = schedule_of([Stage("a")], [job_of([visit_of(0, 1, 1000)])], [Channel("dram", rate)])
    assert bounds(schedule) == (1001, 1001)
    assert run_events(schedule).cycles == 1001
