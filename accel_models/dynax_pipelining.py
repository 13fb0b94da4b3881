"""What DynaX's two pipelinings make of the same work, and by which cause they differ."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from xmsim.accel_models.accelerator import DramConfig
from xmsim.accel_models.dynax import Dynax
from xmsim.sim.compiled_engine import run_compiled
from xmsim.sim.schedule import Schedule
from xmsim.workloads.attention import AttentionWorkload

# what the closed form takes as hidden, in the order in which it is given back
HIDDEN = {
    "query_load": ("query_load",),
    "top_k_and_decision": ("predictor_drain", "decision"),
    "scheduler_scan": ("scheduler",),
    "kv_load": ("kv_load",),
    "divide_and_store": ("divider", "store"),
}


def pipelining_causes(machine: Dynax, workload: AttentionWorkload) -> dict[str, int]:
    """Cycles of the closed form, and what is added to them, cause by cause, up to those of `pipelining: block`; they sum up to these.

    `overlap` is what finer pipelining alone changes: nothing waits for a whole window but the scheduler. Each further cause is one that
    the closed form takes as hidden, first the stages with a channel that is never waited for, then the channel.
    """
    unlimited = _with_memory(machine, 1e6, 0.0)
    cycles = {"closed_form": run_compiled(_with(unlimited, pipelining="window").schedule(workload)).cycles}
    finer = _with(unlimited, pipelining="block").schedule(workload)
    hidden = [name for names in HIDDEN.values() for name in names]
    cycles["overlap"] = run_compiled(without_stages(finer, hidden)).cycles
    for cause, names in HIDDEN.items():
        hidden = [name for name in hidden if name not in names]
        cycles[cause] = run_compiled(without_stages(finer, hidden)).cycles
    cycles["memory"] = run_compiled(_with(machine, pipelining="block").schedule(workload)).cycles
    totals = list(cycles.values())
    return dict(zip(cycles, [totals[0], *np.diff(totals).tolist()], strict=True))


def without_stages(schedule: Schedule, names: Collection[str]) -> Schedule:
    """The Schedule with every visit to the named stages left out of its job's route."""
    numbers = [number for number, stage in enumerate(schedule.stages) if stage.name in names]
    stays = ~np.isin(schedule.visit_stage, numbers)
    before = np.concatenate([[0], np.cumsum(stays)])
    return Schedule(
        stages=schedule.stages,
        channels=schedule.channels,
        visit_start=before[schedule.visit_start],
        after_start=schedule.after_start,
        after=schedule.after,
        job_head=schedule.job_head,
        visit_stage=schedule.visit_stage[stays],
        visit_cycles=schedule.visit_cycles[stays],
        visit_channel=schedule.visit_channel[stays],
        visit_write=schedule.visit_write[stays],
        visit_bytes=schedule.visit_bytes[stays],
        visit_address=schedule.visit_address[stays],
        action_names=schedule.action_names,
        visit_actions=schedule.visit_actions[stays],
    )


def _with(machine: Dynax, **changes: object) -> Dynax:
    return type(machine)(machine.name, machine.config.model_copy(update=changes))


def _with_memory(machine: Dynax, gigabytes_per_second: float, latency_ns: float) -> Dynax:
    return _with(machine, dram=DramConfig(gigabytes_per_second=gigabytes_per_second, latency_ns=latency_ns))
