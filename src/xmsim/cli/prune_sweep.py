"""xmsim prune --sweep: a total sparsity split between weights and activations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xmsim.configs.errors import XmsimError

if TYPE_CHECKING:
    from rich.table import Table

    from xmsim.workloads.evaluation import SparsitySplit, SplitTiming

TABLE, TIMES = "splits.csv", "split_times.csv"
STORE = "splits.json"  # every row as soon as it is found


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
    tpot: bool,
    **pruning: Any,
) -> None:
    """Prune at every s1 that the splits need, try each split, and write the table and its plot.

    Every row is stored as soon as it is found, in `splits.json`; a second run does what is missing. The table and the plots come last.

    Args:
        totals: total sparsities, e.g. 0.3,0.5.
        step: between the s1 of the splits.
        policy: which tokens stay dense, of `workloads.attachment.activation_policies`.
        windows: of the shipped text that are evaluated, each of `length` tokens; None: all.
        out: folder of the table, the plot and a folder for each pruned model, which are found again.
        tpot: whether decoding is timed, too; on the CPU.
        text, samples, length, seed, pruning: as for `prune_model`; histograms are made of the same samples.
    Raises:
        XmsimError: whatever is wrong, in one sentence.
    """
    from xmsim.cli.progress import progress_bar
    from xmsim.cli.tables import table_console
    from xmsim.configs.codec import encode
    from xmsim.configs.files import write_text, write_whole
    from xmsim.reports.figures.perplexity_split import perplexity_split
    from xmsim.reports.figures.perplexity_tpot import perplexity_tpot
    from xmsim.workloads.attachment.activation_policies import find_policy
    from xmsim.workloads.pruning.stored import open_stored_model
    from xmsim.workloads.pruning.text import read_calibration
    from xmsim.workloads.quality.spdp_sweep import SweepPlan, pruned_once, sweep_splits, total_splits
    from xmsim.workloads.quality.split_decoding import DecodingPlan
    from xmsim.workloads.quality.split_store import SplitStore
    from xmsim.workloads.texts.corpora import shipped_text

    pairs = total_splits(_shares(totals), step=step)
    chosen = find_policy(policy)
    if tpot and pruning["device"] != "cpu":
        raise XmsimError(f"--tpot: decoding is timed on the CPU, device {pruning['device']} was asked for; leave one of them out")
    stored = open_stored_model(model)
    calibration = read_calibration(text, stored.tokenizer(), samples=samples, length=length, seed=seed)
    plan = SweepPlan(
        shipped_text(),
        [window.tolist() for window in calibration.windows],
        length=length,
        windows=windows,
        policy=chosen,
        decoding=DecodingPlan() if tpot else None,
    )
    facts = {
        "model": encode(stored.base),
        **pruning,
        "calibration": encode(calibration.facts),
        "text_sha256": plan.corpus.sha256,
        "length_tokens": length,
        "windows": windows,
        "policy": policy,
    }
    store = SplitStore(out / STORE, facts)
    load = pruned_once(model, out, text=text, samples=samples, length=length, seed=seed, **pruning)
    with progress_bar(f"sweep {model}", "splits") as progress:
        splits, timings = sweep_splits(load, pairs, plan, progress, store=store)
    subject = f"{model} on {plan.corpus.name}, {pruning['method']}, {policy}, windows of {length} tokens"
    tables = {TABLE: perplexity_split(splits, subject)}
    if timings:
        tables[TIMES] = perplexity_tpot(timings, f"{model}, {pruning['method']}, decoding on spdp layers")
    console = table_console()
    console.print(split_table(splits, timings))
    for name, figure in tables.items():
        write_text(out / name, figure.csv())
        write_whole(out / f"{figure.name}.png", figure.save_png)
        write_whole(out / f"{figure.name}.pdf", figure.save_pdf)
        console.print(figure.claim, highlight=False)
        for path in (out / name, out / f"{figure.name}.png", out / f"{figure.name}.pdf"):
            console.print(f"wrote {path}", highlight=False)


def _shares(words: str) -> list[float]:
    try:
        return [float(word) for word in words.split(",")]
    except ValueError:
        raise XmsimError(f"--sweep {words}: give total sparsities, e.g. 0.3,0.4,0.5") from None


def split_table(splits: Sequence[SparsitySplit], timings: Sequence[SplitTiming] = ()) -> Table:
    """One row for each split, with the time of a decoded token where it was timed."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    for name in ("s1 weights", "s2 activations", "static reached", "dynamic reached", "total reached", "perplexity"):
        table.add_column(name, justify="right")
    if timings:
        table.add_column("TPOT median [q1–q3] ms", justify="right")
        table.add_column("torch, dense", justify="right")
    timed = {(row.s1, row.s2): row for row in timings}
    for row in splits:
        asked, reached = (row.s1, row.s2), (row.static_sparsity, row.dynamic_sparsity, row.total_sparsity)
        time = timed.get((row.s1, row.s2))
        times = [] if time is None else [_milliseconds(time), f"{time.torch_TPOT_ms:.2f}"]
        table.add_row(*(f"{share:.3f}" for share in asked), *(f"{share:.4f}" for share in reached), f"{row.Uniform_PPL:.3f}", *times)
    return table


def _milliseconds(time: SplitTiming) -> str:
    return f"{time.TPOT_ms:.2f} \\[{time.TPOT_first_quartile_ms:.2f}–{time.TPOT_third_quartile_ms:.2f}]"
