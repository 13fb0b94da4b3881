"""What an engine saw, and the one function that turns it into busy, stalled and idle cycles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xmsim.sim.dram_banks import BankModel
from xmsim.sim.result import CauseCycles, StageCycles
from xmsim.sim.schedule import Int64Array, Schedule, Stage


@dataclass(frozen=True, slots=True, eq=False)
class EngineLog:
    """Four times per visit and one per job, in cycles; and the rows of DRAM that each visit's request met."""

    enter: Int64Array  # [visits], takes a place in the queue
    start: Int64Array  # [visits], takes a server
    done: Int64Array  # [visits], has worked, and its data is there
    leave: Int64Array  # [visits], gives the server back
    finish: Int64Array  # [jobs]
    rows: Int64Array  # [visits, 3], hits, misses (of a closed bank) and conflicts (another row was open); 0 without banks

    @property
    def cycles(self) -> int:
        """The latest finish."""
        return int(self.finish.max(initial=0))


@dataclass(frozen=True, slots=True)
class Account:
    """Where the cycles, bytes and actions of a group of jobs went."""

    busy: StageCycles
    stalls: CauseCycles
    traffic: dict[str, dict[str, int]]
    actions: dict[str, dict[str, int]]


def layer_account(schedule: Schedule, log: EngineLog) -> Account:
    """The account of all jobs."""
    return _account(schedule, log, np.ones(schedule.visits, bool), 0, log.cycles)


def head_accounts(schedule: Schedule, log: EngineLog) -> dict[int, tuple[int, Account]]:
    """For each head its cycles (latest finish up to it minus that up to the head before) and its account."""
    heads: dict[int, tuple[int, Account]] = {}
    visit_head = schedule.job_head[schedule.visit_job]
    finished = 0
    for head in np.unique(schedule.job_head):
        latest = max(finished, int(log.finish[schedule.job_head == head].max()))
        heads[int(head)] = (latest - finished, _account(schedule, log, visit_head == head, finished, latest))
        finished = latest
    return heads


def idle_cycles(schedule: Schedule, log: EngineLog) -> CauseCycles:
    """Server-cycles in which a stage holds no visit: before the first (fill), after the last (drain), between (starved)."""
    idle: CauseCycles = {}
    total = log.cycles
    for number, stage in enumerate(schedule.stages):
        here = schedule.visit_stage == number
        held = int((log.leave[here] - log.start[here]).sum())
        first = int(log.start[here].min(initial=total))
        last = int(log.leave[here].max(initial=first))
        fill, drain = stage.servers * first, stage.servers * (total - last)
        if not here.any():  # a stage nobody visits is waiting to be filled all the time
            fill, drain = stage.servers * total, 0
        idle[stage.name] = {"fill": fill, "starved": stage.servers * total - held - fill - drain, "drain": drain}
    return idle


def _account(schedule: Schedule, log: EngineLog, chosen: np.ndarray, first_cycle: int, end_cycle: int) -> Account:
    """The account of the chosen visits, to which refreshes between the two cycles are put down."""
    busy: StageCycles = {}
    stalls: CauseCycles = {}
    memory = log.done - log.start - schedule.visit_cycles
    blocked = log.leave - log.done
    waits_for = next_stage(schedule)
    for number, stage in enumerate(schedule.stages):
        here = chosen & (schedule.visit_stage == number)
        busy[stage.name] = int(schedule.visit_cycles[here].sum())
        causes: dict[str, int] = {}
        for channel_number, channel in enumerate(schedule.channels):
            causes[channel.name] = int(memory[here & (schedule.visit_channel == channel_number)].sum())
        for later in range(number + 1, len(schedule.stages)):
            causes[full_cause(schedule.stages[later])] = int(blocked[here & (waits_for == later)].sum())
        stalls[stage.name] = {cause: cycles for cause, cycles in causes.items() if cycles}
    traffic = {
        channel.name: {
            f"{verb}_bytes": int(schedule.visit_bytes[chosen & (schedule.visit_channel == number) & (schedule.visit_write == write)].sum())
            for verb, write in (("read", 0), ("write", 1))
        }
        for number, channel in enumerate(schedule.channels)
    }
    actions: dict[str, dict[str, int]] = {}
    for (component, action), count in zip(schedule.action_names, schedule.visit_actions[chosen].sum(axis=0), strict=True):
        actions.setdefault(component, {})[action] = int(count)
    for number, channel in enumerate(schedule.channels):
        if channel.banks:
            requests = chosen & (schedule.visit_channel == number)
            actions[channel.name] = _dram_actions(schedule, log, requests, channel.banks, first_cycle, end_cycle)
    return Account(busy, stalls, traffic, actions)


def _dram_actions(
    schedule: Schedule, log: EngineLog, requests: np.ndarray, banks: BankModel, first_cycle: int, end_cycle: int
) -> dict[str, int]:
    """What the energy of a DRAM is counted by, and the row hits and conflicts behind it. Bits are those of whole bursts."""
    hits, misses, conflicts = (int(count) for count in log.rows[requests].sum(axis=0))
    bits = 8 * banks.burst_bytes * banks.bursts(schedule.visit_address, schedule.visit_bytes)
    write = schedule.visit_write.astype(bool)
    return {
        "row_hit": hits,
        "row_miss": misses,
        "row_conflict": conflicts,
        "activate": misses + conflicts,
        "read_bits": int(bits[requests & ~write].sum()),
        "write_bits": int(bits[requests & write].sum()),
        "refresh": banks.refreshes(first_cycle, end_cycle),
    }


def full_cause(stage: Stage) -> str:
    """The stall of a visit that is done and that `stage`, where it goes next, does not admit yet."""
    return f"{stage.name}_full"


def next_stage(schedule: Schedule) -> Int64Array:
    """The stage each visit goes on to, -1 for the last of a route; int64 [visits]."""
    result = np.full(schedule.visits, -1, np.int64)
    job = schedule.visit_job
    goes_on = job[1:] == job[:-1]
    result[:-1][goes_on] = schedule.visit_stage[1:][goes_on]
    return result
