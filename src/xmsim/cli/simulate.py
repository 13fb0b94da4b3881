"""xmsim simulate: a trace through machines described in YAML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from xmsim.configs.errors import XmsimError

MACHINE_HELP = "Machines: shipped names or YAML files. Without --trace the first word is the trace's folder."


def simulate(
    words: Annotated[list[str] | None, typer.Argument(metavar="MACHINE", help=MACHINE_HELP)] = None,
    trace: Annotated[Path | None, typer.Option("--trace", "-t", help="Folder that xmsim extract wrote.")] = None,
    machine: Annotated[list[str] | None, typer.Option("--machine", "-m", help="One more machine; repeat it for others.")] = None,
    method: Annotated[str | None, typer.Option(help="Give every machine this method's mask (view: same mask) instead of its own.")] = None,
    layers: Annotated[str | None, typer.Option(help="Layers to simulate, e.g. 0-3,5; all by default.")] = None,
    decode: Annotated[
        int | None, typer.Option(min=1, help="Simulate the last N tokens one by one on the growing cache, instead of the prefill.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse a mask that is not native to a machine.")] = False,
    sample_heads: Annotated[
        int | None, typer.Option(min=1, help="Simulate N KV heads of each layer and window, and estimate the total.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Which heads --sample-heads draws.")] = 0,
    engine: Annotated[
        Literal["compiled", "event"], typer.Option(help="What executes the Schedule; the results are equal, event is SimPy's.")
    ] = "compiled",
    out: Annotated[Path, typer.Option(help="Folder for one result file per machine.")] = Path("results"),
    timeline: Annotated[Path | None, typer.Option(help="Folder for one timeline per machine, layer and window; opens in Perfetto.")] = None,
) -> None:
    """Simulate a trace on accelerators: cycles, stalls, utilisation and bytes for every layer and head."""
    from xmsim.accel_models import load_accelerator
    from xmsim.accel_models.runs import result_file_name, simulate_trace
    from xmsim.cli.progress import progress_bar
    from xmsim.cli.tables import costs_line, detail_tables, machine_line, machines_table, table_console
    from xmsim.configs.files import check_writable
    from xmsim.configs.selection import parse_selection
    from xmsim.sim.result import HeadSampling, write_result
    from xmsim.traces.errors import TraceError
    from xmsim.traces.store import open_trace
    from xmsim.workloads.methods.library import load_method

    folder, names = _trace_and_machines(words or [], trace, machine or [])
    machines = [load_accelerator(name) for name in names]
    _refuse_equal_names(names, [model.name for model in machines])
    shared = load_method(method) if method else None
    opened = open_trace(folder)
    chosen = parse_selection(layers, opened.layers, "layer")
    sampling = HeadSampling(sample_heads, seed) if sample_heads else None
    for model in machines:
        check_writable(out / f"{model.name}.json")
    console = table_console()
    records, failures = [], []
    for model in machines:
        try:
            with progress_bar(f"simulate {model.name}", "layers") as progress:
                record = simulate_trace(
                    opened,
                    model,
                    shared,
                    layers=chosen,
                    decode_tokens=decode,
                    sampling=sampling,
                    strict=strict,
                    engine=engine,
                    timelines=timeline,
                    progress=progress,
                )
        except TraceError:
            raise  # it meets every machine
        except XmsimError as error:
            if len(machines) == 1:
                raise
            failures.append(f"{model.name}: {str(error).removeprefix(f'{model.name}: ')}")
            continue
        path = out / result_file_name(record)
        write_result(path, record)
        records.append(record)
        if len(machines) == 1:
            console.print(*detail_tables(record), sep="\n")
        console.print(machine_line(record, path), highlight=False)
        if estimated := costs_line(record):
            console.print(estimated, highlight=False, soft_wrap=True)
        if "masks" in record.trace:
            console.print(f"{model.name}  masks: {record.trace['masks']}", highlight=False)
        if timeline:
            console.print(f"{model.name}  {len(record.runs)} timelines  {timeline}", highlight=False)
    if len(records) > 1:
        console.print(machines_table(records))
    if failures:
        written = f"the results of the others are in {out}" if records else "nothing was written"
        raise XmsimError(f"{len(failures)} of {len(machines)} machines did not serve this trace: {'; '.join(failures)}; {written}")


def _trace_and_machines(words: Sequence[str], trace: Path | None, machines: Sequence[str]) -> tuple[Path, list[str]]:
    """The trace's folder and the names of the machines, of either form of the command."""
    from xmsim.accel_models.machine_file import shipped_accelerators

    if trace is None:
        if not words or words[0] in shipped_accelerators() or Path(words[0]).suffix in (".yaml", ".yml"):
            raise XmsimError("simulate: no trace; name the folder that xmsim extract wrote with --trace")
        trace, words = Path(words[0]), words[1:]
    if not (words or machines):
        raise XmsimError(f"simulate: no machine for {trace}; name one or more of {', '.join(shipped_accelerators())}, or YAML files")
    return trace, [*words, *machines]


def _refuse_equal_names(files: Sequence[str], names: Sequence[str]) -> None:
    """Results are named after machines, so one of two that share a name would be lost."""
    for name, count in Counter(names).items():
        if count > 1:
            alike = " and ".join(file for file, its_name in zip(files, names, strict=True) if its_name == name)
            raise XmsimError(f"simulate: {alike} would write one result file, that of {name}; leave one out, or rename its file")
