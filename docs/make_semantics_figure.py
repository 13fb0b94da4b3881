"""Draw the example of docs/semantics.md from an engine's log: python docs/make_semantics_figure.py"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Patch

from xmsim.sim.event_engine import run_events
from xmsim.sim.schedule import NO_CHANNEL, Channel, Schedule, Stage

OUT = Path(__file__).parent / "figures" / "semantics_example.png"
LOOKS = {  # what a visit does, from one of its four times to the next
    "waits in the queue": ("#ffffff", "////"),
    "is served": ("#174a7c", ""),
    "waits for its data": ("#8fb4d9", ""),
    "is done, holds its server": ("#c2571a", ""),
}


def example() -> Schedule:
    """Three jobs through load (reads 8 bytes at 4 bytes a cycle, 1 cycle of latency), work (queue of one place) and store."""
    column = lambda *values: np.array(values, np.int64)  # noqa: E731
    cycles = column(2, 7, 1, 2, 4, 1, 2, 2, 1)
    loads = np.tile([1, 0, 0], 3)
    return Schedule(
        stages=(Stage("load"), Stage("work", queue=1), Stage("store")),
        channels=(Channel("dram", Fraction(4), 1),),
        visit_start=column(0, 3, 6, 9),
        after_start=column(0, 0, 0, 0),
        after=column(),
        job_head=column(0, 0, 0),
        visit_stage=np.tile([0, 1, 2], 3),
        visit_cycles=cycles,
        visit_channel=np.where(loads, 0, NO_CHANNEL),
        visit_write=np.zeros(9, np.int64),
        visit_bytes=8 * loads,
        visit_address=np.zeros(9, np.int64),
        action_names=(),
        visit_actions=np.zeros((9, 0), np.int64),
    )


def main() -> None:
    mpl.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "hatch.linewidth": 0.6})
    schedule = example()
    log = run_events(schedule)
    figure, axes = plt.subplots(figsize=(8, 3.4), layout="constrained")
    for visit in range(schedule.visits):
        job, stage = divmod(visit, len(schedule.stages))
        served = log.start[visit] + schedule.visit_cycles[visit]
        times = (log.enter[visit], log.start[visit], served, log.done[visit], log.leave[visit])
        row = stage * 4 + job
        for (colour, hatch), begin, end in zip(LOOKS.values(), times[:-1], times[1:], strict=True):
            axes.barh(row, end - begin, left=begin, height=0.72, color=colour, edgecolor="#174a7c", linewidth=0.6, hatch=hatch)
        axes.text(log.leave[visit] + 0.12, row, f"job {job}", va="center", fontsize=8)
    axes.set(xlabel="cycle", xlim=(0, log.cycles + 1.2), xticks=range(log.cycles + 1))
    axes.set_yticks([4 * stage + 1 for stage in range(3)], [stage.name for stage in schedule.stages])
    axes.invert_yaxis()
    axes.grid(axis="x", linewidth=0.3)
    axes.set_axisbelow(True)
    handles = [Patch(facecolor=colour, edgecolor="#174a7c", hatch=hatch, label=name) for name, (colour, hatch) in LOOKS.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False, fontsize=8)
    figure.savefig(OUT, dpi=150, metadata={"Software": None})
    for name in ("enter", "start", "done", "leave"):
        print(name, getattr(log, name).reshape(3, 3).tolist())


if __name__ == "__main__":
    main()
