"""The tables of xmsim measure for a model that generates text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from xmsim.reports.figures.tpot_sparsity import TokenTiming
    from xmsim.workloads.measuring.generation import GenerationPlan
    from xmsim.workloads.measuring.generation_record import GenerationRecord, GenerationRun, Ratio


def measure_one(plan: GenerationPlan, out: Path) -> None:
    """Measure a plan, print its tables and write its file."""
    from xmsim.cli.tables import table_console
    from xmsim.configs.files import check_writable
    from xmsim.workloads.measuring.generation_record import write_generation

    check_writable(out)
    record = measured(plan)
    write_generation(out, record)
    console = table_console()
    for table in record_tables(record):
        console.print(table)
    console.print(f"wrote {out}", highlight=False)


def measure_table(path: Path, folder: Path, base: GenerationPlan) -> None:
    """Measure the rows of an experiments table that have no result yet, print one line for each, and draw times against sparsity."""
    from xmsim.cli.tables import table_console
    from xmsim.workloads.measuring.experiments import read_experiments, run_experiments

    console = table_console()
    settings: dict[str, list[TokenTiming]] = {}  # of runs that differ in their layers and sparsity alone
    for experiment, result, record in run_experiments(read_experiments(path), folder, base, measured):
        run = record.generations[-1]
        setting = f"{record.model['name']}_b{experiment.batch}_c{experiment.context}_t{experiment.threads}_{experiment.dtype}"
        settings.setdefault(setting, []).extend(token_timings(record))
        speedup = f", {ratio_text(run.speedup['torch'])} over torch" if "torch" in run.speedup else ""
        name = f"{experiment.model} {experiment.kernel} sparsity {experiment.sparsity:g} batch {experiment.batch}"
        tpot = f"TPOT {run.p50_ms:.2f} ms{speedup}"
        console.print(f"{name} context {experiment.context} {experiment.dtype}  {tpot}  {result}", highlight=False)
    for setting, timings in settings.items():
        if len({timing.sparsity for timing in timings}) > 1:
            for written in draw_timings(timings, setting, folder):
                console.print(f"wrote {written}", highlight=False)


def token_timings(record: GenerationRecord) -> list[TokenTiming]:
    """The decoded tokens of a record."""
    from xmsim.reports.figures.tpot_sparsity import TokenTiming

    sparsity = record.conditions["sparsity"] or 0.0
    runs = [(run, run.time_per_output_token) for run in record.generations]
    return [
        TokenTiming(run.kernel, run.attention, sparsity, time.median_ms, time.first_quartile_ms, time.third_quartile_ms, time.n)
        for run, time in runs
    ]


def draw_timings(timings: list[TokenTiming], setting: str, folder: Path) -> list[Path]:
    """Time of a token against sparsity as PNG, PDF and CSV; the files. Of torch's layers, timed with each kernel, the first counts."""
    from xmsim.configs.files import write_text, write_whole
    from xmsim.reports.figures.tpot_sparsity import tpot_sparsity

    first = {(timing.layers, timing.attention, timing.sparsity): timing for timing in reversed(timings)}
    figure = tpot_sparsity(list(first.values()), setting.replace("_", ", "))
    paths = [folder / f"{figure.name}_{setting}.{kind}" for kind in ("png", "pdf", "csv")]
    write_whole(paths[0], figure.save_png)
    write_whole(paths[1], figure.save_pdf)
    write_text(paths[2], figure.csv())
    return paths


def measured(plan: GenerationPlan) -> GenerationRecord:
    """Measure with a progress bar."""
    from xmsim.cli.progress import progress_bar
    from xmsim.workloads.measuring.generation import measure_generation

    with progress_bar("measure", "steps") as progress:
        return measure_generation(plan, lambda what, done, steps: progress(done, steps))


def record_tables(record: GenerationRecord) -> list[Table]:
    """Linear layers, generation, and the profile if there is one."""
    tables = [generation_table(record)]
    if record.linears:
        tables.insert(0, linear_table(record))
    if record.profiles:
        tables.append(profile_table(record))
    return tables


def linear_table(record: GenerationRecord) -> Table:
    """One row per shape and kernel."""
    table = _table(record, "linear layers", ("shape", "kernel", "weights", "median [q1–q3] ms", "n", "over torch", "over packed"))
    for run in record.linears:
        timing = run.timing
        table.add_row(
            f"{run.in_features} → {run.out_features}",
            run.kernel,
            f"{run.weight_bytes / 1e6:.2f} MB",
            f"{timing.median_ms:.3f} [{timing.first_quartile_ms:.3f}–{timing.third_quartile_ms:.3f}]",
            str(timing.n),
            *(ratio_text(run.speedup[other]) if other in run.speedup else "" for other in ("torch", "packed")),
        )
    return table


def generation_table(record: GenerationRecord) -> Table:
    """One row per kernel: prefill and decode of the whole model."""
    sizes = f"{record.conditions['input_tokens']} tokens in, {record.conditions['new_tokens']} out, batch {record.conditions['batch']}"
    headings = ("kernel", "attention", "weights", "s1 · s2 · total", "TTFT ms", "TPOT p50 ms", "p99", "n", "over torch", "over packed")
    table = _table(record, sizes, headings)
    for run in record.generations:
        table.add_row(
            run.kernel,
            run.attention,
            f"{run.weight_bytes / 1e6:.0f} MB",
            _sparsity_text(run),
            f"{run.time_to_first_token.median_ms:.1f}",
            f"{run.p50_ms:.2f}",
            f"{run.p99_ms:.2f}",
            str(run.time_per_output_token.n),
            *(ratio_text(run.speedup[other]) if other in run.speedup else "" for other in ("torch", "packed")),
        )
    return table


def _sparsity_text(run: GenerationRun) -> str:
    """Static, dynamic and total sparsity in decoding; nothing of a record that does not say."""
    shares = (run.static_sparsity, run.dynamic_sparsity, run.total_sparsity)
    return " ".join(f"{share:.3f}" for share in shares if share is not None)


def profile_table(record: GenerationRecord) -> Table:
    """The longest operators of one generation on each kernel."""
    table = _table(record, "one generation, profiled", ("kernel", "operator", "calls", "self ms", "share"))
    for kernel, rows in record.profiles.items():
        for row in rows:
            table.add_row(kernel, row.operator, str(row.calls), f"{row.self_ms:.2f}", f"{100 * row.share:.1f} %")
    return table


def ratio_text(ratio: Ratio) -> str:
    """A speedup with its quartiles."""
    return f"{ratio.median:.2f}× [{ratio.first_quartile:.2f}–{ratio.third_quartile:.2f}]"


def _table(record: GenerationRecord, what: str, headings: tuple[str, ...]) -> Table:
    from rich.table import Table

    model, conditions = record.model, record.conditions
    sparsity = "" if conditions["sparsity"] is None else f", sparsity {conditions['sparsity']:g}"
    weights = ", random weights" if model["weights"] == "random" else ""
    experts = f", {conditions['experts']:.0%} of the weights in experts and left as they are" if conditions.get("experts") else ""
    title = f"{model['name']}{weights}, {conditions['dtype']}{sparsity}{experts}: {what}"
    table = Table(title=f"{title} (measured: {record.host.cpu}, {conditions['threads']} threads)", box=None, padding=(0, 1, 0, 0))
    for heading in headings:
        text = heading in ("kernel", "attention", "operator", "shape")
        table.add_column(heading, justify="left" if text else "right")
    return table
