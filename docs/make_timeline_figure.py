"""Draw a stretch of a timeline of DynaX-S: python docs/make_timeline_figure.py"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from make_headline import synthetic_layer
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from xmsim.accel_models import load_accelerator
from xmsim.sim.compiled_engine import run_compiled
from xmsim.sim.log import EngineLog
from xmsim.sim.schedule import Schedule
from xmsim.sim.timeline import BUSY, channel_uses, queue_occupancy, server_spans
from xmsim.workloads.attention import workload_of

OUT = Path(__file__).parent / "figures" / "timeline_dynax_s.png"
FIRST, LAST = 2200, 4000  # cycles that are drawn
QUEUE = "execute"  # the stage whose queue is drawn
WORKS, WAITS_FOR_DATA, WAITS_FOR_STAGE = "#174a7c", "#8fb4d9", "#c2571a"
LEGEND = {"works": WORKS, "waits for DRAM": WAITS_FOR_DATA, "is done, waits for the next stage": WAITS_FOR_STAGE}


def main() -> None:
    mpl.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    machine, layer = load_accelerator("dynax_s"), synthetic_layer()
    schedule = machine.schedule(workload_of(layer, 0, machine.config.method.load().keep(layer, 0)))
    log = run_compiled(schedule)
    figure, (servers, queue) = plt.subplots(2, figsize=(9, 5.4), height_ratios=(7, 1), sharex=True, layout="constrained")
    draw_servers(servers, schedule, log)
    draw_queue(queue, schedule, log)
    handles = [Patch(color=colour, label=name) for name, colour in LEGEND.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(OUT, dpi=150, metadata={"Software": None})


def draw_servers(axes: Axes, schedule: Schedule, log: EngineLog) -> None:
    """A row for each server that is used in the stretch, the channel below them."""
    spans = server_spans(schedule, log)
    shown = np.flatnonzero((spans.begin < LAST) & (spans.begin + spans.cycles > FIRST))
    rows: dict[str, int] = {}
    for place in shown:
        stage = schedule.stages[spans.stage[place]]
        row = rows.setdefault(f"{stage.name} [{spans.server[place]}]" if stage.servers > 1 else stage.name, len(rows))
        cause = spans.cause[place]
        colour = WORKS if cause == BUSY else WAITS_FOR_DATA if cause <= len(schedule.channels) else WAITS_FOR_STAGE
        axes.barh(row, spans.cycles[place], left=spans.begin[place], height=0.7, color=colour, edgecolor="white", linewidth=0.5)
        visible = min(spans.begin[place] + spans.cycles[place], LAST) - max(spans.begin[place], FIRST)
        if cause == BUSY and visible > 70:
            middle = max(spans.begin[place], FIRST) + visible / 2
            axes.text(middle, row, f"job {spans.job[place]}", color="white", ha="center", va="center", fontsize=7)
    for use in channel_uses(schedule, log):
        if use.begin_cycle < LAST and use.end_cycle > FIRST:
            row = rows.setdefault("DRAM channel", len(rows))
            axes.barh(
                row,
                float(use.end_cycle - use.begin_cycle),
                left=float(use.begin_cycle),
                height=0.7,
                color=WORKS,
                edgecolor="white",
                linewidth=0.5,
            )
    axes.set_yticks(list(rows.values()), list(rows))
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", linewidth=0.3)
    axes.set_axisbelow(True)


def draw_queue(axes: Axes, schedule: Schedule, log: EngineLog) -> None:
    number = [stage.name for stage in schedule.stages].index(QUEUE)
    cycles, waiting = queue_occupancy(schedule, log, number)
    axes.step([FIRST, *cycles], [waiting[cycles <= FIRST][-1:].sum(), *waiting], where="post", color=WORKS)  # nobody waits before the first
    here = (cycles >= FIRST) & (cycles < LAST)
    axes.set(xlabel="cycle", xlim=(FIRST, LAST), ylim=(0, 1.15 * max(1, waiting[here].max())), ylabel=f"queue of\n{QUEUE}")
    axes.grid(axis="x", linewidth=0.3)


if __name__ == "__main__":
    main()
