"""A machine's every choice, written down: which job, on which stage, for how many cycles, with which bytes and actions.

What a Schedule means, to the cycle, is in docs/semantics.md. The engines execute it and know nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from xmsim.sim.dram_banks import BankModel

Int64Array: TypeAlias = npt.NDArray[np.int64]

NO_CHANNEL = -1
UNLIMITED = -1  # queue places of a stage that never refuses a visit


class ScheduleError(ValueError):
    """A Schedule that breaks a rule of the semantics; the text names job, stage and rule."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A unit with `servers` that each hold one visit, behind a queue of `queue` waiting places."""

    name: str
    servers: int = 1
    queue: int = UNLIMITED


@dataclass(frozen=True, slots=True)
class Channel:
    """One line that serves whole requests, first come first served, or the banks behind it.

    `bytes_per_cycle` is an exact fraction, of `banks` the peak; `latency_cycles` is added to reads alone.
    """

    name: str
    bytes_per_cycle: Fraction
    latency_cycles: int = 0
    banks: BankModel | None = None

    @property
    def ticks_per_cycle(self) -> int:
        """In how many parts of a cycle the channel's time is kept."""
        return self.banks.ticks_per_cycle if self.banks else self.bytes_per_cycle.numerator


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """Jobs in issue order with their routes, dependencies and actions, as arrays.

    Job j visits `visit_*[visit_start[j]:visit_start[j + 1]]` in that order, after the jobs
    `after[after_start[j]:after_start[j + 1]]` have finished. A job without visits is a barrier.

    Raises:
        ScheduleError: a rule of the semantics is broken.
    """

    stages: tuple[Stage, ...]
    channels: tuple[Channel, ...]
    visit_start: Int64Array  # [jobs + 1]
    after_start: Int64Array  # [jobs + 1]
    after: Int64Array  # [dependencies], job numbers
    job_head: Int64Array  # [jobs], the query head a job works for
    visit_stage: Int64Array  # [visits], stage numbers
    visit_cycles: Int64Array  # [visits]
    visit_channel: Int64Array  # [visits], channel number or NO_CHANNEL
    visit_write: Int64Array  # [visits], 1 for a write, 0 for a read
    visit_bytes: Int64Array  # [visits], 0 without a request
    visit_address: Int64Array  # [visits], byte address of the request
    action_names: tuple[tuple[str, str], ...]  # (component, action) of each column of visit_actions
    visit_actions: Int64Array  # [visits, actions], how often each visit does each action

    def __post_init__(self) -> None:
        self._check_parts()
        self._check_shapes()
        self._check_visits()
        self._check_dependencies()

    @property
    def jobs(self) -> int:
        return len(self.visit_start) - 1

    @property
    def visits(self) -> int:
        return len(self.visit_stage)

    @property
    def visit_job(self) -> Int64Array:
        """The job of each visit; int64 [visits]."""
        return np.repeat(np.arange(self.jobs, dtype=np.int64), np.diff(self.visit_start))

    def _check_parts(self) -> None:
        for kind, parts in (("stage", self.stages), ("channel", self.channels)):
            names = [part.name for part in parts]
            if len(set(names)) != len(names):
                raise ScheduleError(f"two of the {kind}s {', '.join(names)} have the same name")
        for stage in self.stages:
            if stage.servers < 1 or stage.queue < UNLIMITED:
                raise ScheduleError(f"stage {stage.name}: needs at least 1 server and 0 queue places")
        for channel in self.channels:
            if channel.bytes_per_cycle <= 0 or channel.latency_cycles < 0:
                raise ScheduleError(f"channel {channel.name}: needs a positive bandwidth and a latency of at least 0 cycles")

    def _check_shapes(self) -> None:
        tables = (self.visit_cycles, self.visit_channel, self.visit_write, self.visit_bytes, self.visit_address, self.visit_actions)
        if any(len(table) != self.visits for table in tables) or self.visit_actions.shape[1:] != (len(self.action_names),):
            raise ScheduleError(f"the visit tables do not all have {self.visits} rows and one column for each action")
        if len(self.after_start) != self.jobs + 1 or len(self.job_head) != self.jobs:
            raise ScheduleError(f"the job tables do not all have {self.jobs} rows")
        for starts, total in ((self.visit_start, self.visits), (self.after_start, len(self.after))):
            if starts[0] != 0 or starts[-1] != total or np.any(np.diff(starts) < 0):
                raise ScheduleError("the offsets of the jobs do not rise from 0 to the number of entries")

    def _check_visits(self) -> None:
        self._refuse_visits(
            (self.visit_stage < 0) | (self.visit_stage >= len(self.stages)), f"stage numbers go from 0 to {len(self.stages) - 1}"
        )
        self._refuse_visits(self.visit_cycles < 1, "a visit takes at least 1 cycle")
        self._refuse_visits(
            (self.visit_channel < NO_CHANNEL) | (self.visit_channel >= len(self.channels)),
            f"channel numbers go from 0 to {len(self.channels) - 1}",
        )
        self._refuse_visits((self.visit_channel != NO_CHANNEL) != (self.visit_bytes >= 1), "a request has at least 1 byte and a channel")
        self._refuse_visits(self.visit_address < 0, "an address is at least 0")
        job = self.visit_job
        same_job = job[1:] == job[:-1]
        falls = np.concatenate(([False], same_job & (np.diff(self.visit_stage) <= 0))) if self.visits else np.zeros(0, bool)
        self._refuse_visits(falls, "a route visits stages of strictly increasing number")

    def _refuse_visits(self, broken: npt.NDArray[np.bool_], rule: str) -> None:
        if broken.any():
            visit = int(np.argmax(broken))
            number = int(self.visit_stage[visit])
            stage = self.stages[number].name if 0 <= number < len(self.stages) else str(number)
            raise ScheduleError(f"job {self.visit_job[visit]}, stage {stage}: {rule}")

    def _check_dependencies(self) -> None:
        job = np.repeat(np.arange(self.jobs), np.diff(self.after_start))
        broken = (self.after < 0) | (self.after >= job)
        if broken.any():
            place = int(np.argmax(broken))
            raise ScheduleError(f"job {job[place]}: waits for job {self.after[place]}, but only jobs of lower number may be waited for")


def bounds(schedule: Schedule) -> tuple[int, int]:
    """Roofline and fully serial cycles: no execution is shorter than the first or longer than the second.

    The roofline is the busiest stage or channel alone; serial runs every visit alone, one after the other.
    """
    roofline = 0
    for number, stage in enumerate(schedule.stages):
        held = int(schedule.visit_cycles[schedule.visit_stage == number].sum())
        roofline = max(roofline, -(-held // stage.servers))
    alone = schedule.visit_cycles.copy()
    for number, channel in enumerate(schedule.channels):
        rate = channel.bytes_per_cycle
        requests = schedule.visit_channel == number
        sent = schedule.visit_bytes[requests]
        roofline = max(roofline, -(-int(sent.sum()) * rate.denominator // rate.numerator))
        if channel.banks:
            ticks = channel.banks.longest_ticks(schedule.visit_address[requests], sent)
        elif int(sent.max(initial=0)) * rate.denominator < 2**62:
            ticks = sent * rate.denominator
        else:
            ticks = sent.astype(object) * rate.denominator  # Python's integers, which have no end
        arrival = -(-ticks // channel.ticks_per_cycle) + np.where(schedule.visit_write[requests], 0, channel.latency_cycles)
        alone[requests] = np.maximum(alone[requests], arrival)
    return roofline, int(alone.sum())
