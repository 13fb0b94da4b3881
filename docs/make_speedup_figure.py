"""Draw the speedups of the README: python docs/make_speedup_figure.py

Extracts xm-tiny, simulates each machine with its own method, and lets `xmsim compare` draw them beside the perplexities of
reports/measured/evaluation_xm_tiny_machines.json (made by `xmsim evaluate xm-tiny` with a `--machine` for each of them).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from xmsim.accel_models import load_accelerator
from xmsim.accel_models.runs import simulate_trace
from xmsim.cli.report_models import REPORT_MODELS
from xmsim.configs.files import write_text, write_whole
from xmsim.reports.collection import collect
from xmsim.reports.figures.figure import Figure
from xmsim.reports.figures.speedup_simulated import speedup_simulated
from xmsim.sim.result import write_result
from xmsim.workloads import extract_trace

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "reports" / "measured" / "evaluation_xm_tiny_machines.json"
MACHINES = ("dense", "dense_causal", "dynax_s", "dynax_l", "sanger", "salo", "salo_v2")
TOKENS = 1024


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        drawn = figure(Path(name))
        write_whole(ROOT / "docs" / "figures" / "speedup_simulated.png", drawn.save_png)
        write_text(ROOT / "docs" / "figures" / "speedup_simulated.csv", drawn.csv())


def figure(folder: Path) -> Figure:
    """The figure; trace and results are left in `folder`."""
    trace = extract_trace("xm-tiny", tokens=TOKENS, out=folder / "trace")
    results = [folder / f"{name}.json" for name in MACHINES]
    for path in results:
        write_result(path, simulate_trace(trace, load_accelerator(path.stem)))
    comparison = collect([*results, RECORD], REPORT_MODELS).main
    assert comparison  # there are results
    return speedup_simulated(comparison)


if __name__ == "__main__":
    main()
