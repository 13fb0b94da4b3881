"""Put our values into docs/reproduction.md: python docs/make_reproduction.py

Values come from the closed forms, from committed records and from tables of other pages that tests hold to the models. The page's text
stays; what stands between two markers is replaced.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xmsim.accel_models import salo_published, sanger_published
from xmsim.reference.activations import dynamic_sparsity

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reproduction.md"
GOLDEN = ROOT / "tests" / "golden"
MEASURED = ROOT / "reports" / "measured"
HEADER = "| what | published | tolerance | ours | reproduced | command |\n|---|---|---|---|---|---|"


@dataclass(frozen=True, slots=True)
class Row:
    """One published number and ours; `tolerance` is relative, None where conditions differ too much to be held to one."""

    what: str
    published: float
    ours: float
    tolerance: float | None
    command: str
    unit: str = ""
    digits: int = 2

    @property
    def reproduced(self) -> str:
        if self.tolerance is None:
            return "other conditions"
        return "yes" if abs(self.ours - self.published) <= self.tolerance * abs(self.published) else "**no**"

    def __str__(self) -> str:
        tolerance = "" if self.tolerance is None else "exact" if self.tolerance < 1e-9 else f"{100 * self.tolerance:g} %"
        values = (f"{value:.{self.digits}f}{self.unit}" for value in (self.published, self.ours))
        return f"| {self.what} | {next(values)} | {tolerance} | {next(values)} | {self.reproduced} | `{self.command}` |"


def closed_forms() -> list[Row]:
    """The authors' own latency models, by the largest relative difference over their grids, and their headline figures."""
    command = "pytest tests/accel_models -k published"
    grids: list[tuple[str, str, Callable[[dict[str, float]], tuple[float, float]]]] = [
        ("Sanger, first model", "sanger_v1.csv", lambda row: (_sanger(sanger_published.published_model_v1, row), row["latency_s"])),
        ("Sanger, second model", "sanger_v2.csv", lambda row: (_sanger(sanger_published.published_model_v2, row), row["latency_s"])),
        ("SALO, first model", "salo_v1.csv", _salo_v1),
        ("SALOv2", "salo.csv", _salo_v2),
    ]
    rows = []
    for what, file, pair in grids:
        points = [pair(row) for row in _golden(file)]
        worst = max(abs(ours - theirs) / theirs for ours, theirs in points)
        rows.append(Row(f"{what}: ours over theirs, worst of {len(points)} points", 1, 1 + worst, 1e-12, command, digits=6))
    headline = salo_published.published_model_v2(384, 8, 768, 16).parts["printed_ms"]
    rows.append(Row("SALOv2's printed latency, 384 tokens, 16 heads", 0.96, headline, 0.01, command, "\u00a0ms", 4))
    for total, static, dynamic in ((0.5, 0.2, 0.375), (0.6, 0.25, 0.467), (0.8, 0.45, 0.636)):
        what = f"SPDP's split of a total of {total}: s2 beside s1 = {static}"
        rows.append(Row(what, dynamic, dynamic_sparsity(total, static), 0.002, "pytest tests/reference/activations", digits=3))
    return rows


def _golden(name: str) -> list[dict[str, float]]:
    with (GOLDEN / name).open(encoding="utf-8") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def _sanger(model: Callable[[float, float, int], float], row: dict[str, float]) -> float:
    return model(row["sparsity"], row["load_balance"], int(row["seq_len"]))


def _salo_v1(row: dict[str, float]) -> tuple[float, float]:
    sizes = [int(row[name]) for name in ("seq_len", "window_size", "dim", "num_heads")]
    array = {"pe_rows": int(row["pe_rows"]), "pe_cols": int(row["pe_cols"]), "pe_globals": int(row["pe_glbs"])}
    return salo_published.published_model_v1(*sizes, **array, clock_ghz=row["freq"]).seconds * 1e3, row["latency_ms"]


def _salo_v2(row: dict[str, float]) -> tuple[float, float]:
    sizes = [int(row[name]) for name in ("seq_len", "window_size", "dim", "num_heads")]
    options = {
        "block": "block_size",
        "globals": "nums_global",
        "randoms": "nums_random",
        "pe_rows": "pe_rows",
        "pe_cols": "pe_cols",
        "pe_globals": "pe_glbs",
        "pe_randoms": "pe_randoms",
    }
    array = {ours: int(row[theirs]) for ours, theirs in options.items()}
    return float(salo_published.published_model_v2(*sizes, **array, clock_ghz=row["freq"]).cycles), row["sparse_cycles"]


def speedups() -> list[Row]:
    """DynaX-S against its baselines, from docs/headline.md, whose synthetic table a test holds to the models."""
    text = (ROOT / "docs" / "headline.md").read_text(encoding="utf-8")
    command = "python docs/make_headline.py"
    rows = []
    for part, name in (("## Synthetic operands", "synthetic"), ("## MiniLM", "MiniLM")):
        table = _first_table(text[text.index(part) :])
        for machine, label, published in (("sanger", "Sanger", 1.99), ("salo_v2", "SALOv2", 1.50)):
            cells = next(cells for cells in table if cells["machine"] == machine)
            for view in ("as they are", "multipliers and clock equal"):
                rows.append(
                    Row(f"DynaX-S over {label}, {name}, {view}", published, float(cells[view].removesuffix("×")), 0.1, command, "×")
                )
    return rows


def anchors() -> list[Row]:
    """Published areas and powers, from docs/energy_area.md."""
    text = (ROOT / "docs" / "energy_area.md").read_text(encoding="utf-8")
    rows = []
    for title, unit, digits in (("### Area, mm²", "\u00a0mm²", 2), ("### Power on chip, mW", "\u00a0mW", 0)):
        what = title.split(",")[0].removeprefix("### ")
        for cells in _first_table(text[text.index(title) :]):
            values = float(cells["published"]), float(cells["predicted"])
            rows.append(Row(f"{what} of `{cells['machine']}`", *values, 0.4, "python docs/make_energy_area.py", unit, digits))
    return rows


def pruned_perplexities() -> list[Row]:
    """Perplexity over dense after pruning: LLaMA-2-7B as published (dense 5.12), xm-tiny from our records."""
    published = {"magnitude": (14.89, 54.59), "wanda": (6.42, 11.02), "sparsegpt": (6.51, 10.17), "proxsparse": (None, 9.18)}
    dense = _perplexity("evaluation_xm_tiny.json", length=1024)
    rows = []
    for method, values in published.items():
        for pattern, name, value in zip(("50", "2of4"), ("50 %", "2:4"), values, strict=True):
            if value is not None:
                ours = _perplexity(f"evaluation_xm_tiny_{method}_{pattern}.json") / dense
                options = "--pattern 2:4" if pattern == "2of4" else "--sparsity 0.5"
                rows.append(
                    Row(
                        f"`{method}`, {name}",
                        value / 5.12,
                        ours,
                        None,
                        f"xmsim prune xm-tiny --method {method} {options} --out pruned",
                        "×",
                    )
                )
    return rows


def _perplexity(name: str, length: int | None = None) -> float:
    runs = json.loads((MEASURED / name).read_text(encoding="utf-8"))["runs"]
    return float(next(run["perplexity"] for run in runs if run["method"]["name"] == "dense" and length in (None, run["length_tokens"])))


def cpu_kernels() -> list[Row]:
    """SparAMX's two headlines, beside what was measured on a host without AMX."""
    record = json.loads((MEASURED / "generation_llama_1b_cpu.json").read_text(encoding="utf-8"))
    runs = {run["kernel"]: run for run in record["generations"]}
    attention = json.loads((MEASURED / "attention_cpu.json").read_text(encoding="utf-8"))["runs"]
    pruned = next(run for run in attention if run["name"].startswith("pruned") and run["threads"] == 2 and run["phase"] == "decode")
    token = "xmsim measure --shape llama-3.2-1b --sparsity 0.5"
    what = "a token, half of the weights zero, over torch"
    return [
        Row(f"SparAMX, {what}", 1.42, runs["bitmap"]["speedup"]["torch"]["median"], None, token, "×"),
        Row("the same, over our own dense kernel", 1.42, runs["bitmap"]["speedup"]["packed"]["median"], None, token, "×"),
        Row(
            "SparAMX, attention with 30 % of K and 50 % of V pruned, over dense",
            1.14,
            _ratio(pruned["times_as_fast_as_own_dense"]),
            None,
            "python benchmarks/cpu_attention.py",
            "×",
        ),
    ]


def _ratio(value: Any) -> float:
    return float(value["median"])


def _first_table(text: str) -> list[dict[str, str]]:
    lines = text[text.index("\n|") + 1 :].split("\n")
    names = _cells(lines[0])
    return [dict(zip(names, _cells(line), strict=True)) for line in _until_blank(lines[2:])]


def _until_blank(lines: list[str]) -> list[str]:
    return lines[: next((number for number, line in enumerate(lines) if not line.startswith("|")), len(lines))]


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


TABLES = {
    "closed forms": closed_forms,
    "speedups": speedups,
    "anchors": anchors,
    "pruning": pruned_perplexities,
    "kernels": cpu_kernels,
}


def filled(text: str) -> str:
    """The page with the table of each marker made anew."""

    def table(match: re.Match[str]) -> str:
        return f"{match[1]}\n\n" + "\n".join([HEADER, *map(str, TABLES[match[2]]())]) + f"\n\n{match[3]}"

    return re.sub(r"(<!-- table: ([a-z ]+) -->).*?(<!-- end -->)", table, text, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote {PAGE}")
