"""The two engines were written apart and give equal logs, whatever the Schedule."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmsim.sim.compiled_engine import run_compiled
from xmsim.sim.dram_banks import BankModel
from xmsim.sim.event_engine import run_events
from xmsim.sim.schedule import NO_CHANNEL, UNLIMITED, Channel, Schedule, ScheduleError, Stage, bounds

SEEDED, PER_TEST = 10_000, 1_250
LOG = ("enter", "start", "done", "leave", "finish", "rows")


def assert_equal_logs(schedule: Schedule) -> int:
    """Returns the cycles of both."""
    by_events, compiled = run_events(schedule), run_compiled(schedule)
    for name in LOG:
        np.testing.assert_array_equal(getattr(compiled, name), getattr(by_events, name), err_msg=name)
    return compiled.cycles


def random_banks(rng: np.random.Generator) -> BankModel:
    """Small rows, few banks and frequent refreshes, so that every state of a bank is met."""
    channels, bank_groups, banks_per_group, burst, chunk, row = (int(n) for n in rng.integers(1, 5, 6))
    burst_bytes, interleave_bytes = 8 * burst, 8 * burst * chunk
    delays = (int(ticks) for ticks in rng.integers(0, 40, 11))
    return BankModel(
        *(int(rng.integers(1, 20)), channels, bank_groups, banks_per_group, interleave_bytes * row, burst_bytes, interleave_bytes),
        *(int(rng.integers(1, 9)), int(rng.integers(1, 9)), *delays),
        refresh_interval_ticks=int(rng.integers(200, 2000)),
        refresh_ticks=int(rng.integers(1, 100)),
    )


def random_channel(rng: np.random.Generator, name: str) -> Channel:
    """A line, or one with banks."""
    banks = random_banks(rng) if rng.random() < 0.5 else None
    rate = banks.bytes_per_cycle if banks else Fraction(int(rng.integers(1, 400)), int(rng.integers(1, 12)))
    return Channel(name, rate, int(rng.integers(0, 30)), banks)


def random_schedule(rng: np.random.Generator) -> Schedule:
    """Up to 7 stages, 3 channels and 40 jobs; barriers, empty queues, several servers and shared requests are frequent."""
    stages, channels, jobs = int(rng.integers(1, 8)), int(rng.integers(0, 4)), int(rng.integers(1, 41))
    longest = int(rng.choice([1, 3, 12, 100]))  # short visits make ties frequent
    visited = rng.random((jobs, stages)) < rng.choice([0.3, 0.6, 0.95])
    visited[rng.random(jobs) < 0.1] = False  # barriers
    visit_stage = np.nonzero(visited)[1]
    visits = len(visit_stage)
    channel = rng.integers(0, channels, visits) if channels else np.full(visits, NO_CHANNEL)
    channel = np.where(rng.random(visits) < rng.choice([0.0, 0.3, 0.9]), channel, NO_CHANNEL)
    afters = [np.unique(rng.integers(0, job, rng.integers(0, 3))) if job else np.zeros(0, np.int64) for job in range(jobs)]
    actions = np.ones((visits, 1), np.int64)
    return Schedule(
        stages=tuple(Stage(f"s{i}", int(rng.integers(1, 4)), int(rng.choice([0, 1, 2, 5, UNLIMITED]))) for i in range(stages)),
        channels=tuple(random_channel(rng, f"c{i}") for i in range(channels)),
        visit_start=np.concatenate(([0], np.cumsum(visited.sum(axis=1)))).astype(np.int64),
        after_start=np.cumsum([0] + [len(after) for after in afters]).astype(np.int64),
        after=np.concatenate(afters).astype(np.int64),
        job_head=np.zeros(jobs, np.int64),
        visit_stage=visit_stage.astype(np.int64),
        visit_cycles=rng.integers(1, longest + 1, visits),
        visit_channel=channel.astype(np.int64),
        visit_write=rng.integers(0, 2, visits),
        visit_bytes=np.where(channel == NO_CHANNEL, 0, rng.integers(1, 500, visits)),
        visit_address=rng.integers(0, 1 << 20, visits),
        action_names=(("unit", "work"),),
        visit_actions=actions,
    )


@pytest.mark.parametrize("first", range(0, SEEDED, PER_TEST))
def test_engines_give_equal_logs_on_ten_thousand_random_schedules(first: int) -> None:
    for seed in range(first, first + PER_TEST):
        schedule = random_schedule(np.random.default_rng(seed))
        cycles, (roofline_cycles, serial_cycles) = assert_equal_logs(schedule), bounds(schedule)
        assert roofline_cycles <= cycles <= serial_cycles


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_engines_give_equal_logs_on_schedules_that_hypothesis_can_shrink(
    any_schedule: st.SearchStrategy[Schedule], data: st.DataObject
) -> None:
    assert_equal_logs(data.draw(any_schedule))


def test_times_beyond_64_bits_are_refused_with_the_way_out(schedule_of, job_of, visit_of) -> None:
    schedule = schedule_of([Stage("a")], [job_of([visit_of(0, 2**60)])] * 4)
    with pytest.raises(ScheduleError, match=r"do not fit the compiled engine's 64-bit times; use the event engine"):
        run_compiled(schedule)
    assert run_events(schedule).cycles == 2**62


def test_schedules_without_jobs_or_without_visits_run(schedule_of, job_of) -> None:
    assert_equal_logs(schedule_of([Stage("a")], []))
    assert_equal_logs(schedule_of([Stage("a")], [job_of([]), job_of([], after=[0])]))
