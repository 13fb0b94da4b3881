"""xmsim evaluate: what each sparsity method costs in perplexity."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xmsim.configs.errors import XmsimError

if TYPE_CHECKING:
    from rich.table import Table

    from xmsim.workloads.attachment.activation_plan import ActivationPlan
    from xmsim.workloads.evaluation import EvaluatedRun, EvaluationRecord
    from xmsim.workloads.methods.library import Method
    from xmsim.workloads.pruning.pattern import LayerGroups, Pattern
    from xmsim.workloads.texts.corpora import Corpus

TRIED = "solve_tried.json"  # all that --solve scored, as an evaluation record
LOW_BIT = ("xm:1_4_6bit", "xm_32:1_2_4bit")  # as DynaX-L and DynaX-S predict


def evaluate(
    model: Annotated[str, typer.Argument(help="xm-tiny (built in), a folder or a hub name of a causal language model.")],
    out: Annotated[Path, typer.Option(help="Folder for the record, the table and the plot.")] = Path("evaluation"),
    text: Annotated[Path | None, typer.Option(help="UTF-8 text to score; an excerpt of WikiText-2 by default.")] = None,
    dataset: Annotated[str | None, typer.Option(help="wikitext2, ptb or c4 from the Hugging Face hub instead of a text.")] = None,
    length: Annotated[
        list[int] | None, typer.Option(help="Tokens, as the protocol counts them; repeat it for more lengths; 1024 by default.")
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="Shipped name, YAML file or JSON file of the DynaX artifact; repeat it for more. A name may end in :1_4_6bit (1 of 4 "
            "channels, 6 bits) for low-bit prediction of its scores. Every shipped one by default; dense is always there."
        ),
    ] = None,
    machine: Annotated[
        list[str] | None,
        typer.Option(help="The method that this machine runs, thresholds and bits as its YAML has them; repeat it for more."),
    ] = None,
    protocol: Annotated[str, typer.Option(help="How windows are cut and scored: dynax, wanda or teal.")] = "dynax",
    windows: Annotated[int | None, typer.Option(help="Only so many windows of each length; all of the text by default.")] = None,
    dtype: Annotated[str, typer.Option(help="Of weights and computation: float32, bfloat16 or float16.")] = "float32",
    device: Annotated[str, typer.Option(help="Where the model runs: cpu, or cuda.")] = "cpu",
    solve: Annotated[
        str | None,
        typer.Option(
            help="Instead of scoring methods as they are: find for each the most pruning that costs no more perplexity than this, "
            "e.g. 1%,5%, and write it as a method file. What was scored is kept in --out, and an interrupted run goes on."
        ),
    ] = None,
    pattern: Annotated[
        str | None, typer.Option(help="Check that linear layers obey it, e.g. 2:4; of a model by xmsim prune, the one it was pruned to.")
    ] = None,
    dynamic_sparsity: Annotated[
        float | None,
        typer.Option(
            help="Share of the inputs of linear layers that counts as zero (TEAL); needs --histograms. Attention is then dense by default."
        ),
    ] = None,
    histograms: Annotated[
        Path | None, typer.Option(help="With --dynamic-sparsity: trace folder that extract --activations wrote of this model.")
    ] = None,
    greedy: Annotated[
        Path | None,
        typer.Option(help="With --dynamic-sparsity: file of sparsities of each projection, searched block by block if it is not there."),
    ] = None,
    scoring: Annotated[
        str,
        typer.Option(help="With --dynamic-sparsity: inputs rank by magnitude (teal), or by that times their column's norm (wina)."),
    ] = "teal",
    policy: Annotated[
        str, typer.Option(help="With --dynamic-sparsity: tokens that stay dense, first_half_dense (as published) or sinks_dense.")
    ] = "first_half_dense",
) -> None:
    """Perplexity of a model with each sparsity method attached, and what its attention then keeps."""
    from xmsim.cli.progress import progress_bar
    from xmsim.cli.tables import table_console
    from xmsim.configs.files import check_writable, write_text
    from xmsim.reports.evaluation import write_evaluation_report
    from xmsim.workloads.evaluation import write_evaluation
    from xmsim.workloads.methods.library import load_method, shipped_methods
    from xmsim.workloads.models.loading import load_model
    from xmsim.workloads.pruning.pattern import expected_patterns, pattern_groups
    from xmsim.workloads.quality.evaluate import evaluate_model
    from xmsim.workloads.quality.protocols import window_plan
    from xmsim.workloads.quality.solve import solvable_methods, solve_methods, solve_targets

    plan = _activation_plan(dynamic_sparsity, histograms, greedy, scoring, policy)
    names = method or (() if plan or machine else (*shipped_methods(), *LOW_BIT))
    methods = [*map(load_method, names), *_methods_of(machine or [])]
    lengths = length or [1024]
    plans = [window_plan(protocol, one) for one in lengths]  # a wrong word is answered before anything is fetched
    targets = solve_targets(solve) if solve is not None else ()
    if targets and (plan or len(set(lengths)) > 1):
        raise XmsimError("--solve finds one value for one length and without activation sparsity; give one --length, no --dynamic-sparsity")
    solvable, fixed = solvable_methods(methods, plans[0].tokens) if targets else ([], [])
    check_writable(out / "evaluation.json")
    corpus = _corpus(text, dataset)
    if corpus.note:
        typer.echo(corpus.note)
    expected = expected_patterns(model, pattern)
    loaded = load_model(model, dtype=dtype, device=device)
    groups = list(pattern_groups(loaded.model, expected)) if expected else []
    activations = None
    if plan:
        with progress_bar("greedy sparsities", "blocks") as progress:
            activations = plan.prepare(loaded, progress)
    method_files: dict[str, str] = {}
    with progress_bar(f"evaluate {model}", "windows at most" if targets else "windows") as progress:
        if targets:
            solution = solve_methods(
                loaded,
                solvable,
                targets,
                corpus,
                length=lengths[0],
                protocol=protocol,
                windows=windows,
                store=out / TRIED,
                progress=progress,
            )
            record, method_files = solution.record, solution.method_files
        else:
            record = evaluate_model(
                loaded, methods, corpus, lengths=lengths, protocol=protocol, windows=windows, activations=activations, progress=progress
            )
    files = [*write_evaluation_report(record, out), *(out / name for name in method_files)]
    for name, words in method_files.items():
        write_text(out / name, words)
    write_evaluation(out / "evaluation.json", record)  # last: where it is, the others belong to it
    console = table_console()
    console.print(evaluation_table(record))
    for line in (*_solved_lines(record, fixed), *_activation_lines(record), *_pattern_lines(expected, groups)):
        console.print(line, highlight=False)
    for path in (*files, out / "evaluation.json"):
        console.print(f"wrote {path}", highlight=False)


def _activation_plan(
    sparsity: float | None, histograms: Path | None, greedy: Path | None, scoring: str, policy: str
) -> ActivationPlan | None:
    from xmsim.workloads.attachment.activation_plan import ActivationPlan

    if sparsity is None:
        if histograms or greedy or (scoring, policy) != ("teal", "first_half_dense"):
            raise XmsimError("--histograms, --greedy, --scoring and --policy are for --dynamic-sparsity; give it, e.g. 0.5")
        return None
    if histograms is None:
        raise XmsimError("--dynamic-sparsity needs thresholds; give --histograms, a folder by xmsim extract MODEL --activations")
    return ActivationPlan(sparsity, histograms, scoring=scoring, greedy=greedy, policy=policy)


def _solved_lines(record: EvaluationRecord, fixed: Sequence[Method]) -> Iterator[str]:
    """What each run was solved for and came to, and the methods that were left out."""
    for run in record.runs:
        if facts := run.solved_for:
            asked = f"{run.label}: {100 * facts.target_relative:+g} % asked"
            reached = (
                f", {100 * run.perplexity_increase:+.2f} % with {facts.parameter} {facts.value:g}" if facts.reached else ", not reached"
            )
            yield asked + reached + (f" ({facts.note})" if facts.note else "")
    for method in fixed:
        yield f"{method.name}: left out, it has no free parameter that only prunes more or less"


def _activation_lines(record: EvaluationRecord) -> Iterator[str]:
    """What was left out of the products of linear layers, for each run that dropped inputs."""
    for run in record.runs:
        if facts := run.activations:
            reached = f"static {facts.static_sparsity:.4f}  dynamic {facts.dynamic_sparsity:.4f}  total {facts.total_sparsity:.4f}"
            yield f"{run.label}, {run.length_tokens} tokens: {reached} of the products of linear layers left out, {facts.policy}"


def _pattern_lines(expected: Pattern | Mapping[str, Pattern] | None, groups: list[LayerGroups]) -> Iterator[str]:
    """How many groups of consecutive weights obey the pattern, in all and in each layer that does not obey it throughout."""
    if expected is None:
        return
    names = sorted({str(one) for one in expected.values()}) if isinstance(expected, Mapping) else [str(expected)]
    obeying, everything = sum(layer.obeying for layer in groups), sum(layer.groups for layer in groups)
    broken = [layer for layer in groups if layer.obeying < layer.groups]
    throughout = f"all of them in {len(groups) - len(broken)} of {len(groups)} layers"
    yield f"pattern {', '.join(names)}: {obeying} of {everything} groups obey it, {throughout}"
    for layer in broken:
        yield f"  {layer.name}: {layer.obeying} of {layer.groups}, {100 * layer.share:.2f} %"


def _methods_of(machines: list[str]) -> list[Method]:
    """What these machines run, each once."""
    from xmsim.accel_models import load_accelerator

    methods: list[Method] = []
    for found in (load_accelerator(name).config.method.load() for name in machines):
        methods += [] if found in methods else [found]
    return methods


def _corpus(text: Path | None, dataset: str | None) -> Corpus:
    from xmsim.workloads.texts.corpora import shipped_text, text_file
    from xmsim.workloads.texts.hub_corpora import hub_corpus

    if text and dataset:
        raise XmsimError(f"--text {text} and --dataset {dataset} cannot be scored together; give one of them")
    if text:
        return text_file(text)
    return hub_corpus(dataset) if dataset else shipped_text()


def evaluation_table(record: EvaluationRecord) -> Table:
    """One row for each method at each length: densities, perplexity, and how far from dense it is."""
    from rich import box
    from rich.table import Table

    what = f"{record.model['name']} on {record.text.name}, protocol {record.protocol}, {record.dtype} on {record.device} (measured)"
    table = Table(title=what, box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("method", overflow="fold")
    for name in (
        "length",
        "windows",
        "density",
        "full density",
        "KV density",
        "perplexity",
        "over dense",
        "nats over dense ± s.e.",
        "bits/byte",
    ):
        table.add_column(name, justify="right")
    for run, following in zip(record.runs, (*record.runs[1:], None), strict=True):
        table.add_row(*_cells(run), end_section=following is not None and following.length_tokens != run.length_tokens)
    return table


def _cells(run: EvaluatedRun) -> list[str]:

    kept, error = run.densities, run.loss_increase_error
    return [
        run.label,
        str(run.length_tokens),
        str(run.windows),
        *(f"{share:.4f}" for share in (kept.density, kept.full_density, kept.kv_density)),
        f"{run.perplexity:.3f}",
        f"{100 * run.perplexity_increase:+.2f} %",
        f"{run.loss_increase:+.4f} ± {error:.4f}" if error is not None else f"{run.loss_increase:+.4f}",
        "–" if run.bits_per_byte is None else f"{run.bits_per_byte:.4f}",
    ]
