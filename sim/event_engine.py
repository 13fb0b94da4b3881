"""The readable engine: executes a Schedule on SimPy's event loop, to the letter of docs/semantics.md.

SimPy's own Store and Resource settle ties by the order in which events were inserted, which no second engine can
reproduce. So SimPy keeps the clock here: all completions of a cycle are taken first, then one callback of lower priority
settles the whole cycle.
"""

from __future__ import annotations

from bisect import insort
from collections import deque

import numpy as np
import simpy
from simpy.events import NORMAL, Event

from xmsim.sim.channel import ChannelClock
from xmsim.sim.log import EngineLog
from xmsim.sim.schedule import NO_CHANNEL, UNLIMITED, Schedule

SETTLE = NORMAL + 1  # after every completion of the same cycle


def run_events(schedule: Schedule) -> EngineLog:
    """Execute a Schedule and return its log."""
    run = _Run(schedule)
    run.environment.run()
    columns = (run.enter, run.start, run.done, run.leave, run.finish, run.rows)
    return EngineLog(*(np.asarray(column, np.int64) for column in columns))


class _StageState:
    """A stage during a run."""

    def __init__(self, servers: int, queue: int) -> None:
        self.free_servers = servers
        self.queue = queue
        self.waiting: deque[int] = deque()  # visits, in order of entering
        self.bound: list[tuple[int, int, int]] = []  # done visits bound for this stage: (done, job, visit to make here)
        self.issue: deque[int] = deque()  # jobs that begin here, in job order

    def admits(self) -> bool:
        if self.queue == UNLIMITED or len(self.waiting) < self.queue:
            return True
        return not self.waiting and self.free_servers > 0


class _Run:
    """One execution: the clock is SimPy's, the state is here."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.environment = simpy.Environment()
        self.stages = [_StageState(stage.servers, stage.queue) for stage in schedule.stages]
        self.channels = [ChannelClock(channel) for channel in schedule.channels]
        # plain lists: indexing a NumPy array from Python is several times slower
        self.visit_start = schedule.visit_start.tolist()
        self.visit_stage = schedule.visit_stage.tolist()
        self.visit_cycles = schedule.visit_cycles.tolist()
        self.visit_channel = schedule.visit_channel.tolist()
        self.visit_bytes = schedule.visit_bytes.tolist()
        self.visit_address = schedule.visit_address.tolist()
        self.visit_write = schedule.visit_write.tolist()
        self.visit_job = schedule.visit_job.tolist()
        self.enter = [0] * schedule.visits
        self.start = [0] * schedule.visits
        self.done = [0] * schedule.visits
        self.leave = [0] * schedule.visits
        self.finish = [0] * schedule.jobs
        self.rows = np.zeros((schedule.visits, 3), np.int64)
        self.unfinished_afters = np.diff(schedule.after_start).tolist()
        self.followers: list[list[int]] = [[] for _ in range(schedule.jobs)]
        starts = schedule.after_start.tolist()
        after = schedule.after.tolist()
        for job in range(schedule.jobs):
            for place in range(starts[job], starts[job + 1]):
                self.followers[after[place]].append(job)
            if self._is_barrier(job):
                continue
            self.stages[self.visit_stage[self.visit_start[job]]].issue.append(job)
        self.unsettled = set(range(len(self.stages)))  # stages in which something may move in this cycle
        self.started: list[tuple[int, int, int]] = []  # (stage, job, visit) of this cycle
        self.settle_pending = False
        self._settle_later()
        waits_for_nothing = [job for job in range(schedule.jobs) if self._is_barrier(job) and not self.unfinished_afters[job]]
        for job in waits_for_nothing:
            self._finish_job(job, 0)

    def _is_barrier(self, job: int) -> bool:
        return self.visit_start[job] == self.visit_start[job + 1]

    def _settle_later(self) -> None:
        if not self.settle_pending:
            self.settle_pending = True
            event = Event(self.environment)
            event.callbacks.append(self._settle)
            event._ok, event._value = True, None  # as Timeout does: succeed() would schedule it at normal priority
            self.environment.schedule(event, priority=SETTLE)

    def _complete(self, visit: int) -> None:
        """(a): the visit becomes done; it leaves at once if it is the last of its job."""
        job = self.visit_job[visit]
        stage = self.visit_stage[visit]
        if visit + 1 == self.visit_start[job + 1]:
            self._leave(visit)
            self._finish_job(job, self.environment.now)
        else:
            next_stage = self.visit_stage[visit + 1]
            insort(self.stages[next_stage].bound, (self.done[visit], job, visit + 1))
            self.unsettled.add(next_stage)
        self.unsettled.add(stage)
        self._settle_later()

    def _leave(self, visit: int) -> None:
        stage = self.visit_stage[visit]
        self.leave[visit] = self.environment.now
        self.stages[stage].free_servers += 1
        self.unsettled.add(stage)

    def _finish_job(self, job: int, now: int) -> None:
        """Mark a job finished, and with it the barriers that waited for nothing else."""
        finished = [job]
        while finished:
            job = finished.pop()
            self.finish[job] = now
            for follower in self.followers[job]:
                self.unfinished_afters[follower] -= 1
                if self.unfinished_afters[follower]:
                    continue
                if self._is_barrier(follower):
                    finished.append(follower)
                else:
                    self.unsettled.add(self.visit_stage[self.visit_start[follower]])

    def _settle(self, _event: Event) -> None:
        """(b): apply the rules until nothing changes, the most downstream stage first; (c): place the requests."""
        self.settle_pending = False
        while self.unsettled:
            number = max(self.unsettled)
            self.unsettled.discard(number)
            self._settle_stage(number)
        self.started.sort()
        for _stage, _job, visit in self.started:
            self._place_request(visit)
        self.started.clear()

    def _settle_stage(self, number: int) -> None:
        stage = self.stages[number]
        while True:
            if stage.waiting and stage.free_servers:
                visit = stage.waiting.popleft()
                stage.free_servers -= 1
                self.start[visit] = self.environment.now
                self.started.append((number, self.visit_job[visit], visit))
            elif stage.bound and stage.admits():
                visit = stage.bound.pop(0)[2]
                self._leave(visit - 1)
                self._enter(stage, visit)
            elif stage.issue and not stage.bound and not self.unfinished_afters[stage.issue[0]] and stage.admits():
                self._enter(stage, self.visit_start[stage.issue.popleft()])
            else:
                return

    def _enter(self, stage: _StageState, visit: int) -> None:
        self.enter[visit] = self.environment.now
        stage.waiting.append(visit)

    def _place_request(self, visit: int) -> None:
        now = self.environment.now
        done = now + self.visit_cycles[visit]
        channel = self.visit_channel[visit]
        if channel != NO_CHANNEL:
            request = self.visit_address[visit], self.visit_bytes[visit], bool(self.visit_write[visit])
            arrival, self.rows[visit] = self.channels[channel].serve(now, *request)
            done = max(done, arrival)
        self.done[visit] = done
        completion = self.environment.timeout(done - now)
        completion.callbacks.append(lambda _event: self._complete(visit))
