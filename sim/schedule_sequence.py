"""Schedules of one machine, one after the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xmsim.sim.schedule import Int64Array, Schedule, ScheduleError


def in_sequence(phases: Sequence[Schedule]) -> Schedule:
    """The phases as one Schedule, without overlap: a barrier between two lets no job begin before the last one before it has finished.

    A barrier works for the head of the job before it. Phases without jobs leave nothing behind.

    Raises:
        ScheduleError: the phases are not all of the same stages, channels and actions.
    """
    first = phases[0]
    if any((one.stages, one.channels, one.action_names) != (first.stages, first.channels, first.action_names) for one in phases):
        raise ScheduleError("phases that follow each other need the same stages, channels and actions")
    visits_of_job: list[Int64Array] = []
    afters_of_job: list[Int64Array] = []
    after: list[Int64Array] = []
    job_head: list[Int64Array] = []
    jobs = 0  # written so far
    begins_at = 0  # first job of the phase before
    for phase in (one for one in phases if one.jobs):
        phase_afters, phase_after = np.diff(phase.after_start), phase.after
        if jobs:
            barrier = jobs
            visits_of_job.append(np.zeros(1, np.int64))
            afters_of_job.append(np.array([barrier - begins_at]))
            after.append(np.arange(begins_at, barrier))
            job_head.append(job_head[-1][-1:])
            jobs += 1
            phase_afters, phase_after = _held_by(barrier, phase_afters, phase_after + jobs)
        visits_of_job.append(np.diff(phase.visit_start))
        afters_of_job.append(phase_afters)
        after.append(phase_after)
        job_head.append(phase.job_head)
        begins_at = jobs
        jobs += phase.jobs
    return Schedule(
        stages=first.stages,
        channels=first.channels,
        visit_start=_starts(visits_of_job),
        after_start=_starts(afters_of_job),
        after=_joined(after),
        job_head=_joined(job_head),
        visit_stage=_joined([one.visit_stage for one in phases]),
        visit_cycles=_joined([one.visit_cycles for one in phases]),
        visit_channel=_joined([one.visit_channel for one in phases]),
        visit_write=_joined([one.visit_write for one in phases]),
        visit_bytes=_joined([one.visit_bytes for one in phases]),
        visit_address=_joined([one.visit_address for one in phases]),
        action_names=first.action_names,
        visit_actions=np.concatenate([one.visit_actions for one in phases]),
    )


def _held_by(barrier: int, afters_of_job: Int64Array, after: Int64Array) -> tuple[Int64Array, Int64Array]:
    """The dependencies of jobs of which those that waited for none wait for the barrier; the others come behind them."""
    held_afters = np.maximum(afters_of_job, 1)
    held = np.full(held_afters.sum(), barrier, np.int64)
    held[np.repeat(afters_of_job > 0, held_afters)] = after
    return held_afters, held


def _starts(lengths: list[Int64Array]) -> Int64Array:
    return np.concatenate([[0], *lengths]).cumsum().astype(np.int64)


def _joined(columns: list[Int64Array]) -> Int64Array:
    return np.concatenate([np.zeros(0, np.int64), *columns])
