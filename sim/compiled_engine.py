"""The fast engine: executes a Schedule in compiled code, to the letter of docs/semantics.md.

It was written apart from the SimPy engine and settles the stages of a cycle in the opposite order, most upstream first, so
that a rule which either of them got wrong shows as unequal logs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from xmsim.sim.log import EngineLog
from xmsim.sim.row_walk import DramState, closed_banks, walk_rows
from xmsim.sim.schedule import NO_CHANNEL, UNLIMITED, Int64Array, Schedule, ScheduleError, bounds

_NOBODY = -1


def run_compiled(schedule: Schedule) -> EngineLog:
    """Execute a Schedule and return its log.

    Raises:
        ScheduleError: it may take so long that times do not fit 64 bits.
    """
    _check_times_fit(schedule)
    sizes = [schedule.visits] * 4 + [schedule.jobs, (schedule.visits, 3)]
    log = EngineLog(*(np.zeros(size, np.int64) for size in sizes))
    if schedule.jobs:
        _run(_tables(schedule), closed_banks(schedule.channels), log.enter, log.start, log.done, log.leave, log.finish, log.rows)
    return log


class _Tables(NamedTuple):
    """The Schedule as arrays; a named tuple because numba can take that apart."""

    servers: Int64Array  # [stages]
    queue: Int64Array  # [stages]
    channel_ticks: Int64Array  # [channels], parts of a cycle in which the channel's time is kept
    channel_byte_ticks: Int64Array  # [channels], of a byte in a channel without banks
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
    visit_address: Int64Array


def _tables(schedule: Schedule) -> _Tables:
    column = lambda values: np.array(list(values), np.int64)  # noqa: E731
    route_length = np.diff(schedule.visit_start)
    begins = np.flatnonzero(route_length)
    first_stage = schedule.visit_stage[schedule.visit_start[begins]] if len(begins) else np.zeros(0, np.int64)
    waiting_job = np.repeat(np.arange(schedule.jobs), np.diff(schedule.after_start))
    return _Tables(
        servers=column(stage.servers for stage in schedule.stages),
        queue=column(stage.queue for stage in schedule.stages),
        channel_ticks=column(channel.ticks_per_cycle for channel in schedule.channels),
        channel_byte_ticks=column(channel.bytes_per_cycle.denominator for channel in schedule.channels),
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
        visit_address=schedule.visit_address,
    )


def _offsets(groups: Int64Array, count: int) -> Int64Array:
    """Where each group begins among entries that are sorted by group; int64 [count + 1]."""
    return np.concatenate(([0], np.cumsum(np.bincount(groups, minlength=count)))).astype(np.int64)


def _check_times_fit(schedule: Schedule) -> None:
    """Times are multiplied by the number of jobs, to sort events, and by the ticks of channels."""
    longest = bounds(schedule)[1]
    largest_factor = max([schedule.jobs, *(channel.ticks_per_cycle for channel in schedule.channels)], default=1)
    if longest * largest_factor >= 2**62:
        raise ScheduleError(f"up to {longest} cycles do not fit the compiled engine's 64-bit times; use the event engine")


@njit(cache=True)
def _run(
    tables: _Tables,
    dram: DramState,
    enter: Int64Array,
    start: Int64Array,
    done: Int64Array,
    leave: Int64Array,
    finish: Int64Array,
    rows: Int64Array,
) -> None:
    """Fill the log. The steps stand inside, where numba inlines them: handing the state about costs more than they do."""
    servers, queue, issue_start, issue = tables.servers, tables.queue, tables.issue_start, tables.issue
    visit_start, after_count = tables.visit_start, tables.after_count
    follower_start, follower_job = tables.follower_start, tables.follower
    visit_stage, visit_job, visit_cycles = tables.visit_stage, tables.visit_job, tables.visit_cycles
    visit_channel, visit_write = tables.visit_channel, tables.visit_write
    visit_bytes, visit_address = tables.visit_bytes, tables.visit_address
    ticks, byte_ticks, latencies = tables.channel_ticks, tables.channel_byte_ticks, tables.channel_latency
    stages, jobs, visits = len(servers), len(finish), len(enter)

    free_servers = servers.copy()
    unfinished_afters = after_count.copy()
    channel_free = np.zeros(len(ticks), np.int64)  # in ticks, of channels without banks
    unsettled = np.ones(stages, np.bool_)  # something may move in the stage in this cycle
    issued = issue_start[:stages].copy()  # place in `issue` of the next job to begin in a stage
    # lists are linked: the first and the last of a stage, and for each entry the next
    waiting_count = np.zeros(stages, np.int64)
    waiting_first = np.full(stages, _NOBODY, np.int64)  # visits, in order of entering
    waiting_last = np.full(stages, _NOBODY, np.int64)
    bound_first = np.full(stages, _NOBODY, np.int64)  # done visits that are bound for the stage, by (done, job)
    bound_last = np.full(stages, _NOBODY, np.int64)
    following = np.full(visits, _NOBODY, np.int64)  # a visit waits, or is done and bound for a stage, never both
    in_service = np.full(jobs, _NOBODY, np.int64)  # the visit of a job
    events = np.zeros(min(jobs, visits) + 1, np.int64)  # heap of done × jobs + job
    event_count = np.zeros(1, np.int64)
    requests = np.zeros(len(events), np.int64)  # visits with a request that start in this cycle, by (stage, job)
    finished = np.zeros(jobs, np.int64)  # a stack

    def finish_job(job: int, now: int) -> None:
        """Mark a job finished, and with it the barriers that waited for nothing else."""
        finished[0] = job
        depth = 1
        while depth > 0:
            depth -= 1
            one = finished[depth]
            finish[one] = now
            for place in range(follower_start[one], follower_start[one + 1]):
                follower = follower_job[place]
                unfinished_afters[follower] -= 1
                if unfinished_afters[follower] == 0:
                    first = visit_start[follower]
                    if first == visit_start[follower + 1]:
                        finished[depth] = follower
                        depth += 1
                    else:
                        unsettled[visit_stage[first]] = True

    def serve(visit: int, until: int) -> None:
        """Note when a visit is done, in the log and in the heap."""
        done[visit] = until
        in_service[visit_job[visit]] = visit
        key = until * jobs + visit_job[visit]
        place = event_count[0]
        event_count[0] = place + 1
        while place > 0 and events[(place - 1) // 2] > key:
            events[place] = events[(place - 1) // 2]
            place = (place - 1) // 2
        events[place] = key

    def drop_earliest() -> None:
        """Take the earliest event off the heap."""
        event_count[0] -= 1
        size = event_count[0]
        key = events[size]
        place, child = 0, 1
        while child < size:
            if child + 1 < size and events[child + 1] < events[child]:
                child += 1
            if key <= events[child]:
                break
            events[place] = events[child]
            place, child = child, 2 * child + 1
        events[place] = key

    now = 0
    for job in range(jobs):
        if after_count[job] == 0 and visit_start[job] == visit_start[job + 1]:
            finish_job(job, now)
    while True:
        # (b) apply the rules until nothing changes, the most upstream stage first
        request_count = 0
        stage = 0
        while stage < stages:
            if not unsettled[stage]:
                stage += 1
                continue
            unsettled[stage] = False
            upstream = stages  # the first stage that a move of this one unsettles
            while True:
                if waiting_count[stage] > 0 and free_servers[stage] > 0:
                    visit = waiting_first[stage]
                    waiting_first[stage] = following[visit]
                    waiting_count[stage] -= 1
                    free_servers[stage] -= 1
                    start[visit] = now
                    if visit_channel[visit] == NO_CHANNEL:
                        serve(visit, now + visit_cycles[visit])
                    else:  # visits are numbered in order of jobs
                        place = request_count
                        while place > 0 and (
                            visit_stage[requests[place - 1]] > stage
                            or (visit_stage[requests[place - 1]] == stage and requests[place - 1] > visit)
                        ):
                            requests[place] = requests[place - 1]
                            place -= 1
                        requests[place] = visit
                        request_count += 1
                    continue
                is_open = queue[stage] == UNLIMITED or waiting_count[stage] < queue[stage]
                if not is_open and (waiting_count[stage] > 0 or free_servers[stage] == 0):
                    break
                left = bound_first[stage]
                if left != _NOBODY:
                    bound_first[stage] = following[left]
                    leave[left] = now
                    free_servers[visit_stage[left]] += 1
                    unsettled[visit_stage[left]] = True
                    upstream = min(upstream, visit_stage[left])
                    visit = left + 1
                elif issued[stage] < issue_start[stage + 1] and unfinished_afters[issue[issued[stage]]] == 0:
                    visit = visit_start[issue[issued[stage]]]
                    issued[stage] += 1
                else:
                    break
                enter[visit] = now
                if waiting_count[stage] == 0:
                    waiting_first[stage] = visit
                else:
                    following[waiting_last[stage]] = visit
                waiting_last[stage] = visit
                waiting_count[stage] += 1
            stage = min(stage + 1, upstream)
        # (c) place the requests of this cycle
        for place in range(request_count):
            visit = requests[place]
            channel = visit_channel[visit]
            placed = now * ticks[channel]
            if dram.models[channel].channels > 0:
                over = walk_rows(dram, channel, placed, visit_address[visit], visit_bytes[visit], visit_write[visit], rows[visit])
            else:
                over = max(placed, channel_free[channel]) + visit_bytes[visit] * byte_ticks[channel]
                channel_free[channel] = over
            arrival = (over + ticks[channel] - 1) // ticks[channel]
            if not visit_write[visit]:
                arrival += latencies[channel]
            serve(visit, max(now + visit_cycles[visit], arrival))
        if event_count[0] == 0:
            return
        # (a) every visit that is done in the next cycle becomes done, in order of jobs
        now = events[0] // jobs
        while event_count[0] > 0 and events[0] < (now + 1) * jobs:
            job = events[0] - now * jobs
            drop_earliest()
            visit = in_service[job]
            if visit + 1 == visit_start[job + 1]:
                leave[visit] = now
                free_servers[visit_stage[visit]] += 1
                unsettled[visit_stage[visit]] = True
                finish_job(job, now)
            else:
                target = visit_stage[visit + 1]
                if bound_first[target] == _NOBODY:
                    bound_first[target] = visit
                else:
                    following[bound_last[target]] = visit
                bound_last[target] = visit
                following[visit] = _NOBODY
                unsettled[target] = True
