"""The fast engine: executes a Schedule in compiled code, to the letter of docs/semantics.md.

It was written apart from the SimPy engine and settles the stages of a cycle in the opposite order, most upstream first, so
that a rule which either of them got wrong shows as unequal logs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from xmsim.sim.log import EngineLog
from xmsim.sim.schedule import NO_CHANNEL, UNLIMITED, Int64Array, Schedule, ScheduleError, bounds

_NOBODY = -1


def run_compiled(schedule: Schedule) -> EngineLog:
    """Execute a Schedule and return its log.

    Raises:
        ScheduleError: it may take so long that times do not fit 64 bits.
    """
    _check_times_fit(schedule)
    log = EngineLog(*(np.zeros(size, np.int64) for size in (schedule.visits,) * 4 + (schedule.jobs,)))
    if schedule.jobs:
        _run(_tables(schedule), log.enter, log.start, log.done, log.leave, log.finish)
    return log


class _Tables(NamedTuple):
    """The Schedule as arrays; a named tuple because numba can take that apart."""

    servers: Int64Array  # [stages]
    queue: Int64Array  # [stages]
    channel_numerator: Int64Array  # [channels], bytes per cycle = numerator / denominator
    channel_denominator: Int64Array  # [channels]
    channel_latency: Int64Array  # [channels]
    visit_start: Int64Array  # [jobs + 1]
    visit_job: Int64Array
    after_count: Int64Array  # [jobs]
    follower_start: Int64Array  # [jobs + 1]
    follower: Int64Array  # jobs that wait for a job
    issue_start: Int64Array  # [stages + 1]
    issue: Int64Array  # jobs that begin in a stage, in job order
    visit_stage: Int64Array
    visit_cycles: Int64Array
    visit_channel: Int64Array
    visit_write: Int64Array
    visit_bytes: Int64Array


def _tables(schedule: Schedule) -> _Tables:
    column = lambda values: np.array(list(values), np.int64)  # noqa: E731
    route_length = np.diff(schedule.visit_start)
    begins = np.flatnonzero(route_length)
    first_stage = schedule.visit_stage[schedule.visit_start[begins]] if len(begins) else np.zeros(0, np.int64)
    waiting_job = np.repeat(np.arange(schedule.jobs), np.diff(schedule.after_start))
    return _Tables(
        servers=column(stage.servers for stage in schedule.stages),
        queue=column(stage.queue for stage in schedule.stages),
        channel_numerator=column(channel.bytes_per_cycle.numerator for channel in schedule.channels),
        channel_denominator=column(channel.bytes_per_cycle.denominator for channel in schedule.channels),
        channel_latency=column(channel.latency_cycles for channel in schedule.channels),
        visit_start=schedule.visit_start,
        visit_job=schedule.visit_job,
        after_count=np.diff(schedule.after_start),
        follower_start=_offsets(schedule.after, schedule.jobs),
        follower=waiting_job[np.argsort(schedule.after, kind="stable")],
        issue_start=_offsets(first_stage, len(schedule.stages)),
        issue=begins[np.argsort(first_stage, kind="stable")],
        visit_stage=schedule.visit_stage,
        visit_cycles=schedule.visit_cycles,
        visit_channel=schedule.visit_channel,
        visit_write=schedule.visit_write,
        visit_bytes=schedule.visit_bytes,
    )


def _offsets(groups: Int64Array, count: int) -> Int64Array:
    """Where each group begins among entries that are sorted by group; int64 [count + 1]."""
    return np.concatenate(([0], np.cumsum(np.bincount(groups, minlength=count)))).astype(np.int64)


def _check_times_fit(schedule: Schedule) -> None:
    """Times are multiplied by the number of jobs, to sort events, and by the numerators of bandwidths."""
    longest = bounds(schedule)[1]
    largest_factor = max([schedule.jobs, *(channel.bytes_per_cycle.numerator for channel in schedule.channels)], default=1)
    if longest * largest_factor >= 2**62:
        raise ScheduleError(f"up to {longest} cycles do not fit the compiled engine's 64-bit times; use the event engine")


class _State(NamedTuple):
    """What changes during a run. A list of visits or jobs is linked: its first and last, and for each the next."""

    free_servers: Int64Array  # [stages]
    waiting_count: Int64Array  # [stages]
    waiting_first: Int64Array  # [stages], visits in order of entering
    waiting_last: Int64Array
    waiting_next: Int64Array  # [visits]
    bound_first: Int64Array  # [stages], jobs whose done visit is bound for the stage, by (done, job)
    bound_last: Int64Array
    bound_next: Int64Array  # [jobs]
    issued: Int64Array  # [stages], place in `issue` of the next job to begin
    unsettled: Int64Array  # [stages], 1 where something may move in this cycle
    unfinished_afters: Int64Array  # [jobs]
    current: Int64Array  # [jobs], the visit that a job is at
    channel_free: Int64Array  # [channels], in 1/numerator cycles
    requests: Int64Array  # visits with a request that started in this cycle
    events: Int64Array  # heap of done × jobs + job
    counts: Int64Array  # [2]: events, requests
    finished: Int64Array  # [jobs], a stack


_EVENTS, _REQUESTS = 0, 1


@njit(cache=True)
def _run(tables: _Tables, enter: Int64Array, start: Int64Array, done: Int64Array, leave: Int64Array, finish: Int64Array) -> None:
    stages, jobs, visits = len(tables.servers), len(finish), len(enter)
    in_service = min(jobs, visits)  # a job has one visit in service at most
    state = _State(
        free_servers=tables.servers.copy(),
        waiting_count=np.zeros(stages, np.int64),
        waiting_first=np.full(stages, _NOBODY, np.int64),
        waiting_last=np.full(stages, _NOBODY, np.int64),
        waiting_next=np.full(visits, _NOBODY, np.int64),
        bound_first=np.full(stages, _NOBODY, np.int64),
        bound_last=np.full(stages, _NOBODY, np.int64),
        bound_next=np.full(jobs, _NOBODY, np.int64),
        issued=tables.issue_start[:stages].copy(),
        unsettled=np.ones(stages, np.int64),
        unfinished_afters=tables.after_count.copy(),
        current=tables.visit_start[:jobs].copy(),
        channel_free=np.zeros(len(tables.channel_numerator), np.int64),
        requests=np.zeros(in_service, np.int64),
        events=np.zeros(in_service, np.int64),
        counts=np.zeros(2, np.int64),
        finished=np.zeros(jobs, np.int64),
    )
    for job in range(jobs):
        if tables.visit_start[job] == tables.visit_start[job + 1] and tables.after_count[job] == 0:
            _finish_job(tables, state, finish, job, 0)
    now = 0
    while True:
        _settle(tables, state, enter, start, done, leave, now)
        if state.counts[_EVENTS] == 0:
            return
        now = state.events[0] // jobs
        while state.counts[_EVENTS] > 0 and state.events[0] // jobs == now:  # (a), in order of jobs
            job = _pop(state) % jobs
            _complete(tables, state, leave, finish, job, now)


@njit(cache=True)
def _complete(tables: _Tables, state: _State, leave: Int64Array, finish: Int64Array, job: int, now: int) -> None:
    visit = state.current[job]
    stage = tables.visit_stage[visit]
    if visit + 1 == tables.visit_start[job + 1]:
        leave[visit] = now
        state.free_servers[stage] += 1
        state.unsettled[stage] = 1
        _finish_job(tables, state, finish, job, now)
        return
    target = tables.visit_stage[visit + 1]  # completions come in order of (done, job), so the list stays sorted
    if state.bound_first[target] == _NOBODY:
        state.bound_first[target] = job
    else:
        state.bound_next[state.bound_last[target]] = job
    state.bound_last[target] = job
    state.bound_next[job] = _NOBODY
    state.unsettled[target] = 1


@njit(cache=True)
def _finish_job(tables: _Tables, state: _State, finish: Int64Array, job: int, now: int) -> None:
    """Mark a job finished, and with it the barriers that waited for nothing else."""
    state.finished[0] = job
    depth = 1
    while depth > 0:
        depth -= 1
        job = state.finished[depth]
        finish[job] = now
        for place in range(tables.follower_start[job], tables.follower_start[job + 1]):
            follower = tables.follower[place]
            state.unfinished_afters[follower] -= 1
            if state.unfinished_afters[follower] > 0:
                continue
            first = tables.visit_start[follower]
            if first == tables.visit_start[follower + 1]:
                state.finished[depth] = follower
                depth += 1
            else:
                state.unsettled[tables.visit_stage[first]] = 1


@njit(cache=True)
def _settle(tables: _Tables, state: _State, enter: Int64Array, start: Int64Array, done: Int64Array, leave: Int64Array, now: int) -> None:
    """(b): apply the rules until nothing changes; (c): place the requests of this cycle."""
    moved = True
    while moved:
        moved = False
        for stage in range(len(tables.servers)):
            if state.unsettled[stage]:
                state.unsettled[stage] = 0
                moved = True
                _settle_stage(tables, state, enter, start, done, leave, stage, now)
    _place_requests(tables, state, done, now)


@njit(cache=True)
def _settle_stage(
    tables: _Tables, state: _State, enter: Int64Array, start: Int64Array, done: Int64Array, leave: Int64Array, stage: int, now: int
) -> None:
    while True:
        if state.waiting_count[stage] > 0 and state.free_servers[stage] > 0:
            visit = state.waiting_first[stage]
            state.waiting_first[stage] = state.waiting_next[visit]
            state.waiting_count[stage] -= 1
            state.free_servers[stage] -= 1
            start[visit] = now
            _begin(tables, state, done, visit, now)
            continue
        admits = (
            tables.queue[stage] == UNLIMITED
            or state.waiting_count[stage] < tables.queue[stage]
            or (state.waiting_count[stage] == 0 and state.free_servers[stage] > 0)
        )
        if not admits:
            return
        job = state.bound_first[stage]
        if job != _NOBODY:
            state.bound_first[stage] = state.bound_next[job]
            visit = state.current[job]
            leave[visit] = now
            state.free_servers[tables.visit_stage[visit]] += 1
            state.unsettled[tables.visit_stage[visit]] = 1
            state.current[job] = visit + 1
        else:
            place = state.issued[stage]
            if place == tables.issue_start[stage + 1]:
                return
            job = tables.issue[place]
            if state.unfinished_afters[job] > 0:
                return
            state.issued[stage] = place + 1
        visit = state.current[job]
        enter[visit] = now
        if state.waiting_count[stage] == 0:
            state.waiting_first[stage] = visit
        else:
            state.waiting_next[state.waiting_last[stage]] = visit
        state.waiting_last[stage] = visit
        state.waiting_count[stage] += 1


@njit(cache=True)
def _begin(tables: _Tables, state: _State, done: Int64Array, visit: int, now: int) -> None:
    """A visit without a request knows when it is done; the others wait for the end of the cycle, sorted by (stage, job)."""
    if tables.visit_channel[visit] == NO_CHANNEL:
        done[visit] = now + tables.visit_cycles[visit]
        _push(tables, state, done, visit)
        return
    place = state.counts[_REQUESTS]
    while place > 0 and _goes_before(tables, visit, state.requests[place - 1]):
        state.requests[place] = state.requests[place - 1]
        place -= 1
    state.requests[place] = visit
    state.counts[_REQUESTS] += 1


@njit(cache=True)
def _goes_before(tables: _Tables, visit: int, other: int) -> bool:
    """Whether a request goes first; visits are numbered in order of jobs."""
    stage, other_stage = tables.visit_stage[visit], tables.visit_stage[other]
    return stage < other_stage or (stage == other_stage and visit < other)


@njit(cache=True)
def _place_requests(tables: _Tables, state: _State, done: Int64Array, now: int) -> None:
    for place in range(state.counts[_REQUESTS]):
        visit = state.requests[place]
        channel = tables.visit_channel[visit]
        numerator = tables.channel_numerator[channel]
        begin = max(now * numerator, state.channel_free[channel])
        state.channel_free[channel] = begin + tables.visit_bytes[visit] * tables.channel_denominator[channel]
        arrival = (state.channel_free[channel] + numerator - 1) // numerator
        if not tables.visit_write[visit]:
            arrival += tables.channel_latency[channel]
        done[visit] = max(now + tables.visit_cycles[visit], arrival)
        _push(tables, state, done, visit)
    state.counts[_REQUESTS] = 0


@njit(cache=True)
def _push(tables: _Tables, state: _State, done: Int64Array, visit: int) -> None:
    """Add a completion to the heap; its key sorts by time, then job."""
    jobs = len(state.current)
    key = done[visit] * jobs + tables.visit_job[visit]
    place = state.counts[_EVENTS]
    state.counts[_EVENTS] = place + 1
    while place > 0:
        parent = (place - 1) // 2
        if state.events[parent] <= key:
            break
        state.events[place] = state.events[parent]
        place = parent
    state.events[place] = key


@njit(cache=True)
def _pop(state: _State) -> int:
    """Take the earliest completion off the heap."""
    top = state.events[0]
    size = state.counts[_EVENTS] - 1
    state.counts[_EVENTS] = size
    key = state.events[size]
    place = 0
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and state.events[child + 1] < state.events[child]:
            child += 1
        if key <= state.events[child]:
            break
        state.events[place] = state.events[child]
        place = child
    state.events[place] = key
    return top
