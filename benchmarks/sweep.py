"""Design points a second, and what a kill costs: python benchmarks/sweep.py speed|resume|kills FOLDER [--points N] [--out RECORD]

speed   10 000 points of DynaX-S on a trace of BERT-base's shape (12 layers × 12 heads, 512 tokens), nominal costs; then the unchanged sweep
        again. Goals on 2 cores: 15 minutes, 3 s, 600 MB for the largest process.
resume  2500 points left alone, and killed four times and started again at once. A quarter of the difference is what an interruption costs:
        work that was under way, and another start. Goal: less than 1 % of the 10 000 points of `speed`. Takes some three minutes.
kills   1000 points, killed at 20 random moments, then left to finish: its table against that of a sweep that was left alone. Goal: no point
        lost, doubled or different.

A record holds the speed, and beside it `resume` and `kills`, each added to what the record has of the same host.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from record import FORMAT, VERSION

from xmsim.configs.codec import encode
from xmsim.configs.record import read_record, write_record
from xmsim.traces.manifest import Bias, Manifest, ModelFacts
from xmsim.traces.store import open_trace
from xmsim.traces.writer import TraceWriter
from xmsim.workloads.measuring.host import describe_host
from xmsim.workloads.synthetic import sink_local_operands

LAYERS, HEADS, TOKENS, HEAD_DIM, SEED = 12, 12, 512, 64, 512003
KILLS, KILL_SEED = 20, 0
INTERRUPTIONS = 4
POINTS = {"speed": 10_000, "resume": 2500, "kills": 1000}
POLL_SECONDS = 0.02
AXES = {  # 1000 Schedules, each met by 10 clocks and channels
    "execute_array.count": [1, 2, 3, 4, 5, 6, 7, 8, 12, 16],
    "scheduler.window_tiles": [1, 2, 4, 8, 16],
    "dividers": [32, 64, 128, 256, 512],
    "dram.gigabytes_per_second": [12.8, 25.6, 51.2, 64, 128],
    "kv.buffer_bytes": [65536, 131072],
    "kv.outstanding_loads": [2, 4],
    "clock_mhz": [400, 500],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=MEASUREMENTS)
    parser.add_argument("folder", type=Path, help="for the trace, which is kept, and the sweeps")
    parser.add_argument("--points", type=int, help="about so many, and not more")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    trace = bert_base_trace(arguments.folder / "trace")
    axes = at_most(arguments.points or POINTS[arguments.what])
    sweep = Sweep(arguments.folder, trace, math.prod(map(len, axes.values())), arguments.jobs)
    sweep.path.write_text(json.dumps({"machines": ["dynax_s"], "axes": axes}), encoding="utf-8")  # JSON is YAML, too
    measured = {"points": sweep.points, "jobs": sweep.jobs, **MEASUREMENTS[arguments.what](sweep)}
    print(json.dumps(measured, indent=2))
    if arguments.out:
        shape = {"layers": LAYERS, "heads": HEADS, "tokens": TOKENS, "head_dim": HEAD_DIM}
        of_all = {"host": encode(describe_host()), "machine": "dynax_s", "shape": shape}
        write_record(arguments.out, FORMAT, VERSION, added(stored_body(arguments.out), of_all, arguments.what, measured))


def stored_body(path: Path) -> dict[str, Any]:
    """What a record says besides its header; nothing if there is none."""
    if not path.exists():
        return {}
    return {name: value for name, value in read_record(path, FORMAT, VERSION).items() if name not in ("format", "version", "xmsim")}


def added(body: dict[str, Any], of_all: dict[str, Any], what: str, measured: dict[str, Any]) -> dict[str, Any]:
    """The body of a record with a measurement more; what was measured on another host or of another sweep is left out."""
    if any(body.get(name) != value for name, value in of_all.items()):
        body = {}
    body = of_all | body | (measured if what == "speed" else {what: measured})
    if "sweep_s" in body and "resume" in body:
        body["resume"] = body["resume"] | {"overhead_share": round(body["resume"]["interruption_s"] / body["sweep_s"], 4)}
    return body


class Sweep(NamedTuple):
    """A sweep and where its folders go."""

    folder: Path
    trace: Path
    points: int
    jobs: int

    @property
    def path(self) -> Path:
        return self.folder / "sweep.yaml"

    def start(self, name: str) -> subprocess.Popen[str]:
        words = [str(self.path), "--trace", str(self.trace), "--jobs", str(self.jobs), "--out", str(self.folder / name)]
        return subprocess.Popen([sys.executable, "-m", "xmsim", "sweep", *words], stdout=subprocess.PIPE, text=True)

    def run(self, name: str) -> tuple[float, str]:
        """Wall-clock seconds and what it printed."""
        started = time.monotonic()
        with self.start(name) as process:
            said = process.communicate()[0]
        if process.returncode:
            sys.exit(f"the sweep in {name} failed")
        return time.monotonic() - started, said

    def killed(self, name: str, *, after_points: int, after_seconds: float = 0) -> float:
        """Seconds until it had stored so many points, and was killed so much later."""
        started = time.monotonic()
        with self.start(name) as process:
            while process.poll() is None and self.stored(name) < after_points:
                time.sleep(POLL_SECONDS)
            time.sleep(after_seconds)
            os.kill(process.pid, signal.SIGKILL)
        return time.monotonic() - started

    def stored(self, name: str) -> int:
        """Points in the store, which may be on its way."""
        store = self.folder / name / "points.sqlite"
        if not store.exists():
            return 0
        connection = sqlite3.connect(f"file:{store}?mode=ro", uri=True)
        try:
            return int(connection.execute("SELECT count(*) FROM points").fetchone()[0])
        except sqlite3.OperationalError:  # no table yet
            return 0
        finally:
            connection.close()

    def clear(self, *names: str) -> None:
        for name in names:
            shutil.rmtree(self.folder / name, ignore_errors=True)


def measure_speed(sweep: Sweep) -> dict[str, Any]:
    sweep.clear("speed")
    seconds, _ = sweep.run("speed")
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    again, said = sweep.run("speed")
    if "; 0 of them now" not in said:
        sys.exit("the unchanged sweep was simulated again: the code changed while this ran")
    return {
        "sweep_s": round(seconds, 2),
        "sweep_cpu_s": round(usage.ru_utime + usage.ru_stime, 2),
        "points_per_s": round(sweep.points / seconds, 1),
        "cpu_ms_per_point": round(1e3 * (usage.ru_utime + usage.ru_stime) / sweep.points, 1),
        "largest_process_mb": round(usage.ru_maxrss / 1024),
        "unchanged_rerun_s": round(again, 2),
    }


def measure_resume(sweep: Sweep) -> dict[str, Any]:
    sweep.clear("first", "whole", "resumed")
    sweep.killed("first", after_points=1)  # what is compiled once is compiled
    whole, _ = sweep.run("whole")
    interrupted, stored = 0.0, []
    for part in range(1, INTERRUPTIONS + 1):
        interrupted += sweep.killed("resumed", after_points=part * sweep.points // (INTERRUPTIONS + 1))
        stored.append(sweep.stored("resumed"))
    interrupted += sweep.run("resumed")[0]
    return {
        "interruptions": INTERRUPTIONS,
        "stored_at_each_kill": stored,
        "left_alone_s": round(whole, 2),
        "interrupted_s": round(interrupted, 2),
        "interruption_s": round((interrupted - whole) / INTERRUPTIONS, 2),
        "tables_equal": same_tables(sweep, "whole", "resumed"),
    }


def measure_kills(sweep: Sweep) -> dict[str, Any]:
    sweep.clear("whole", "killed")
    sweep.run("whole")
    moments, stored = random.Random(KILL_SEED), []
    for kill in range(KILLS):  # at any moment: while it starts, simulates, or writes its tables
        sweep.killed("killed", after_points=kill * sweep.points // KILLS, after_seconds=moments.uniform(0, 4))
        stored.append(sweep.stored("killed"))
    _, said = sweep.run("killed")
    return {
        "kills": KILLS,
        "stored_at_each_kill": stored,
        "simulated_by_the_last_run": int(said.split(" of them now")[0].split()[-1]),
        "lost_or_doubled": sweep.stored("killed") - sweep.points,
        "tables_equal": same_tables(sweep, "whole", "killed"),
    }


MEASUREMENTS = {"speed": measure_speed, "resume": measure_resume, "kills": measure_kills}


def same_tables(sweep: Sweep, one: str, other: str) -> bool:
    return all(
        (sweep.folder / one / name).read_bytes() == (sweep.folder / other / name).read_bytes() for name in ("points.csv", "pareto.csv")
    )


def at_most(points: int) -> dict[str, list[float]]:
    """The axes, the longest cut until their product is not larger."""
    axes = {path: list(values) for path, values in AXES.items()}
    while math.prod(map(len, axes.values())) > points:
        max(axes.values(), key=len).pop()
    return axes


def bert_base_trace(folder: Path) -> Path:
    """Operands of BERT-base's shape by the recipe `sink_local`, another seed for each layer; made once."""
    model = ModelFacts("BERT-base's shape", "bert", LAYERS, HEADS, HEADS, HEAD_DIM, HEADS * HEAD_DIM, 30522, "0" * 64, "0" * 64)
    heads = tuple(range(HEADS))
    writer = TraceWriter(folder, Manifest(model, "float32", (TOKENS,), tuple(range(LAYERS)), heads, heads, seed=SEED))
    for layer in writer.missing:
        made = sink_local_operands(HEADS, TOKENS, HEAD_DIM, seed=SEED + layer)
        writer.write_layer(layer, q=made.q[None], k=made.k[None], v=made.v[None], scale=made.scale, bias=Bias("none"))
    return open_trace(folder).path


if __name__ == "__main__":
    main()
