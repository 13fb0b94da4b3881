"""Tables, texts, histograms and databases that others may have written: valid ones, and the reading."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
TECHNOLOGY = ROOT / "configs" / "technology"


def read_areas(path: Path) -> None:
    from xmsim.configs.schema import read_config
    from xmsim.configs.technology_tables import LogicTable, read_rtl_areas, with_rtl_areas

    with_rtl_areas(read_config(TECHNOLOGY / "logic.yaml", LogicTable), read_rtl_areas(path))


def write_sram_grid(folder: Path) -> None:
    lines = (TECHNOLOGY / "sram_grid.csv").read_text().splitlines()
    (folder / "sram_grid.csv").write_text("\n".join(lines[:40]) + "\n")


def read_grid(folder: Path) -> None:
    from xmsim.configs.technology_tables import read_sram_grid

    read_sram_grid(folder / "sram_grid.csv")


def write_experiments_table(folder: Path) -> None:
    from xmsim.workloads.measuring.experiments import write_example

    write_example(folder / "experiments.csv")


def read_experiments_table(folder: Path) -> None:
    """The table, its plans, and where their results would go."""
    from xmsim.workloads.measuring.experiments import read_experiments
    from xmsim.workloads.measuring.generation import GenerationPlan

    for experiment in read_experiments(folder / "experiments.csv"):
        assert Path(experiment.file_name).name == experiment.file_name
        experiment.plan(GenerationPlan())


def write_plain_text(folder: Path) -> None:
    (folder / "text.txt").write_text("One line of a text.\nAnother – not of ASCII alone.\n" * 20, encoding="utf-8")


def read_plain_text(folder: Path) -> None:
    from xmsim.workloads.texts.windows import read_text

    read_text(folder / "text.txt").encode()


def write_packed(folder: Path) -> None:
    import lzma

    (folder / "text.txt.xz").write_bytes(lzma.compress(b"One line of a text.\n" * 500))


def read_packed(folder: Path) -> None:
    from xmsim.workloads.tuning.text import read_packed_text

    read_packed_text(folder / "text.txt.xz").encode()


def write_greedy(folder: Path) -> None:
    from xmsim.reference.activations.greedy import GreedyStep, write_greedy_table

    steps = [GreedyStep(0.1 * n, 0.2 * n, 0.3 * n, {"q": 0.1 * n, "down": 0.05 * n}) for n in range(6)]
    write_greedy_table(folder / "results.csv", steps)


def read_greedy(folder: Path) -> None:
    from xmsim.reference.activations.greedy import nearest_step, read_greedy_table

    nearest_step(read_greedy_table(folder / "results.csv"), 0.3)


def write_splits(folder: Path) -> None:
    shutil.copy(ROOT / "docs" / "figures" / "perplexity_split.csv", folder / "splits.csv")


def read_split_rows(folder: Path) -> None:
    from xmsim.workloads.quality.spdp_sweep import read_splits

    read_splits(folder / "splits.csv")


def write_histogram_file(folder: Path) -> None:
    from xmsim.reference.activations import ActivationCounter, write_histograms

    counter = ActivationCounter()
    counter.add(np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32))
    write_histograms(folder / "activations.safetensors", {"layers.0.q": counter.histogram(), "layers.0.o": counter.histogram()})


def read_histogram_file(folder: Path) -> None:
    from xmsim.workloads.extraction.activation_histograms import activation_thresholds, load_histograms

    activation_thresholds(load_histograms(folder), 0.5)


def write_nsys(folder: Path) -> None:
    """Kernels, names and ranges, as Nsight Systems exports them."""
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(folder / "run.sqlite")) as database:
        database.execute("CREATE TABLE StringIds (id INTEGER, value TEXT)")
        database.execute("CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (start INTEGER, end INTEGER, shortName INTEGER, streamId INTEGER)")
        database.execute("CREATE TABLE NVTX_EVENTS (start INTEGER, end INTEGER, text TEXT, textId INTEGER)")
        database.executemany("INSERT INTO StringIds VALUES (?, ?)", [(1, "gemv"), (2, "repeat 0: torch")])
        database.executemany("INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES (?, ?, ?, 7)", [(10 * n, 10 * n + 5, 1) for n in range(40)])
        ranges = [
            (0, 90, "warm-up: torch", None),
            (100, 390, None, 2),
            *((100 + 20 * n, 118 + 20 * n, f"token {n}", None) for n in range(9)),
        ]
        database.executemany("INSERT INTO NVTX_EVENTS VALUES (?, ?, ?, ?)", ranges)
        database.commit()


def read_nsys_tables(folder: Path) -> None:
    import contextlib
    import io

    from xmsim.cli.measure_nsys import print_nsys

    with contextlib.redirect_stdout(io.StringIO()):
        print_nsys(folder / "run.sqlite")
