"""Print the tables of docs/kernels.md from the committed records: python docs/make_kernel_tables.py"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xmsim.configs.record import read_record
from xmsim.workloads.measuring.generation_record import GenerationRun, read_generation

RECORDS = Path(__file__).parents[1] / "reports" / "measured"
GENERATIONS = {"sparse": "generation_llama_1b_cpu.json", "dense": "generation_llama_1b_dense_head_cpu.json"}  # by the lm_head


def linear_table() -> str:
    """Markdown: one token, each shape and number of threads."""
    lines = ["| in → out | threads | kernel | median ms | GB/s | over our dense | over torch |", "|---|---|---|---|---|---|---|"]
    for run in _runs("linear_cpu.json"):
        if run["tokens"] == 1:
            ratios = (_times(run[f"times_as_fast_as_{base}_bfloat16"]) for base in ("dense", "torch"))
            shape = f"{run['in_features']} → {run['out_features']}"
            numbers = f"{run['median_ms']:.3f} | {run['gigabytes_per_second']:.1f}"
            lines.append(f"| {shape} | {run['threads']} | {run['name']} | {numbers} | {' | '.join(ratios)} |")
    return "\n".join(lines)


def prefill_table() -> str:
    """Markdown: attention of whole windows with a mask that is given, on two threads."""
    lines = ["| dtype | d | kept | median ms | over torch's fastest |", "|---|---|---|---|---|"]
    for run in _runs("attention_cpu.json"):
        if run["phase"] == "prefill" and run["threads"] == 2:
            place = f"{run['dtype']} | {run['head_dim']} | {run['name']}"
            lines.append(f"| {place} | {run['median_ms']:.1f} | {_times(run['times_as_fast_as_torch_sdpa'])} |")
    return "\n".join(lines)


def decode_table() -> str:
    """Markdown: one token against a cache."""
    lines = ["| threads | kernel | keys kept | median ms | over our dense | over torch's fastest |", "|---|---|---|---|---|---|"]
    for run in _runs("attention_cpu.json"):
        if run["phase"] == "decode":
            ratios = (_times(run[f"times_as_fast_as_{base}"]) for base in ("own_dense", "torch_sdpa"))
            place = f"{run['threads']} | {run['name']} | {run['kv_density']:.3f}"
            lines.append(f"| {place} | {run['median_ms']:.2f} | {' | '.join(ratios)} |")
    return "\n".join(lines)


def mask_table() -> str:
    """Markdown: native masks, dense attention, and the reference."""
    kinds = {
        "native_kernel": "native",
        "torch": "torch's dense attention",
        "of_an_array": "NumPy reference",
        "of_a_tensor": "torch reference",
    }
    lines = ["| what | | median ms (quartiles) |", "|---|---|---|"]
    for run in _runs("masks_cpu.json"):
        name, _, which = run["name"].rstrip("]").partition("[")
        kind = next(label for end, label in kinds.items() if name.endswith(end))
        spread = f"{run['median_ms']:.1f} ({run['first_quartile_ms']:.1f}–{run['third_quartile_ms']:.1f})"
        lines.append(f"| {kind} | {which.replace('-', ', ').replace('_bit', ' bits')} | {spread} |")
    return "\n".join(lines)


def generation_table() -> str:
    """Markdown: whole tokens of a model of Llama-3.2-1B's shape."""
    lines = [
        "| lm_head | kernel | linear weights | first token, ms | per token, ms | p99 | over our dense | over torch |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for head, name in GENERATIONS.items():
        for run in read_generation(RECORDS / name).generations:
            ratios = (_ratio(run, base) for base in ("packed", "torch"))
            numbers = f"{run.time_to_first_token.median_ms:.0f} | {run.p50_ms:.1f} | {run.p99_ms:.1f}"
            lines.append(f"| {head} | {run.kernel} | {run.weight_bytes / 1e6:.0f} MB | {numbers} | {' | '.join(ratios)} |")
    return "\n".join(lines)


TABLES = (linear_table, prefill_table, decode_table, mask_table, generation_table)


def _runs(name: str) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = read_record(RECORDS / name, "benchmark", 1)["runs"]
    return runs


def _ratio(run: GenerationRun, base: str) -> str:
    ratio = run.speedup.get(base)
    return f"{ratio.median:.2f}× ({ratio.first_quartile:.2f}–{ratio.third_quartile:.2f})" if ratio else ""


def _times(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.2f}× ({ratio['first_quartile']:.2f}–{ratio['third_quartile']:.2f})"


if __name__ == "__main__":
    print("\n\n".join(table() for table in TABLES))
