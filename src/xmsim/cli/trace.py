"""xmsim trace info: what a trace holds, and what each method leaves of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from xmsim.traces.store import Trace
    from xmsim.workloads.measuring.attention_profile import HeadProfile
    from xmsim.workloads.methods.library import Method
    from xmsim.workloads.methods.mask_statistics import MaskStatistics


def info(
    trace: Annotated[Path, typer.Argument(help="Folder that xmsim extract wrote.")],
    method: Annotated[list[str] | None, typer.Option(help="Shipped name or YAML file of a method; every shipped one by default.")] = None,
) -> None:
    """Print a trace's shapes, where its heads look and, for each method, densities and block statistics of every layer."""
    from xmsim.cli.derived import derived_lines
    from xmsim.cli.progress import progress_bar
    from xmsim.cli.tables import table_console
    from xmsim.traces.store import open_trace
    from xmsim.workloads.measuring.attention_profile import FEWEST_TOKENS, attention_profile
    from xmsim.workloads.methods.library import load_method, shipped_methods
    from xmsim.workloads.methods.mask_statistics import mask_statistics

    methods = [load_method(name) for name in method or shipped_methods()]
    opened = open_trace(trace)
    console = table_console()
    console.print(_layers_table(opened))
    shapes = opened.manifest.shapes()
    typer.echo(f"q is [windows, heads, tokens, head_dim] {list(shapes['q'])}, k and v are {list(shapes['k'])}")
    for line in derived_lines(opened.manifest):
        typer.echo(line)
    found: dict[str, list[MaskStatistics]] = {each.name: [] for each in methods}
    profiles: list[tuple[HeadProfile, ...]] = []
    long_enough = opened.manifest.valid_tokens[0] >= FEWEST_TOKENS
    with progress_bar("masks", "layers") as progress:
        for done, layer in enumerate(opened.layers):
            progress(done, len(opened.layers))
            tensors = opened.read_layer(layer)
            if long_enough:
                profiles.append(attention_profile(tensors, 0))
            for each in methods:
                found[each.name].append(mask_statistics(each, tensors))
    if long_enough:
        console.print(_profiles_table(profiles))
    for each in methods:
        console.print(_method_table(each, opened.layers, found[each.name]))
    typer.echo(
        "density: kept / allowed pairs; full: kept / all pairs; kv: keys that any query head of a KV group keeps / allowed.\n"
        "X=0, low, high: blocks of a row by the keys they keep. Only blocks and tiles with an allowed pair count.\n"
        "Means over windows and heads; every share in %."
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


def _method_table(method: Method, layers: tuple[int, ...], statistics: list[MaskStatistics]) -> Table:
    from rich.table import Table

    from xmsim.workloads.methods.mask_statistics import DEFAULT_BLOCK, TILE_ROWS, mean_statistics

    block = method.block or DEFAULT_BLOCK
    title = (
        f"{method.name}: blocks of {block} keys; % but for U, in keys; β live tiles, U union of so many queries, or of a KV head's heads"
    )
    table = Table(title=title, box=None, padding=(0, 1))
    tiles = [f"{sign} {rows}" for sign in ("β", "U") for rows in TILE_ROWS]
    for name in ("layer", "density", "full", "kv", "X=0", "low", "high", *tiles, "U heads", "balance"):
        table.add_column(name, justify="right")
    for layer, one in zip(layers, statistics, strict=True):
        table.add_row(str(layer), *_cells(one))
    table.add_row("all", *_cells(mean_statistics(statistics)), style="bold")
    return table


def _cells(one: MaskStatistics) -> list[str]:
    densities = one.densities
    low, high = ("", "") if one.low_blocks is None else (_percent(one.low_blocks), _percent(1 - one.empty_blocks - one.low_blocks))
    shares = [densities.density, densities.full_density, densities.kv_density, one.empty_blocks]
    unions = (f"{keys:.1f}" for keys in (*one.unions, one.group_union))
    return [*map(_percent, shares), low, high, *map(_percent, one.live_tiles), *unions, _percent(one.load_balance)]


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
