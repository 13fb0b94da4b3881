"""Simulate machines at equal accuracy on xm-tiny: python docs/make_equal_accuracy.py

Takes the methods of reports/measured/evaluation_xm_tiny_equal_accuracy.json, gives each to the machine whose own it is, and
prints the tables of docs/equal_accuracy.md from what `xmsim compare` draws.
"""

from __future__ import annotations

import csv
import io
import tempfile
from pathlib import Path

import yaml

from xmsim.accel_models import load_accelerator
from xmsim.accel_models.runs import simulate_trace
from xmsim.cli.report_models import REPORT_MODELS
from xmsim.configs.shipped import find_config
from xmsim.reports.collection import collect
from xmsim.reports.figures.speedup_simulated import speedup_at_equal_accuracy
from xmsim.sim.result import write_result
from xmsim.traces.store import Trace
from xmsim.workloads import extract_trace
from xmsim.workloads.evaluation import EvaluatedRun, read_evaluation

RECORD = Path(__file__).resolve().parents[1] / "reports" / "measured" / "evaluation_xm_tiny_equal_accuracy.json"
MACHINES = {
    "dynax_s": "xm_32_1_2_4bit",
    "dynax_l": "xm_1_4_6bit",
    "sanger": "sanger_1_1_4bit",
    "salo": "window",
    "salo_v2": "salo_1_1_4bit",
}
VIEWS = ("raw", "equal peak MACs", "equal area", "equal power", "energy")
TOKENS = 512
PERCENTS = (1, 5)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        print(*tables(Path(name)), sep="\n")


def tables(folder: Path) -> list[str]:
    """The lines of the page's tables; traces and results are left in `folder`."""
    runs = {run.method["name"]: run for run in read_evaluation(RECORD).runs if run.solved_for}
    trace = extract_trace("xm-tiny", tokens=TOKENS, out=folder / "trace")
    return [line for percent in PERCENTS for line in ("", f"### +{percent} % perplexity", "", *table(folder, trace, runs, percent))]


def table(folder: Path, trace: Trace, runs: dict[str, EvaluatedRun], percent: int) -> list[str]:
    """The machines with what was solved for this loss, over the dense array."""
    home = folder / f"plus{percent}"
    home.mkdir()
    machines = ["dense_causal", *(machine_file(home, machine, runs[f"{method}_plus{percent}"]) for machine, method in MACHINES.items())]
    results = []
    for machine in map(load_accelerator, machines):
        results.append(home / f"{machine.name}.json")
        write_result(results[-1], simulate_trace(trace, machine))
    comparison = collect([*results, RECORD], REPORT_MODELS).main
    figure = comparison and speedup_at_equal_accuracy(comparison)
    assert figure  # every machine meets its target
    rows = {(row["machine"], row["normalisation"]): row for row in csv.DictReader(io.StringIO(figure.csv()))}
    lines = ["| machine | method solved | density | perplexity | " + " | ".join(VIEWS) + " |", "|---" * (len(VIEWS) + 4) + "|"]
    for name, method in MACHINES.items():
        found = [rows[name, view] for view in VIEWS]
        solved = runs[f"{method}_plus{percent}"].solved_for
        assert solved is not None
        density, loss = float(found[0]["density"]), float(found[0]["perplexity_increase"])
        cells = [f"{solved.parameter} {solved.value:.3g}", f"{density:.3f}", f"+{100 * loss:.2f} %", *map(speedup, found)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def machine_file(home: Path, machine: str, run: EvaluatedRun) -> Path:
    """A shipped machine with this method for its own."""
    method = home / f"{run.method['name']}.yaml"
    method.write_text(yaml.safe_dump({key: value for key, value in run.method.items() if key != "name"}))
    config = yaml.safe_load(find_config("accelerators", machine, "accelerator").read_text())
    path = home / f"{machine}.yaml"
    path.write_text(yaml.safe_dump(config | {"method": {"name": str(method)}}))
    return path


def speedup(row: dict[str, str]) -> str:
    low, middle, high = (float(row[key]) for key in ("speedup_low", "speedup", "speedup_high"))
    return f"{middle:.2f}×" if low == high else f"{middle:.2f} ({low:.2f} to {high:.2f})×"


if __name__ == "__main__":
    main()
