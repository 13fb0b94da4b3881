"""xmsim measure: attention on a trace's own tensors, or a model that generates, timed on this host."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xmsim.configs.errors import XmsimError

if TYPE_CHECKING:
    from rich.table import Table

    from xmsim.workloads.measurement import MeasuredRun, MeasurementRecord


def measure(
    source: Annotated[
        str | None,
        typer.Argument(help="Folder that xmsim extract wrote: times its attention. Or a model, as for extract: times how it generates."),
    ] = None,
    method: Annotated[str, typer.Option(help="With a trace: the sparsity method, a shipped name or a YAML file.")] = "xm",
    layers: Annotated[str | None, typer.Option(help="With a trace: layers to measure, e.g. 0-3,5; all by default.")] = None,
    window: Annotated[int, typer.Option(help="With a trace: window of the text.")] = 0,
    decode: Annotated[
        int | None,
        typer.Option(min=1, help="With a trace: time the last N tokens one by one on the growing cache, instead of the prefill."),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="With a trace: cpu, or cuda for both; the GPU too if there is one, by default. With a model: cpu or cuda."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="A model, where its name is that of a trace folder too.")] = None,
    shape: Annotated[str | None, typer.Option(help="Times a model of this shape, weights random: shipped name or YAML file.")] = None,
    kernel: Annotated[
        list[str] | None,
        typer.Option(
            "--kernel",
            "--format",
            help="Linear layers beside torch's, in their format: packed, bitmap, bitmap_int8, spdp, tcabme, 2:4; the first two by default. "
            "On cuda: bitmap (or tcabme), spdp, teal, 2:4; none by default.",
        ),
    ] = None,
    sparsity: Annotated[float | None, typer.Option(help="Share of each weight matrix pruned by magnitude; none by default.")] = None,
    dynamic_sparsity: Annotated[
        float | None, typer.Option(help="Share of each layer's inputs that kernels spdp and teal skip in decoding; needs --histograms.")
    ] = None,
    histograms: Annotated[Path | None, typer.Option(help="Trace folder that extract --activations wrote of this model.")] = None,
    greedy: Annotated[
        Path | None,
        typer.Option(help="With --dynamic-sparsity: file of sparsities of each projection, as for evaluate; searched if missing."),
    ] = None,
    scoring: Annotated[
        str, typer.Option(help="With --dynamic-sparsity: inputs rank by magnitude (teal), or by that times their column's norm (wina).")
    ] = "teal",
    include: Annotated[
        list[str] | None, typer.Option(help="Names of layers to exchange, with *; all by default, but lm_head only if named.")
    ] = None,
    attn: Annotated[str, typer.Option(help="Attention: sdpa, eager, flash_attention_2, native (ours, dense) or a method.")] = "sdpa",
    dtype: Annotated[str, typer.Option(help="bfloat16, float16 or float32.")] = "bfloat16",
    batch: Annotated[int, typer.Option(help="Sequences at once.")] = 1,
    input_tokens: Annotated[int, typer.Option(help="Tokens of the prompt.")] = 128,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens decoded after the first.")] = 32,
    warmup: Annotated[int, typer.Option(help="Rounds that are not counted.")] = 1,
    repeat: Annotated[int, typer.Option(help="Rounds that are; every kernel takes its turn in each.")] = 5,
    save_per_iter: Annotated[bool, typer.Option("--save-per-iter", help="Keep the time of every token in the file.")] = False,
    eager: Annotated[bool, typer.Option("--eager", help="On cuda: leave out the tokens that are replayed as a CUDA graph.")] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="A table of the longest operators of one generation; on cuda of the GPU's kernels.")
    ] = False,
    nsys: Annotated[Path | None, typer.Option(help="Show an sqlite export of Nsight Systems of such a run, and measure nothing.")] = None,
    allow_dense: Annotated[bool, typer.Option("--allow-dense", help="Go on without compiled kernels, on torch's dense product.")] = False,
    experiments: Annotated[Path | None, typer.Option(help="A table of runs (CSV); those that have a result already are left out.")] = None,
    write_experiments: Annotated[Path | None, typer.Option(help="Write a table to start from, and stop.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of every operation; all cores by default.")] = None,
    out: Annotated[Path | None, typer.Option(help="The measurement file; a folder with --experiments.")] = None,
) -> None:
    """Time dense and sparse attention on a trace's tensors, or a model that generates on dense and sparse linear layers.

    Each result is checked before it is timed.
    """
    if write_experiments is not None:
        from xmsim.workloads.measuring.experiments import write_example

        write_example(write_experiments)
        typer.echo(f"wrote {write_experiments}")
        return
    if sum(given is not None for given in (source, model, shape, experiments, nsys)) != 1:
        raise XmsimError("give one thing to measure: a trace or model folder, --model, --shape or --experiments; or --nsys to show")
    if nsys is not None:
        from xmsim.cli.measure_nsys import print_nsys

        print_nsys(nsys)
        return
    if source is not None and _is_model(source, generates=bool(kernel)):
        source, model = None, source
    if source is not None:
        _measure_trace(Path(source), method, layers, window, decode, threads, device, out or Path("measured.json"))
        _warn_of_load()
        return
    if decode is not None:
        raise XmsimError("--decode is of a trace; a model decodes as many tokens as --max-new-tokens says")
    from xmsim.cli.measure_generation import measure_one, measure_table
    from xmsim.workloads.measuring.generation import GenerationPlan, kernels_of

    plan = GenerationPlan(
        model=model,
        shape=shape,
        kernels=kernels_of(kernel or (("packed", "bitmap") if device in (None, "cpu") else ())),
        sparsity=sparsity,
        dynamic_sparsity=dynamic_sparsity,
        histograms=histograms,
        greedy=greedy,
        scoring=scoring,
        include=tuple(include) if include else None,
        attention=attn,
        device=device or "cpu",
        dtype=dtype,
        batch=batch,
        input_tokens=input_tokens,
        new_tokens=max_new_tokens,
        warmup=warmup,
        repeat=repeat,
        threads=threads,
        save_per_token=save_per_iter,
        allow_dense=allow_dense,
        profile=profile,
        graph=not eager,
    )
    if experiments is not None:
        measure_table(experiments, out or Path(f"measured-{date.today().isoformat()}"), plan)
    else:
        measure_one(plan, out or Path("generation.json"))
    _warn_of_load()


def _warn_of_load() -> None:
    from xmsim.workloads.measuring.host import load_warning

    if warning := load_warning():
        typer.echo(warning)


def _is_model(source: str, *, generates: bool) -> bool:
    """Whether this names a model rather than a trace; what is neither is taken for what the other options are about."""
    from xmsim.traces.manifest import MANIFEST_NAME
    from xmsim.workloads.models import built_in

    if (Path(source) / "config.json").is_file():
        return True
    return source == built_in.NAME or (generates and not (Path(source) / MANIFEST_NAME).is_file())


def _measure_trace(
    trace: Path, method: str, layers: str | None, window: int, decode: int | None, threads: int | None, device: str | None, out: Path
) -> None:
    from functools import partial

    from xmsim.cli.progress import progress_bar
    from xmsim.cli.tables import table_console
    from xmsim.configs.files import check_writable
    from xmsim.configs.selection import parse_selection
    from xmsim.traces.store import open_trace
    from xmsim.workloads.measurement import write_measurement
    from xmsim.workloads.measuring.attention import measure_trace
    from xmsim.workloads.measuring.decode_attention import measure_decode
    from xmsim.workloads.methods.library import load_method

    loaded = load_method(method)
    opened = open_trace(trace)
    chosen = parse_selection(layers, opened.layers, "layer")
    check_writable(out)
    run = partial(measure_trace, opened, loaded) if decode is None else partial(measure_decode, opened, loaded, decode)
    with progress_bar("measure", "layers") as progress:
        record = run(layers=chosen, window=window, threads=threads, device=device, progress=progress)
    write_measurement(out, record)
    console = table_console()
    console.print(measured_table(record))
    console.print(f"wrote {out}", highlight=False)


def measured_table(record: MeasurementRecord) -> Table:
    """One row per timed operation of a layer: median, quartiles and number of samples; of decoded tokens, means over them."""
    from statistics import fmean

    from rich.table import Table

    from xmsim.reports.words import significant

    first, host = record.runs[0], record.host
    what = f"{record.trace['model']}, method {record.method['name']}, all heads of window {first.window}"
    if decoded := record.conditions.get("decoded_tokens"):
        what += f", a decoded token (mean of {decoded})"
    table = Table(title=f"{what} (measured: {host.cpu}, {first.threads} threads)", box=None, padding=(0, 1, 0, 0))
    for name in ("layer", "attention", "backend", "dtype", "median [q1–q3] ms", "n", "density"):
        table.add_column(name, justify="left" if name in ("attention", "backend", "dtype") else "right")
    rows: dict[tuple[int, str, str, str, str], list[MeasuredRun]] = {}
    for run in record.runs:
        rows.setdefault((run.layer, run.device, run.operation, run.backend, run.dtype), []).append(run)
    for (layer, device, operation, backend, dtype), runs in rows.items():
        timings = [run.timing for run in runs]
        median, low, high = (
            fmean(getattr(one, f"{name}_ms") for one in timings) for name in ("median", "first_quartile", "third_quartile")
        )
        table.add_row(
            str(layer),
            operation.removesuffix(" attention"),
            backend if device == "cpu" else f"{backend} on {device}",
            dtype,
            f"{significant(median)} [{significant(low)}–{significant(high)}]",
            str(min(one.n for one in timings)),
            f"{fmean(run.density for run in runs):.4f}",
        )
    return table
