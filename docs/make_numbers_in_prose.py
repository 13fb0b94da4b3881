"""Print what running text says in numbers, from the committed records: python docs/make_numbers_in_prose.py

Pieces of sentences and rows of tables, by page, and whether the page has them. After a record was renewed, put the new pieces in the place
of those that are missing, and read whether the words around them are still true.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from xmsim.configs.record import read_record
from xmsim.workloads.evaluation import EvaluatedRun, read_evaluation
from xmsim.workloads.quality.spdp_sweep import read_splits
from xmsim.workloads.quality.window_scores import standard_error

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "reports" / "measured"
LENGTH = 1024


# --- kernels ---


def linear_layers() -> Iterator[str]:
    """One token, and many, through the layers of linear_cpu.json."""
    runs: list[dict[str, Any]] = read_record(RECORDS / "linear_cpu.json", "benchmark", 1)["runs"]

    def medians(name: str, key: str, few: bool = True) -> list[float]:
        return [run[key]["median"] for run in runs if run["name"] == name and (run["tokens"] == 1 if few else run["tokens"] >= 16)]

    reads = [run["gigabytes_per_second"] for run in runs if run["name"] == "plain read"]
    yield f"its plain reads vary from {span(reads, '.0f')} GB/s within this record"
    torch, dense = (span((100 * one for one in medians(f"{name} bfloat16", "share_of_plain_read")), ".0f") for name in ("torch", "dense"))
    yield f"torch's bfloat16 product reaches {torch} % of the memory's speed, and our dense one {dense} %"
    over = "times_as_fast_as_dense_bfloat16"
    few, int8 = (span(medians(f"sparse {kind} s=0.5", over), ".1f") for kind in ("bfloat16", "int8"))
    yield f"Half the weights gone is worth {few} times over that, of 1.78 that the bytes allow; int8 besides, {int8} times."
    many, int8 = (span(medians(f"sparse {kind} s=0.5", over, few=False), ".2f") for kind in ("bfloat16", "int8"))
    yield f"From 16 tokens on arithmetic decides: the same layer is {many} times as fast as the dense one in bfloat16"
    yield f"bfloat16, and {int8} times in int8"


def pruned_cache() -> str:
    """SparAMX's cache against our dense kernel, in attention_cpu.json."""
    runs = read_record(RECORDS / "attention_cpu.json", "benchmark", 1)["runs"]
    ratios = {run["threads"]: run["times_as_fast_as_own_dense"]["median"] for run in runs if run["name"].startswith("pruned")}
    return f"{ratios[1]:.2f} times as fast as on the dense cache with one thread, {ratios[2]:.2f} times with two"


# --- perplexities ---


def tuned_in_short() -> Iterator[str]:
    shipped, model, control = (runs(f"evaluation_xm_tiny{end}") for end in ("", "_tuned", "_tuned_dense"))
    yield f"`salo`'s static window loses {increase(shipped['window'])} % in perplexity where `xm` loses {increase(shipped['xm'])} %"
    machines = runs("evaluation_xm_tiny_machines")
    yield f"(the machine `sanger` prunes at 2e-3, which costs {increase(machines['sanger, 4-bit 1:1'])} %)"
    yield f"`xm` from {increase(shipped['xm'])} % to {increase(model['xm'])} %"
    above = 100 * (model["xm"].perplexity / control["dense"].perplexity - 1)
    yield f"the model still pays {increase(control['xm'])} % for `xm` (and with `xm` stands {above:.1f} % above that dense control)"


def tuned() -> Iterator[str]:
    shipped, model, control = (runs(f"evaluation_xm_tiny{end}") for end in ("", "_tuned", "_tuned_dense"))
    methods = ("xm", "xm2", "xm, 6-bit 1:4", "xm_32, 4-bit 1:2")
    for label, found in (("as shipped", shipped), ("tuned with `xm`", model), ("tuned dense, same plan", control)):
        costs = [cost(found[method]) if method in found else "" for method in methods]
        costs[0] = f"**{costs[0]}**" if found is model else costs[0]
        yield " ".join(f"| {label} | {found['dense'].perplexity:.2f} | {' | '.join(costs)} |".split())
    before, after = (one["xm"].loss_increase for one in (shipped, model))
    yield f"take back {100 * (1 - after / before):.0f} % of what `xm` costs"
    dense, sparse = control["dense"].loss, model["xm"].loss
    left = sparse - dense
    yield f"({dense:.4f}) the model tuned with `xm` stands {left:.4f} higher ({sparse:.4f}), so {100 * (1 - left / before):.0f} % of"
    record = read_record(RECORDS / "tuning_xm_tiny.json", "tuning", 1)
    yield f"{record['steps']} steps {record['tuned_tokens']} tokens {record['tuned_parameters']} parameters {record['seconds']:.0f} s"
    losses = {kind: [record[when][f"{kind}_window_losses_nats_per_token"] for when in ("before", "after")] for kind in ("dense", "method")}
    for label, kind in (("dense", "dense"), ("xm", "method")):
        yield " ".join((label, *(f"{fmean(each):.4f}" for each in losses[kind])))
    yield " ".join(("cost of xm", *(difference(*pair, digits=4) for pair in zip(losses["method"], losses["dense"], strict=True))))


def pruned() -> Iterator[str]:
    """Rows of docs/pruning.md up to the published columns, and its paired differences."""
    methods = {name: name for name in ("magnitude", "wanda", "wanda_alpha", "sparsegpt", "admm", "proxsparse")}
    for name, file in (methods | {"wanda --budget owl": "wanda_owl", "wanda --budget alphapruning": "wanda_alphapruning"}).items():
        yield f"| `{name}` | {pruned_perplexity(file, '50')} | {pruned_perplexity(file, '2of4')} |"
    yield f"magnitude − Wanda {paired('magnitude', 'wanda', '50')} at 50 % and {paired('magnitude', 'wanda', '2of4')} at 2:4"
    yield f"Wanda − SparseGPT {paired('wanda', 'sparsegpt', '50')} at 50 %"
    yield f"SparseGPT − ADMM {paired('sparsegpt', 'admm', '50')} and {paired('sparsegpt', 'admm', '2of4')}"


def proxsparse() -> Iterator[str]:
    """The same of docs/proxsparse.md."""
    for name in ("magnitude", "wanda", "proxsparse", "sparsegpt", "admm"):
        yield f"| `{name}` | {pruned_perplexity(name, '2of4')} |"
    yield f"magnitude − ProxSparse {paired('magnitude', 'proxsparse', '2of4')}, Wanda − ProxSparse {paired('wanda', 'proxsparse', '2of4')}"
    yield f"ProxSparse − SparseGPT {paired('proxsparse', 'sparsegpt', '2of4')}"


def evaluated() -> Iterator[str]:
    """Lines that `xmsim evaluate` prints, in the first example of docs/evaluation.md."""
    for label, run in runs("evaluation_xm_tiny").items():
        if label in ("dense", "xm", "xm, 6-bit 1:4", "nm", "sanger", "window"):
            density = run.densities
            shares = f"{density.density:.4f} {density.full_density:.4f} {density.kv_density:.4f}"
            loss = f"{100 * run.perplexity_increase:+.2f} % {run.loss_increase:+.4f} ± {run.loss_increase_error or 0:.4f}"
            yield f"{label} {run.length_tokens} {run.windows} {shares} {run.perplexity:.3f} {loss} {run.bits_per_byte:.4f}"


def splits() -> Iterator[str]:
    """Rows of docs/activation_sparsity.md up to the columns of the other policy, whose table is not kept."""
    rows = read_splits(ROOT / "docs" / "figures" / "perplexity_split.csv")
    totals = sorted({row.s1 for row in rows if row.s1 and not row.s2})
    yield f"dense {next(row for row in rows if not row.s1 and not row.s2).Uniform_PPL:.2f}"
    for total in totals:
        same = [row for row in rows if abs(1 - (1 - row.s1) * (1 - row.s2) - total) < 0.005]
        weights, activations = (next(row for row in same if not getattr(row, side)) for side in ("s2", "s1"))
        best = min((row for row in same if row.s1 and row.s2), key=lambda row: row.Uniform_PPL)
        pair = f"({best.s1:g}, {best.s2:.2g})"
        yield f"| {total:g} | {weights.Uniform_PPL:.2f} | {activations.Uniform_PPL:.2f} | {best.Uniform_PPL:.2f} {pair} |"


def activations() -> Iterator[str]:
    """Rows of docs/activation_sparsity.md on uniform and greedy shares, the dense perplexity, and what greedy ones save."""
    rows = {
        "uniform": "uniform | 0.5",
        "uniform_489": "uniform, at what greedy reached | 0.489",
        "uniform_sinks": "uniform, `--policy sinks_dense` | 0.5",
        "greedy": "greedy | 0.5",
        "uniform_489_sinks": "the same, at what greedy reached | 0.489",
        "greedy_sinks": "greedy, searched and used with `--policy sinks_dense` | 0.5",
    }
    costs = {}
    for name, words in rows.items():
        dense, run = read_evaluation(RECORDS / f"evaluation_xm_tiny_activations_{name}.json").runs
        assert run.activations and run.loss_increase_error is not None
        costs[name] = run.loss_increase
        cost = f"{run.loss_increase:.3f} ± {run.loss_increase_error:.3f}"
        yield f"| {words} | {run.activations.total_sparsity:.3f} | {run.perplexity:.2f} | {cost} |"
    first_half, sinks = (100 * (1 - costs[f"greedy{policy}"] / costs[f"uniform_489{policy}"]) for policy in ("", "_sinks"))
    yield f"at the same sparsity {first_half:.0f} % less here, and {sinks:.0f} % less where no half of the prompt stays dense"
    yield f"dense {dense.perplexity:.2f}; ± is one standard error over {dense.windows} windows"


def runs(name: str) -> dict[str, EvaluatedRun]:
    """Runs of a record at one length, by label."""
    return {run.label: run for run in read_evaluation(RECORDS / f"{name}.json").runs if run.length_tokens == LENGTH}


def increase(run: EvaluatedRun) -> str:
    return f"{100 * run.perplexity_increase:.1f}"


def cost(run: EvaluatedRun) -> str:
    return f"{run.loss_increase:.4f} ± {run.loss_increase_error:.4f}"


def pruned_perplexity(method: str, pattern: str) -> str:
    name = f"evaluation_xm_tiny_{method}_{pattern}"
    return f"{runs(name)['dense'].perplexity:.2f}" if (RECORDS / f"{name}.json").exists() else "–"


def paired(worse: str, better: str, pattern: str) -> str:
    """How much more one pruning costs than another."""
    first, second = (runs(f"evaluation_xm_tiny_{method}_{pattern}")["dense"].window_losses for method in (worse, better))
    return difference(first, second, digits=3)


def difference(first: Sequence[float], second: Sequence[float], digits: int) -> str:
    """Of losses of the same windows: the mean, and its standard error."""
    differences = [one - other for one, other in zip(first, second, strict=True)]
    return f"{fmean(differences):.{digits}f} ± {standard_error(differences):.{digits}f}"


def span(values: Iterable[float], form: str) -> str:
    found = sorted(values)
    return f"{found[0]:{form}} to {found[-1]:{form}}"


PAGES: dict[str, Callable[[], Iterable[str]]] = {
    "README.md": tuned_in_short,
    "docs/kernels.md": lambda: (*linear_layers(), pruned_cache()),
    "docs/kernels/sparse_attention.md": lambda: (pruned_cache(),),
    "docs/tuning.md": tuned,
    "docs/pruning.md": pruned,
    "docs/proxsparse.md": proxsparse,
    "docs/evaluation.md": evaluated,
    "docs/activation_sparsity.md": lambda: (*splits(), *activations()),
}


def missing(page: str) -> list[str]:
    """What a page must say and does not; how its lines are broken does not matter."""
    found = " ".join((ROOT / page).read_text(encoding="utf-8").split())
    return [text for text in PAGES[page]() if text not in found]


if __name__ == "__main__":
    for page, texts in PAGES.items():
        absent = missing(page)
        for text in texts():
            print(f"{'MISSING' if text in absent else 'there':8} {page}: {text}")
