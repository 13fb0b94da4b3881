"""xmsim trace info: what a trace holds, and what each method leaves of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from xmsim.accel_models.host.gpu_model import GpuConfig
    from xmsim.traces.store import LayerTrace, Trace
    from xmsim.workloads.measuring.attention_profile import HeadProfile
    from xmsim.workloads.methods.library import Method
    from xmsim.workloads.methods.mask_record import GpuPrediction, LayerMasks, MaskStatistics


def info(
    trace: Annotated[Path, typer.Argument(help="Folder that xmsim extract wrote.")],
    method: Annotated[list[str] | None, typer.Option(help="Shipped name or YAML file of a method; every shipped one by default.")] = None,
    gpu: Annotated[str | None, typer.Option(help="h200, or a YAML file like it: predict its attention on tiles that stay live.")] = None,
    out: Annotated[Path | None, typer.Option(help="File for the statistics of methods, which xmsim compare reads.")] = None,
) -> None:
    """Print a trace's shapes, where its heads look and, for each method, densities and block statistics of every layer."""
    from xmsim.accel_models.host.gpu_model import load_gpu
    from xmsim.cli.derived import derived_lines
    from xmsim.cli.progress import progress_bar
    from xmsim.cli.tables import table_console
    from xmsim.configs.files import check_writable
    from xmsim.traces.store import open_trace
    from xmsim.workloads.measuring.attention_profile import FEWEST_TOKENS, attention_profile
    from xmsim.workloads.methods.library import load_method, shipped_methods
    from xmsim.workloads.methods.mask_record import GROUP_ROWS, TILE_ROWS, LayerMasks, MaskRecord, MethodMasks, write_masks
    from xmsim.workloads.methods.mask_statistics import block_of, mask_statistics

    methods = [load_method(name) for name in method or shipped_methods()]
    constants = load_gpu(gpu) if gpu else None
    opened = open_trace(trace)
    if out:
        check_writable(out)
    console = table_console()
    console.print(_layers_table(opened))
    shapes = opened.manifest.shapes()
    typer.echo(f"q is [windows, heads, tokens, head_dim] {list(shapes['q'])}, k and v are {list(shapes['k'])}")
    for line in derived_lines(opened.manifest):
        typer.echo(line)
    found: list[list[LayerMasks]] = [[] for _ in methods]
    profiles: list[tuple[HeadProfile, ...]] = []
    long_enough = opened.manifest.valid_tokens[0] >= FEWEST_TOKENS
    with progress_bar("masks", "layers") as progress:
        for done, layer in enumerate(opened.layers):
            progress(done, len(opened.layers))
            tensors = opened.read_layer(layer)
            if long_enough:
                profiles.append(attention_profile(tensors, 0))
            for each, layers in zip(methods, found, strict=True):
                predicted = _predicted(constants, each, tensors) if constants else None
                layers.append(LayerMasks(layer, mask_statistics(each, tensors), predicted))
    if long_enough:
        console.print(_profiles_table(profiles))
    group = shapes["q"][1] // shapes["k"][1]
    for each, layers in zip(methods, found, strict=True):
        console.print(_method_table(each, layers))
        console.print(_group_table(each, layers, group))
    typer.echo(
        "density: kept / allowed pairs; full: kept / all pairs; kv: keys that any query head of a KV group keeps / allowed.\n"
        "X=0, low, high: blocks of a row by the keys they keep. Only blocks and tiles with an allowed pair count.\n"
        "β: tiles of so many queries in which any pair is kept; U: different keys of a block that the queries of such a tile keep.\n"
        "turns: eight kept keys read at once from eight banks, key j in bank j mod 8, take so many; 1 is best.\n"
        "Means over windows and heads; every share in %."
    )
    if constants:
        typer.echo(
            f"{gpu}: predicted by constants that nothing validates; dense attention, and 64 × 64 tiles without a kept pair left out."
        )
    if out:
        record = MaskRecord(
            trace=opened.source(),
            windows=opened.windows,
            tile_rows=TILE_ROWS,
            group_rows=GROUP_ROWS,
            gpu=Path(gpu).stem if gpu else None,
            methods=tuple(
                MethodMasks({"name": each.name} | each.parameters, block_of(each), tuple(layers))
                for each, layers in zip(methods, found, strict=True)
            ),
        )
        write_masks(out, record)
        typer.echo(f"wrote {out}")


def _predicted(gpu: GpuConfig, method: Method, layer: LayerTrace) -> GpuPrediction:
    """All windows of a layer, one after the other."""
    from xmsim.accel_models.host.gpu_model import prefill_dense, prefill_skipping
    from xmsim.workloads.attention import workload_of
    from xmsim.workloads.methods.mask_record import GpuPrediction

    works = [workload_of(layer, window, method.keep(layer, window)) for window in range(len(layer.valid_tokens))]
    return GpuPrediction(
        dense_ms=sum(prefill_dense(gpu, work).ms for work in works),
        skipping_ms=sum(prefill_skipping(gpu, work).ms for work in works),
    )


def _layers_table(trace: Trace) -> Table:
    from rich.table import Table

    manifest = trace.manifest
    model, text = manifest.model, manifest.text.name if manifest.text else "no text"
    table = Table(title=f"{model.name} ({model.family}) on {text}: {trace.windows} × {manifest.tokens} tokens, {manifest.dtype}")
    for name in ("layer", "bias", "softmax scale", "max |q|", "max |k|", "MB"):
        table.add_column(name, justify="left" if name == "bias" else "right")
    for facts in manifest.layers:
        bias = f"{facts.bias.kind}, {facts.bias.window} keys" if facts.bias.window else facts.bias.kind
        numbers = f"{facts.softmax_scale:.4g}", f"{facts.q_max:.3f}", f"{facts.k_max:.3f}", f"{facts.file_bytes / 1e6:.2f}"
        table.add_row(str(facts.layer), bias, *numbers)
    return table


def _profiles_table(profiles: list[tuple[HeadProfile, ...]]) -> Table:
    from rich.table import Table

    from xmsim.workloads.measuring.attention_profile import LOCAL_KEYS, SINK_KEYS

    table = Table(title="Where heads look, first window: entropy / log of the keys a row may see, and heads with a habit")
    for name in ("layer", "entropy, mean", "least", "most"):
        table.add_column(name, justify="right")
    table.add_column(f"sink heads: share on the first {SINK_KEYS} keys")
    table.add_column(f"local heads: share on the last {LOCAL_KEYS} keys")
    for heads in profiles:
        spread = [head.entropy_ratio for head in heads]
        sinks = ", ".join(f"{head.head}: {_percent(head.sink_share)} %" for head in heads if head.kind == "sink")
        locals_ = ", ".join(f"{head.head}: {_percent(head.local_share)} %" for head in heads if head.kind == "local")
        cells = (f"{value:.3f}" for value in (sum(spread) / len(spread), min(spread), max(spread)))
        table.add_row(str(heads[0].layer), *cells, sinks or "none", locals_ or "none")
    return table


def _method_table(method: Method, layers: list[LayerMasks]) -> Table:
    from rich.table import Table

    from xmsim.workloads.methods.mask_record import TILE_ROWS, mean_statistics
    from xmsim.workloads.methods.mask_statistics import block_of

    title = f"{method.name}: blocks of {block_of(method)} keys; % but for U, in keys; β live tiles, U union of so many queries"
    table = Table(title=title, box=None, padding=(0, 1))
    tiles = [f"{sign} {rows}" for sign in ("β", "U") for rows in TILE_ROWS]
    for name in ("layer", "density", "full", "kv", "X=0", "low", "high", *tiles, "balance"):
        table.add_column(name, justify="right")
    for one in layers:
        table.add_row(str(one.layer), *_cells(one.statistics))
    table.add_row("all", *_cells(mean_statistics([one.statistics for one in layers])), style="bold")
    return table


def _cells(one: MaskStatistics) -> list[str]:
    densities = one.densities
    low, high = ("", "") if one.low_blocks is None else (_percent(one.low_blocks), _percent(1 - one.empty_blocks - one.low_blocks))
    shares = [densities.density, densities.full_density, densities.kv_density, one.empty_blocks]
    unions = (f"{keys:.1f}" for keys in one.unions)
    return [*map(_percent, shares), low, high, *map(_percent, one.live_tiles), *unions, _percent(one.load_balance)]


def _group_table(method: Method, layers: list[LayerMasks], group: int) -> Table:
    """What the query heads of a KV head need together, and what a GPU is predicted to take."""
    from rich.table import Table

    from xmsim.reports.words import counted
    from xmsim.workloads.methods.mask_record import GROUP_ROWS, mean_statistics

    predicted = [one.gpu for one in layers if one.gpu]
    table = Table(title=f"{method.name}: {counted(group, 'query head')} of a KV head together", box=None, padding=(0, 1))
    tiles = [f"{sign} {rows}" for sign in ("β", "U") for rows in GROUP_ROWS]
    for name in ("layer", *tiles, "turns", *(("GPU dense, µs", "live tiles, µs", "faster") if predicted else ())):
        table.add_column(name, justify="right")
    for one in layers:
        table.add_row(str(one.layer), *_group_cells(one.statistics), *_gpu_cells([one.gpu] if one.gpu else []))
    table.add_row("all", *_group_cells(mean_statistics([one.statistics for one in layers])), *_gpu_cells(predicted), style="bold")
    return table


def _group_cells(one: MaskStatistics) -> list[str]:
    return [*map(_percent, one.group_live_tiles), *(f"{keys:.1f}" for keys in one.group_unions), f"{one.gather_turns:.2f}"]


def _gpu_cells(predicted: list[GpuPrediction]) -> list[str]:
    """The sum."""
    if not predicted:
        return []
    dense, skipping = sum(one.dense_ms for one in predicted), sum(one.skipping_ms for one in predicted)
    return [f"{1e3 * dense:.1f}", f"{1e3 * skipping:.1f}", f"{dense / skipping:.2f}×"]


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
