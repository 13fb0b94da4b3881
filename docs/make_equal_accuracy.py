"""Simulate machines at equal accuracy on xm-tiny: python docs/make_equal_accuracy.py

Takes the methods of reports/measured/evaluation_xm_tiny_equal_accuracy.json, gives each to the machine whose own it is, and
prints the tables of docs/equal_accuracy.md from what `xmsim compare` writes.
"""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import yaml

from xmsim.configs.shipped import find_config
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


def main() -> None:
    runs = {run.method["name"]: run for run in read_evaluation(RECORD).runs if run.solved_for}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        xmsim("extract", "xm-tiny", "--tokens", TOKENS, "--out", folder / "trace")
        for percent in (1, 5):
            print(f"\n### +{percent} % perplexity\n", *table(folder, runs, percent), sep="\n")


def table(folder: Path, runs: dict[str, EvaluatedRun], percent: int) -> Iterator[str]:
    """The machines with what was solved for this loss, over the dense array."""
    home = folder / f"plus{percent}"
    home.mkdir()
    files = [machine_file(home, machine, runs[f"{method}_plus{percent}"]) for machine, method in MACHINES.items()]
    xmsim("simulate", "dense_causal", *files, "--trace", folder / "trace", "--out", home / "results")
    xmsim("compare", *sorted((home / "results").glob("*.json")), RECORD, "--out", home / "report")
    with (home / "report" / "speedup_at_equal_accuracy.csv").open(newline="") as text:
        rows = {(row["machine"], row["normalisation"]): row for row in csv.DictReader(text)}
    yield "| machine | method solved | density | perplexity | " + " | ".join(VIEWS) + " |"
    yield "|---" * (len(VIEWS) + 4) + "|"
    for machine, method in MACHINES.items():
        found = [rows[machine, view] for view in VIEWS]
        solved = runs[f"{method}_plus{percent}"].solved_for
        assert solved is not None
        density, loss = float(found[0]["density"]), float(found[0]["perplexity_increase"])
        cells = [f"{solved.parameter} {solved.value:.3g}", f"{density:.3f}", f"+{100 * loss:.2f} %", *map(speedup, found)]
        yield f"| {machine} | " + " | ".join(cells) + " |"


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


def xmsim(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "xmsim", *map(str, words)], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
