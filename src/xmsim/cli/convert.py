"""xmsim convert: store the linear layers of a model packed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def convert(
    model: Annotated[str, typer.Argument(help="xm-tiny (built in), a model folder, pruned or not, or a hub name; it is only read.")],
    format: Annotated[str, typer.Option(help="bitmap, bitmap_int8, packed (dense), tcabme, spdp, 2:4 or macko.")],
    out: Annotated[Path, typer.Option(help="New folder, which every verb opens like a model.")],
    dtype: Annotated[
        str | None, typer.Option(help="Of all weights: float32, bfloat16 or float16; as the model is stored by default.")
    ] = None,
) -> None:
    """Pack the matrices of a model's linear layers, and write a folder that holds them in this format."""
    from xmsim.cli.progress import progress_bar
    from xmsim.workloads.models.convert import convert_model

    with progress_bar(f"convert {model}", "layers") as progress:
        done = convert_model(model, out=out, format=format, dtype=dtype, progress=progress)
    typer.echo(
        f"{done.name}  {done.format}  {done.dtype}  {done.layers} layers  density {done.density:.4f}  {done.packed_bytes / 1e6:.2f} MB, "
        f"dense {done.dense_bytes / 1e6:.2f} MB  {done.bits_per_weight:.2f} bits a weight"
    )
    if done.experts:
        typer.echo(f"{done.experts:.0%} of the model's weights are in experts, and stay as they are")
    typer.echo(f"wrote {out}")
