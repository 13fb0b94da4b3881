"""Schedules written by hand for the engine tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import strategies as st

from xmsim.sim.schedule import NO_CHANNEL, UNLIMITED, Channel, Schedule, Stage


@dataclass(frozen=True)
class Visit:
    stage: int
    cycles: int
    size_bytes: int = 0
    write: bool = False
    channel: int = 0


@dataclass(frozen=True)
class Job:
    route: Sequence[Visit]
    after: Sequence[int] = ()
    head: int = 0


def build_schedule(stages: Sequence[Stage], jobs: Sequence[Job], channels: Sequence[Channel] = ()) -> Schedule:
    visits = [visit for job in jobs for visit in job.route]
    column = lambda values: np.array(list(values), np.int64)  # noqa: E731
    return Schedule(
        stages=tuple(stages),
        channels=tuple(channels),
        visit_start=column(np.cumsum([0] + [len(job.route) for job in jobs])),
        after_start=column(np.cumsum([0] + [len(job.after) for job in jobs])),
        after=column(number for job in jobs for number in job.after),
        job_head=column(job.head for job in jobs),
        visit_stage=column(visit.stage for visit in visits),
        visit_cycles=column(visit.cycles for visit in visits),
        visit_channel=column(visit.channel if visit.size_bytes else NO_CHANNEL for visit in visits),
        visit_write=column(visit.write for visit in visits),
        visit_bytes=column(visit.size_bytes for visit in visits),
        visit_address=column(0 for _ in visits),
        action_names=(("unit", "work"),),
        visit_actions=column(visit.cycles for visit in visits)[:, None],
    )


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    """Up to 5 stages, 14 jobs and one channel."""
    count = draw(st.integers(1, 5))
    stages = [Stage(f"s{i}", draw(st.integers(1, 3)), draw(st.sampled_from([0, 1, 2, UNLIMITED]))) for i in range(count)]
    jobs = []
    for number in range(draw(st.integers(1, 14))):
        route = [
            Visit(stage, draw(st.integers(1, 9)), draw(st.sampled_from([0, 0, 64, 200])), draw(st.booleans()))
            for stage in range(count)
            if draw(st.booleans())
        ]
        after = draw(st.lists(st.integers(0, number - 1), max_size=2)) if number else []
        jobs.append(Job(route, after, head=number // 3))
    return build_schedule(stages, jobs, [Channel("dram", Fraction(draw(st.integers(20, 300)), 7), draw(st.integers(0, 12)))])


@pytest.fixture(scope="session")
def any_schedule() -> st.SearchStrategy[Schedule]:
    return schedules()


@pytest.fixture
def schedule_of() -> Callable[..., Schedule]:
    """build_schedule(stages, jobs, channels)"""
    return build_schedule


@pytest.fixture(scope="session")
def line() -> Callable[..., Schedule]:
    """Jobs that all go through single-server stages 0, 1, ... for the given cycles; `queues` are those of stages 1, 2, ..."""

    def make(cycles: Sequence[Sequence[int]], queues: Sequence[int]) -> Schedule:
        stages = [Stage("stage0")] + [Stage(f"stage{i + 1}", queue=q) for i, q in enumerate(queues)]
        return build_schedule(stages, [Job([Visit(stage, c) for stage, c in enumerate(row)]) for row in cycles])

    return make


@pytest.fixture
def dram() -> Callable[..., Channel]:
    def make(bytes_per_cycle: Fraction | int, latency_cycles: int = 0) -> Channel:
        return Channel("dram", Fraction(bytes_per_cycle), latency_cycles)

    return make


@pytest.fixture
def job_of() -> type[Job]:
    return Job


@pytest.fixture
def visit_of() -> type[Visit]:
    return Visit
