"""Write a Schedule from compiled code: append jobs, dependencies and visits to tables of known size."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from xmsim.sim.schedule import Channel, Int64Array, Schedule, Stage

_JOBS, _VISITS, _AFTERS = 0, 1, 2


class ScheduleTables(NamedTuple):
    """Tables that `@njit` code fills; a named tuple because numba can take that apart."""

    used: Int64Array  # [3]: jobs, visits, dependencies written so far
    visit_start: Int64Array
    after_start: Int64Array
    job_head: Int64Array
    after: Int64Array
    visits: Int64Array  # [visits, 6]: stage, cycles, channel, write, bytes, address
    actions: Int64Array  # [visits, actions]


def empty_tables(jobs: int, visits: int, afters: int, actions: int) -> ScheduleTables:
    """Tables with room for so many entries; fewer may be used."""
    return ScheduleTables(
        used=np.zeros(3, np.int64),
        visit_start=np.zeros(jobs + 1, np.int64),
        after_start=np.zeros(jobs + 1, np.int64),
        job_head=np.zeros(jobs, np.int64),
        after=np.zeros(afters, np.int64),
        visits=np.zeros((visits, 6), np.int64),
        actions=np.zeros((visits, actions), np.int64),
    )


@njit(cache=True)
def add_job(tables: ScheduleTables, head: int) -> int:
    """Begin the next job, for query head `head`; the visits and dependencies added next are its own."""
    job = tables.used[_JOBS]
    tables.job_head[job] = head
    tables.visit_start[job] = tables.used[_VISITS]
    tables.after_start[job] = tables.used[_AFTERS]
    tables.used[_JOBS] = job + 1
    tables.visit_start[job + 1] = tables.used[_VISITS]
    tables.after_start[job + 1] = tables.used[_AFTERS]
    return job


@njit(cache=True)
def add_after(tables: ScheduleTables, job: int) -> None:
    """Let the newest job wait until `job` has finished."""
    tables.after[tables.used[_AFTERS]] = job
    tables.used[_AFTERS] += 1
    tables.after_start[tables.used[_JOBS]] = tables.used[_AFTERS]


@njit(cache=True)
def add_visit(tables: ScheduleTables, stage: int, cycles: int) -> int:
    """Append a visit to the newest job's route and return its number."""
    visit = tables.used[_VISITS]
    row = tables.visits[visit]
    row[0] = stage
    row[1] = cycles
    row[2] = -1
    tables.used[_VISITS] = visit + 1
    tables.visit_start[tables.used[_JOBS]] = visit + 1
    return visit


@njit(cache=True)
def add_request(tables: ScheduleTables, visit: int, channel: int, write: int, size_bytes: int, address: int) -> None:
    """Give a visit its memory request; a request without bytes is none."""
    if size_bytes > 0:
        row = tables.visits[visit]
        row[2] = channel
        row[3] = write
        row[4] = size_bytes
        row[5] = address


def finish(
    tables: ScheduleTables, stages: tuple[Stage, ...], channels: tuple[Channel, ...], action_names: tuple[tuple[str, str], ...]
) -> Schedule:
    """The Schedule in the filled part of the tables."""
    jobs, visits, afters = (int(n) for n in tables.used)
    columns = [np.ascontiguousarray(tables.visits[:visits, c]) for c in range(6)]
    return Schedule(
        stages=stages,
        channels=channels,
        visit_start=tables.visit_start[: jobs + 1].copy(),
        after_start=tables.after_start[: jobs + 1].copy(),
        after=tables.after[:afters].copy(),
        job_head=tables.job_head[:jobs].copy(),
        visit_stage=columns[0],
        visit_cycles=columns[1],
        visit_channel=columns[2],
        visit_write=columns[3],
        visit_bytes=columns[4],
        visit_address=columns[5],
        action_names=action_names,
        visit_actions=tables.actions[:visits].copy(),
    )
