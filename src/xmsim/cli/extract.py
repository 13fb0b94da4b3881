"""xmsim extract: from a model and a text to a trace."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def extract(
    model: Annotated[str, typer.Argument(help="xm-tiny (built in), minilm (optional package), a model folder or a hub name.")],
    out: Annotated[Path, typer.Option(help="Folder for the trace; run the same command again to go on with one.")],
    text: Annotated[Path | None, typer.Option(help="UTF-8 text to read; an excerpt of WikiText-2 by default.")] = None,
    tokens: Annotated[int, typer.Option(help="Tokens of a window.")] = 1024,
    windows: Annotated[int, typer.Option(help="Consecutive windows of the text.")] = 1,
    layers: Annotated[str | None, typer.Option(help="Layers to store, e.g. 0-3,5; all by default.")] = None,
    heads: Annotated[str | None, typer.Option(help="Query heads to store, e.g. 0,2; equally many of each KV head; all by default.")] = None,
    dtype: Annotated[str, typer.Option(help="Format of the stored numbers: float32, bfloat16 or float16.")] = "float32",
    device: Annotated[str, typer.Option(help="Where the model and the kernels of --masks run: cpu, or cuda.")] = "cpu",
    masks: Annotated[str | None, typer.Option(help="Methods whose masks to store besides, e.g. xm,nm,sanger,topk,salo:1_4_6bit.")] = None,
    weights: Annotated[bool, typer.Option("--weights", help="Store besides which weights of the linear layers are not zero.")] = False,
    activations: Annotated[
        bool, typer.Option("--activations", help="Store besides a histogram of what each linear layer reads, for activation sparsity.")
    ] = False,
) -> None:
    """Run a model over a text once and store Q, K and V of its layers: what decides its attention's sparsity."""
    from xmsim.cli.derived import derived_lines
    from xmsim.cli.progress import progress_bar
    from xmsim.configs.selection import parse_numbers
    from xmsim.workloads.extraction.extract import extract_trace

    chosen_layers = None if layers is None else parse_numbers(layers, "layer")
    chosen_heads = None if heads is None else parse_numbers(heads, "head")
    with progress_bar(f"extract {model}", "layers") as progress:
        trace = extract_trace(
            model,
            out=out,
            text=text,
            tokens=tokens,
            windows=windows,
            layers=chosen_layers,
            heads=chosen_heads,
            storage=dtype,
            device=device,
            masks=masks.split(",") if masks else (),
            weights=weights,
            activations=activations,
            progress=progress,
        )
    manifest = trace.manifest
    megabytes = sum(facts.file_bytes for facts in manifest.layers) / 1e6
    typer.echo(
        f"{manifest.model.name}  {len(trace.layers)} layers  {len(manifest.head_ids)} heads on {len(manifest.kv_head_ids)} KV heads  "
        f"{trace.windows} × {manifest.tokens} tokens  {manifest.dtype}  {megabytes:.1f} MB  {out}"
    )
    for line in derived_lines(manifest):
        typer.echo(line)
    if activations:
        from xmsim.workloads.extraction.activation_histograms import FILE_NAME, load_histograms

        typer.echo(f"activation histograms  {len(load_histograms(out))} linear layers  {(out / FILE_NAME).stat().st_size / 1e6:.1f} MB")
