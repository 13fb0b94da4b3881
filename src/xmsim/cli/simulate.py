"""xmsim simulate: a trace through machines described in YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def simulate(
    trace: Annotated[Path, typer.Argument(help="Folder that xmsim extract wrote.")],
    machine: Annotated[list[str], typer.Option("--machine", "-m", help="Shipped name or YAML file; repeat it for more machines.")],
    method: Annotated[str | None, typer.Option(help="Give every machine this method's mask (view: same mask) instead of its own.")] = None,
    layers: Annotated[str | None, typer.Option(help="Layers to simulate, e.g. 0-3,5; all by default.")] = None,
    engine: Annotated[
        Literal["compiled", "event"], typer.Option(help="What executes the Schedule; the results are equal, event is SimPy's.")
    ] = "compiled",
    out: Annotated[Path, typer.Option(help="Folder for one result file per machine.")] = Path("results"),
) -> None:
    """Simulate a trace on accelerators: cycles, stalls, utilisation and bytes for every layer and head."""
    from xmsim.accel_models import load_accelerator
    from xmsim.accel_models.runs import result_file_name, simulate_trace
    from xmsim.cli.progress import progress_bar
    from xmsim.cli.selection import parse_selection
    from xmsim.cli.tables import cycles_table, machines_table, table_console, units_table
    from xmsim.sim.result import write_result
    from xmsim.traces.store import open_trace
    from xmsim.workloads.methods import load_method

    machines = [load_accelerator(name) for name in machine]
    shared = load_method(method) if method else None
    opened = open_trace(trace)
    chosen = parse_selection(layers, opened.layers, "layer")
    console = table_console()
    records = []
    for model in machines:
        with progress_bar(f"simulate {model.name}", "layers") as progress:
            record = simulate_trace(opened, model, shared, layers=chosen, engine=engine, progress=progress)
        console.print(cycles_table(record))
        console.print(units_table(record))
        path = out / result_file_name(record)
        write_result(path, record)
        records.append(record)
        total = record.cycles
        console.print(f"{model.name}  {total} cycles  {record.milliseconds(total):.3f} ms  {path}", highlight=False)
    if len(records) > 1:
        console.print(machines_table(records))
