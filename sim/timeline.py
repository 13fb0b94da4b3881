"""Who did what when: from a Schedule and the log of either engine to spans on servers, queues and channels.

Engines do not write timelines: everything here follows from the log, so a run without a timeline pays nothing for it and
both engines give the same one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from heapq import heappop, heappush

import numpy as np

from xmsim.sim.channel import ChannelClock
from xmsim.sim.log import EngineLog, full_cause, next_stage
from xmsim.sim.schedule import Int64Array, Schedule

BUSY = 0  # the cause of a span in which the server works


@dataclass(frozen=True, slots=True, eq=False)
class Spans:
    """Stretches of a server's time, ordered by stage, server and begin; spans of one server never overlap.

    Added up by stage and cause they are the busy and stall cycles of the account, exactly.
    """

    stage: Int64Array  # [spans]
    server: Int64Array  # [spans], counted from 0 within the stage
    visit: Int64Array  # [spans], the visit that holds the server
    job: Int64Array  # [spans], the visit's job
    head: Int64Array  # [spans], the query head that the job works for
    begin: Int64Array  # [spans], cycle
    cycles: Int64Array  # [spans], at least 1
    cause: Int64Array  # [spans], index into `causes`
    causes: tuple[str, ...]  # busy, then what stalls: channels by name, and `<stage>_full` where a stage does not admit the visit


@dataclass(frozen=True, slots=True)
class ChannelUse:
    """The time in which the bytes of one request cross a channel; the latency of a read comes after it.

    Requests may overlap in a channel with banks: there it is what a request adds to the time until which the channel is busy.
    """

    channel: int
    visit: int
    begin_cycle: Fraction
    end_cycle: Fraction


def server_spans(schedule: Schedule, log: EngineLog) -> Spans:
    """Cut each visit's time on its server into work, waiting for data and waiting for the next stage."""
    worked = log.start + schedule.visit_cycles
    blocked_by = 1 + len(schedule.channels) + next_stage(schedule)
    parts = (  # (begin, end, cause), each [visits]
        (log.start, worked, np.full(schedule.visits, BUSY)),
        (worked, log.done, 1 + schedule.visit_channel),
        (log.done, log.leave, blocked_by),
    )
    visit = np.tile(np.arange(schedule.visits), len(parts))
    begin, end, cause = (np.concatenate(column) for column in zip(*parts, strict=True))
    stage, server = schedule.visit_stage[visit], visit_servers(schedule, log)[visit]
    order = np.lexsort((begin, server, stage))
    order = order[end[order] > begin[order]]
    visit = visit[order]
    job = schedule.visit_job[visit]
    return Spans(
        stage=stage[order],
        server=server[order],
        visit=visit,
        job=job,
        head=schedule.job_head[job],
        begin=begin[order],
        cycles=end[order] - begin[order],
        cause=cause[order],
        causes=("busy", *(channel.name for channel in schedule.channels), *(full_cause(stage) for stage in schedule.stages)),
    )


def visit_servers(schedule: Schedule, log: EngineLog) -> Int64Array:
    """The server each visit holds from start to leave: visits take the lowest-numbered free one in order of entering.

    A server that is given back in a cycle can be taken in the same cycle. int64 [visits], counted from 0 within a stage.
    """
    servers = np.zeros(schedule.visits, np.int64)
    entering = _order_of_entering(schedule, log)
    for number, stage in enumerate(schedule.stages):
        if stage.servers == 1:
            continue
        here = entering[schedule.visit_stage[entering] == number]
        free = list(range(stage.servers))
        held: list[tuple[int, int]] = []  # heap of (leave, server)
        for visit, start, leave in zip(here.tolist(), log.start[here].tolist(), log.leave[here].tolist(), strict=True):
            while held and held[0][0] <= start:
                heappush(free, heappop(held)[1])
            servers[visit] = server = heappop(free)
            heappush(held, (leave, server))
    return servers


def _order_of_entering(schedule: Schedule, log: EngineLog) -> Int64Array:
    """Visits as they enter their stage; in one cycle those from an earlier stage first, by (done there, job), then jobs that begin."""
    job = schedule.visit_job
    begins = np.zeros(schedule.visits, bool)
    begins[schedule.visit_start[:-1][np.diff(schedule.visit_start) > 0]] = True
    done_before = np.where(begins, 0, np.roll(log.done, 1))
    return np.lexsort((job, done_before, begins, log.enter))


def queue_occupancy(schedule: Schedule, log: EngineLog, stage: int) -> tuple[Int64Array, Int64Array]:
    """How many visits wait for a server of a stage: the cycles in which the number changes, and the number from there on."""
    here = schedule.visit_stage == stage
    enter, start = log.enter[here], log.start[here]
    cycles, place = np.unique(np.concatenate((enter, start)), return_inverse=True)
    change = np.zeros(len(cycles), np.int64)
    np.add.at(change, place, np.repeat([1, -1], len(enter)))
    changes = change != 0
    return cycles[changes], np.cumsum(change)[changes]


def channel_uses(schedule: Schedule, log: EngineLog) -> Iterator[ChannelUse]:
    """When the bytes of each request cross their channel, in order of placing."""
    clocks = [ChannelClock(channel) for channel in schedule.channels]
    requests = np.flatnonzero(schedule.visit_bytes)
    placed = requests[np.lexsort((requests, schedule.visit_stage[requests], log.start[requests]))]
    for visit in placed.tolist():
        channel, start = int(schedule.visit_channel[visit]), int(log.start[visit])
        begin = max(Fraction(start), clocks[channel].free_cycle)
        address, size_bytes = int(schedule.visit_address[visit]), int(schedule.visit_bytes[visit])
        clocks[channel].serve(start, address, size_bytes, bool(schedule.visit_write[visit]))
        yield ChannelUse(channel, visit, begin, clocks[channel].free_cycle)
