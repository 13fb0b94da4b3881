"""xmsim prune --sweep: a total sparsity split between weights and activations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xmsim.configs.errors import XmsimError

if TYPE_CHECKING:
    from rich.table import Table

    from xmsim.workloads.evaluation import SparsitySplit

TABLE = "splits.csv"


def prune_sweep(
    model: str,
    totals: str,
    *,
    step: float,
    policy: str,
    windows: int | None,
    out: Path,
    text: Path | None,
    samples: int,
    length: int,
    seed: int,
    **pruning: Any,
) -> None:
    """Prune at every s1 that the splits need, try each split, and write the table and its plot.

    Args:
        totals: total sparsities, e.g. 0.3,0.5.
        step: between the s1 of the splits.
        policy: which tokens stay dense, of `workloads.activation_sparsity`.
        windows: of the shipped text that are evaluated, each of `length` tokens; None: all.
        out: folder of the table, the plot and a folder for each pruned model, which are found again.
        text, samples, length, seed, pruning: as for `prune_model`; histograms are made of the same samples.
    Raises:
        XmsimError: whatever is wrong, in one sentence.
    """
    from xmsim.cli.progress import progress_bar
    from xmsim.cli.tables import table_console
    from xmsim.configs.files import write_text, write_whole
    from xmsim.reports.figures.perplexity_split import perplexity_split
    from xmsim.workloads.attachment.activation_sparsity import find_policy
    from xmsim.workloads.pruning.stored import open_stored_model
    from xmsim.workloads.pruning.text import read_calibration
    from xmsim.workloads.quality.spdp_sweep import SweepPlan, pruned_once, sweep_splits, total_splits
    from xmsim.workloads.texts.corpora import shipped_text

    pairs = total_splits(_shares(totals), step=step)
    chosen = find_policy(policy)
    calibration = read_calibration(text, open_stored_model(model).tokenizer(), samples=samples, length=length, seed=seed).windows
    plan = SweepPlan(shipped_text(), [window.tolist() for window in calibration], length=length, windows=windows, policy=chosen)
    load = pruned_once(model, out, text=text, samples=samples, length=length, seed=seed, **pruning)
    with progress_bar(f"sweep {model}", "splits") as progress:
        splits = sweep_splits(load, pairs, plan, progress)
    figure = perplexity_split(splits, f"{model} on {plan.corpus.name}, {pruning['method']}, {policy}, windows of {length} tokens")
    write_text(out / TABLE, figure.csv())
    write_whole(out / f"{figure.name}.png", figure.save_png)
    console = table_console()
    console.print(split_table(splits))
    console.print(figure.claim, highlight=False)
    for path in (out / TABLE, out / f"{figure.name}.png"):
        console.print(f"wrote {path}", highlight=False)


def _shares(words: str) -> list[float]:
    try:
        return [float(word) for word in words.split(",")]
    except ValueError:
        raise XmsimError(f"--sweep {words}: give total sparsities, e.g. 0.3,0.4,0.5") from None


def split_table(splits: Sequence[SparsitySplit]) -> Table:
    """One row for each split."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    for name in ("s1 weights", "s2 activations", "static reached", "dynamic reached", "total reached", "perplexity"):
        table.add_column(name, justify="right")
    for row in splits:
        asked, reached = (row.s1, row.s2), (row.static_sparsity, row.dynamic_sparsity, row.total_sparsity)
        table.add_row(*(f"{share:.3f}" for share in asked), *(f"{share:.4f}" for share in reached), f"{row.Uniform_PPL:.3f}")
    return table
