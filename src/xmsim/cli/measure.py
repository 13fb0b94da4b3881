"""xmsim measure: dense and sparse attention on this host, on a trace's own tensors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from xmsim.workloads.measurement import MeasurementRecord


def measure(
    trace: Annotated[Path, typer.Argument(help="Folder that xmsim extract wrote.")],
    method: Annotated[str, typer.Option(help="Sparsity method: a shipped name or a YAML file.")] = "xm",
    layers: Annotated[str | None, typer.Option(help="Layers to measure, e.g. 0-3,5; all by default.")] = None,
    window: Annotated[int, typer.Option(help="Window of the text.")] = 0,
    threads: Annotated[int | None, typer.Option(help="Threads of every operation; all cores by default.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, or cuda for both; the GPU too if there is one, by default.")] = None,
    out: Annotated[Path, typer.Option(help="The measurement file.")] = Path("measured.json"),
) -> None:
    """Time dense attention, the making of the mask and sparse attention here; each result is checked before it is timed."""
    from xmsim.cli.progress import progress_bar
    from xmsim.cli.selection import parse_selection
    from xmsim.cli.tables import table_console
    from xmsim.traces.store import open_trace
    from xmsim.workloads.measure import measure_trace
    from xmsim.workloads.measurement import write_measurement
    from xmsim.workloads.methods import load_method

    loaded = load_method(method)
    opened = open_trace(trace)
    chosen = parse_selection(layers, opened.layers, "layer")
    with progress_bar("measure", "layers") as progress:
        record = measure_trace(opened, loaded, layers=chosen, window=window, threads=threads, device=device, progress=progress)
    write_measurement(out, record)
    console = table_console()
    console.print(measured_table(record))
    console.print(f"wrote {out}", highlight=False)


def measured_table(record: MeasurementRecord) -> Table:
    """One row per timed operation: median, quartiles and number of samples."""
    from rich.markup import escape
    from rich.table import Table

    first, host = record.runs[0], record.host
    what = f"{record.trace['model']}, method {record.method['name']}, all heads of window {first.window}"
    table = Table(title=f"{what} (measured: {host.cpu}, {first.threads} threads)", box=None, padding=(0, 1, 0, 0))
    for name in ("layer", "attention", "backend", "dtype", "median [q1–q3] ms", "n", "density"):
        table.add_column(escape(name), justify="left" if name in ("attention", "backend", "dtype") else "right")
    for run in record.runs:
        timing = run.timing
        table.add_row(
            str(run.layer),
            run.operation.removesuffix(" attention"),
            run.backend if run.device == "cpu" else f"{run.backend} on {run.device}",
            run.dtype,
            f"{timing.median_ms:.2f} [{timing.first_quartile_ms:.2f}–{timing.third_quartile_ms:.2f}]",
            str(timing.n),
            f"{run.density:.4f}",
        )
    return table
