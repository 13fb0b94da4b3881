"""xmsim sweep: many designs on the same traces."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xmsim.configs.errors import XmsimError, printable

if TYPE_CHECKING:
    from rich.table import Table

    from xmsim.accel_models.sweep.points import Point, Sweep
    from xmsim.reports.figures.pareto import DesignPoint
    from xmsim.reports.store import StoredPoint
    from xmsim.reports.sweep import SweptPoint
    from xmsim.workloads.evaluation import EvaluationRecord

STORE = "points.sqlite"
MASKS = "masks"
MOST_POINTS = 1_000_000
FRONT_ROWS = 12
REASONS = 5


def sweep(
    file: Annotated[
        str, typer.Argument(metavar="SWEEP", help="YAML file that names machines, traces, methods and axes, or a shipped one.")
    ],
    trace: Annotated[
        list[Path] | None, typer.Option("--trace", "-t", help="Trace folder instead of the file's; repeat it for more.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for the run store, the table and the Pareto plots; run again, it goes on there.")
    ] = Path("sweep"),
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes, each with one thread; one for each core by default.")] = None,
    cluster: Annotated[
        str | None, typer.Option(help="Simulate on a cluster: ray://HOST:PORT, or tcp://HOST:PORT of a Dask scheduler.")
    ] = None,
    search: Annotated[int | None, typer.Option(min=1, metavar="N", help="Let NSGA-II choose N points, instead of all.")] = None,
    objective: Annotated[
        list[str] | None, typer.Option(help="What --search keeps low; repeat it; latency_ms, energy_pj and area_mm2 by default.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of --search.")] = 0,
    evaluation: Annotated[
        list[Path] | None, typer.Option(help="File of xmsim evaluate, for the perplexity of each method; repeat it for more.")
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Simulate failed points again.")] = False,
) -> None:
    """Simulate every combination of machines, traces, methods and configuration values, and say which no other beats."""
    from xmsim.accel_models.sweep.runs import run_points
    from xmsim.accel_models.sweep.search import OBJECTIVES
    from xmsim.accel_models.sweep.search import search as search_points
    from xmsim.accel_models.sweep.sweep_file import read_sweep
    from xmsim.accel_models.sweep.workers import workers
    from xmsim.cli.tables import table_console
    from xmsim.reports.store import RunStore
    from xmsim.reports.sweep import write_sweep_report
    from xmsim.workloads.evaluation import read_evaluation

    plan = read_sweep(file, trace or ())
    evaluations = [read_evaluation(path) for path in evaluation or ()]
    if search is None and plan.size > MOST_POINTS:
        raise XmsimError(f"{file}: {plan.size} points are too many to simulate all; take fewer values, or --search N of them")
    with workers(jobs or _cores(), cluster) as staff, RunStore(out / STORE) as store:
        simulated = 0

        def simulate(points: Sequence[Point]) -> None:
            """Add to the store what is not in it."""
            nonlocal simulated
            named = {point.key: point for point in points}
            done = store.keys(failed=not retry_failed)
            with _bar(f"sweep {Path(file).stem}") as progress:
                for outcome in run_points(points, staff, out / MASKS, done=done, error_bars=plan.error_bars, progress=progress):
                    store.add([_stored(named[outcome.key], outcome.metrics, outcome.error)])
                    simulated += 1

        def evaluate(points: Sequence[Point]) -> Mapping[str, Mapping[str, float] | None]:
            """The numbers of all points, simulated or stored."""
            simulate(points)
            return {key: metrics for key, (metrics, _) in store.outcomes(point.key for point in points).items()}

        if search is None:
            points = list(plan.points())
            simulate(points)
        else:
            points = search_points(plan, evaluate, trials=search, objectives=objective or OBJECTIVES, seed=seed)
        outcomes = store.outcomes(point.key for point in points)
    rows = list(_rows(points, outcomes, evaluations))
    part = _part(plan)
    figures, files = write_sweep_report(rows, out, part)
    console = table_console()
    for figure in figures:
        console.print(_front_table(figure.rows, f"{figure.title}, {part}" if part else figure.title))
        console.print(figure.claim, highlight=False)
    for line in _ending(rows, simulated, (out / STORE, *files)):
        console.print(line, highlight=False, soft_wrap=True)
    if all(row.metrics is None for row in rows):
        raise XmsimError(f"{file}: every point failed; the first: {rows[0].error}")


def _part(plan: Sweep) -> str:
    """What of each trace is simulated, in words; none: the prefill of all its layers."""
    from xmsim.reports.words import counted, ranges

    layers = [] if plan.layers is None else [f"{'layer' if len(plan.layers) == 1 else 'layers'} {ranges(plan.layers)}"]
    decoded = [] if plan.decode_tokens is None else [f"last {counted(plan.decode_tokens, 'token')} decoded"]
    return ", ".join(layers + decoded)


def _ending(rows: Sequence[SweptPoint], simulated: int, files: Sequence[Path]) -> Iterator[str]:
    """What became of the points, the most frequent reasons of failure, and what was written."""
    failed = [row.error for row in rows if row.error is not None]
    for reason, count in Counter(failed).most_common(REASONS):
        yield f"failed, {count} points: {printable(reason)}"
    yield f"{len(rows)} points: {len(rows) - len(failed)} simulated, {len(failed)} failed; {simulated} of them now"
    yield from (f"wrote {path}" for path in files)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _method_label(point: Point) -> str:
    from xmsim.workloads.evaluation import method_label

    return method_label({"name": point.method.name} | point.method.parameters) if point.method else "unknown"


def _stored(point: Point, metrics: dict[str, float] | None, error: str | None) -> StoredPoint:
    from xmsim.reports.store import StoredPoint

    return StoredPoint(
        key=point.key,
        machine=point.machine.name,
        method=_method_label(point),
        trace_sha256=point.trace.sha256,
        config=point.config() | {"simulated": asdict(point.part)},
        metrics=metrics,
        error=error,
    )


def _rows(
    points: Iterable[Point],
    outcomes: Mapping[str, tuple[dict[str, float] | None, str | None]],
    evaluations: Sequence[EvaluationRecord],
) -> Iterator[SweptPoint]:
    from xmsim.reports.sweep import SweptPoint

    of_masks: dict[tuple[str, str], tuple[str, float | None]] = {}  # label and perplexity, which thousands of points share
    for point in points:
        mask = point.mask_key, point.method_name
        if mask not in of_masks:
            of_masks[mask] = _method_label(point), _perplexity(point, evaluations)
        method, perplexity = of_masks[mask]
        metrics, error = outcomes[point.key]
        yield SweptPoint(
            machine=point.machine.name,
            trace=str(point.trace.path),
            method=method,
            values={path: json.dumps(value) if isinstance(value, dict | list) else value for path, value in point.values.items()},
            metrics=metrics,
            error=error,
            perplexity=perplexity,
        )


def _perplexity(point: Point, evaluations: Sequence[EvaluationRecord]) -> float | None:
    from xmsim.reports.sweep import perplexity_of

    if point.method is None:
        return None
    facts = point.trace.manifest
    return perplexity_of(evaluations, model=facts.model.name, method=point.method.parameters, tokens=facts.tokens)


def _front_table(rows: Sequence[DesignPoint], title: str) -> Table:
    """The front, fastest first."""
    from rich import box
    from rich.table import Table

    from xmsim.reports.figures.pareto import OBJECTIVES
    from xmsim.reports.words import significant

    front = sorted((row for row in rows if row.on_front), key=lambda row: row.latency_ms)
    shown = [field for field in OBJECTIVES if all(getattr(row, field) is not None for row in rows)]
    more = f" (the fastest {FRONT_ROWS} of {len(front)})" if len(front) > FRONT_ROWS else ""
    table = Table(title=f"{title}{more}", box=box.SIMPLE_HEAD, padding=(0, 1))
    for name in ("machine", "method", "values"):
        table.add_column(name)
    for field in shown:
        table.add_column(OBJECTIVES[field], justify="right")
    for row in front[:FRONT_ROWS]:
        table.add_row(row.machine, row.method, row.values, *(significant(getattr(row, field)) for field in shown))
    return table


@contextmanager
def _bar(task: str) -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr with the time that is left; silent where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[things]}"))
    times = TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()
    with Progress(*columns, *times, console=console, transient=True, disable=not console.is_terminal) as bar:
        shown = bar.add_task(task, total=None, things="")
        current = ""

        def show(things: str, done: int, steps: int) -> None:
            nonlocal current
            if things != current:  # times of masks say nothing of those of points
                bar.reset(shown, total=steps, things=things)
                current = things
            bar.update(shown, completed=done, total=steps)

        yield show
