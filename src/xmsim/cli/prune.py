"""xmsim prune: make the linear layers of a model sparse."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xmsim.configs.errors import XmsimError

if TYPE_CHECKING:
    from xmsim.workloads.pruning.record import PruningRecord


def prune(
    model: Annotated[str, typer.Argument(help="xm-tiny (built in), a folder or a hub name of a causal language model; it is only read.")],
    out: Annotated[Path, typer.Option(help="New folder for the pruned model; run the same command again to go on with one.")],
    method: Annotated[str, typer.Option(help="magnitude, wanda, wanda_alpha, sparsegpt, admm or proxsparse (2:4 by training).")] = "wanda",
    sparsity: Annotated[
        float | None, typer.Option(help="Share of the weights of all linear layers that is pruned, at least 0 and below 1.")
    ] = None,
    pattern: Annotated[
        str | None, typer.Option(help="How many of how many consecutive weights stay, e.g. 2:4, instead of a share.")
    ] = None,
    budget: Annotated[str, typer.Option(help="How the share is spread over blocks: uniform, owl or alphapruning.")] = "uniform",
    text: Annotated[
        Path | None, typer.Option(help="UTF-8 text to calibrate on, or one packed by xz; encyclopaedia prose and Wikipedia by default.")
    ] = None,
    samples: Annotated[int | None, typer.Option(help="Samples drawn from the text; 64, with proxsparse the preset's.")] = None,
    length: Annotated[
        int | None, typer.Option("--length", "--ctx-len", help="Tokens of a sample; 512, with proxsparse the preset's.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the samples drawn.")] = 0,
    dtype: Annotated[
        str | None, typer.Option(help="Of the computation: float32 (the default), bfloat16 or float16; with proxsparse the preset's.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where blocks run: cpu, or cuda.")] = "cpu",
    sweep: Annotated[
        str | None,
        typer.Option(help="Total sparsities, e.g. 0.3,0.5, to split between weights and activations; --out gets table, plot and models."),
    ] = None,
    step: Annotated[float, typer.Option(help="With --sweep: between the weights' shares of the splits.")] = 0.1,
    policy: Annotated[
        str, typer.Option(help="With --sweep: tokens whose activations stay dense, first_half_dense (as published) or sinks_dense.")
    ] = "first_half_dense",
    windows: Annotated[
        int | None, typer.Option(help="With --sweep: windows of --length tokens that are evaluated; all by default.")
    ] = None,
    tpot: Annotated[bool, typer.Option("--tpot", help="With --sweep: time decoding of each split, too; table and plot beside.")] = False,
    preset: Annotated[
        str | None,
        typer.Option(help="With proxsparse: a shipped setting, e.g. llama2-7b, or a file; that of the model's name by default."),
    ] = None,
    lambda1: Annotated[float | None, typer.Option(help="With proxsparse: strength of the proximal operator after each step.")] = None,
    lambda2: Annotated[float | None, typer.Option(help="With proxsparse: weight of the frozen-weight penalty.")] = None,
    epsilon: Annotated[float | None, typer.Option(help="With proxsparse: keeps that penalty from dividing by zero.")] = None,
    project_lambda2: Annotated[
        bool | None,
        typer.Option("--project-lambda2/--no-project-lambda2", help="With proxsparse: whether lambda2 counts; by default it does."),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="With proxsparse: samples of a step.")] = None,
    lr: Annotated[float | None, typer.Option(help="With proxsparse: highest learning rate.")] = None,
) -> None:
    """Prune the linear layers of a model, block by block, and write a model folder like any other."""
    trained = {"lambda1": lambda1, "lambda2": lambda2, "epsilon": epsilon, "batch": batch_size, "rate": lr}
    if method == "proxsparse":
        from xmsim.cli.prune_proxsparse import check_two_four, prune_by_training

        if sweep is not None:
            raise XmsimError("--sweep prunes to many sparsities, method proxsparse to 2:4 only; choose another method")
        check_two_four(sparsity, pattern, budget)
        pruned = prune_by_training(
            model,
            out=out,
            preset=preset,
            project_lambda2=project_lambda2,
            overrides=trained | {"samples": samples, "length": length, "dtype": dtype},
            text=text,
            seed=seed,
            device=device,
        )
        _tell(pruned, out)
        return
    if any(value is not None for value in (preset, project_lambda2, *trained.values())):
        raise XmsimError("--preset, --lambda1, --lambda2, --epsilon, --project-lambda2, --batch-size and --lr are for --method proxsparse")
    samples, length, dtype = samples if samples is not None else 64, length if length is not None else 512, dtype or "float32"
    if sweep is not None:
        from xmsim.cli.prune_sweep import prune_sweep

        prune_sweep(
            model,
            sweep,
            step=step,
            policy=policy,
            windows=windows,
            out=out,
            text=text,
            samples=samples,
            length=length,
            seed=seed,
            method=method,
            tpot=tpot,
            budget=budget,
            dtype=dtype,
            device=device,
        )
        return
    if tpot:
        raise XmsimError("--tpot times the splits of --sweep; give it, or time a pruned folder by xmsim measure --model FOLDER")
    from xmsim.cli.progress import progress_bar
    from xmsim.workloads.pruning.prune import prune_model

    with progress_bar(f"prune {model}", "blocks") as progress:
        record = prune_model(
            model,
            out=out,
            method=method,
            sparsity=sparsity,
            pattern=pattern,
            budget=budget,
            text=text,
            samples=samples,
            length=length,
            seed=seed,
            dtype=dtype,
            device=device,
            progress=progress,
        )
    _tell(record, out)


def _tell(record: PruningRecord, out: Path) -> None:
    how = f"pattern {record.pattern}" if record.pattern else f"budget {record.budget['name']}"
    read = f"{record.calibration.samples} samples of {record.calibration.length_tokens} tokens" if record.calibration else "no text read"
    typer.echo(
        f"{record.base.name}  {record.method['name']}  {how}  {read}  {len(record.layers)} layers  {record.weights} weights  "
        f"sparsity {record.reached_sparsity:.4f}  {record.seconds:.1f} s"
    )
    if before := [layer for layer in record.layers if layer.sparsity_before > 0.01]:
        share = sum(layer.sparsity_before for layer in before) / len(before)
        typer.echo(f"{len(before)} layers had zeros already, {share:.4f} of each on average; they count towards the sparsity")
    if record.tied_embeddings:
        typer.echo("lm_head is the embedding matrix, and as such not pruned")
    typer.echo(f"wrote {out}")
