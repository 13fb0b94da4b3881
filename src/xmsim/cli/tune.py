"""xmsim tune: fine-tune a model with a sparsity method in place, or merge an adapter that this made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from xmsim.workloads.tuning.record import HeldOutLoss, TuningRecord

_DEFAULT_RECIPE = "full"


def tune(
    out: Annotated[Path, typer.Option(help="New folder for the tuned model; run the same command again to go on with one.")],
    model: Annotated[str | None, typer.Argument(help="xm-tiny (built in), a model folder or a hub name.")] = None,
    method: Annotated[str, typer.Option(help="Sparsity method to tune for: a shipped name or a file.")] = "xm",
    text: Annotated[
        Path | None, typer.Option(help="UTF-8 text to tune on, or one packed by xz; encyclopaedia prose and Wikipedia by default.")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help=f"A shipped recipe or a YAML file; {_DEFAULT_RECIPE} by default.")] = None,
    lora: Annotated[bool, typer.Option("--lora", help="The recipe lora: tune an adapter beside the weights (needs peft).")] = False,
    qlora: Annotated[bool, typer.Option("--qlora", help="The recipe qlora: an adapter beside 4-bit weights (needs a GPU).")] = False,
    steps: Annotated[int | None, typer.Option(help="Steps, of windows drawn at random from the text.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Times through the text, in consecutive windows.")] = None,
    length: Annotated[int | None, typer.Option(help="Tokens of a window.")] = None,
    batch: Annotated[int | None, typer.Option(help="Windows of a step.")] = None,
    rate: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Of the computation: float32 or bfloat16.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the windows drawn and of dropout.")] = 0,
    device: Annotated[str, typer.Option(help="Where the model runs: cpu, or cuda.")] = "cpu",
    merge: Annotated[
        Path | None, typer.Option(help="Folder of a tuned adapter: add it to its base model (MODEL, if that was moved) and write a model.")
    ] = None,
) -> None:
    """Fine-tune a model so that it does with the pairs that a method keeps; options replace what the recipe says."""
    from xmsim.cli.progress import loss_bar
    from xmsim.configs.errors import XmsimError
    from xmsim.workloads.methods.library import load_method
    from xmsim.workloads.tuning.adapters import merge_adapter
    from xmsim.workloads.tuning.recipe import load_recipe
    from xmsim.workloads.tuning.tune import tune_model

    if merge is not None:
        merged = merge_adapter(merge, out=out, base=model)
        typer.echo(f"{merged.base.name}  adapter {merge} merged in {merged.base.dtype}  {out}")
        return
    if model is None:
        raise XmsimError("name the model to tune, or an adapter to --merge")
    overrides = {"steps": steps, "epochs": epochs, "length": length, "batch": batch, "rate": rate, "dtype": dtype}
    chosen = load_recipe(_recipe_name(recipe, lora, qlora), **{key: value for key, value in overrides.items() if value is not None})
    with loss_bar(f"tune {model}") as watch:
        record = tune_model(model, text=text, out=out, method=load_method(method), recipe=chosen, seed=seed, device=device, watch=watch)
    for line in _summary(record):
        typer.echo(line)
    typer.echo(f"wrote {out}")
    if chosen.config.lora is not None:
        typer.echo(f"an adapter beside {record.base.name}; as a model of its own:  xmsim tune --merge {out} --out {out}-merged")


def _recipe_name(recipe: str | None, lora: bool, qlora: bool) -> str:
    from xmsim.configs.errors import XmsimError

    asked = [name for name, wanted in ((recipe, recipe), ("lora", lora), ("qlora", qlora)) if wanted]
    if len(asked) > 1:
        raise XmsimError("--recipe, --lora and --qlora each choose a recipe; give one of them")
    return asked[0] if asked and asked[0] else _DEFAULT_RECIPE


def _summary(record: TuningRecord) -> Iterator[str]:
    """What was done, and the held-out loss before and after, with and without the method."""
    method, before, after = record.method["name"], record.before, record.after
    yield (
        f"{record.base.name}  recipe {record.recipe['name']}  method {method}  {record.steps} steps  {record.tuned_tokens} tokens  "
        f"{record.tuned_parameters} parameters  {record.seconds:.0f} s"
    )
    yield f"loss on the held-out end, nats a token ({len(before.dense_windows)} windows of {record.recipe['length']} tokens)"
    rows = (
        ("", "before", "after"),
        ("dense", f"{before.dense:.4f}", f"{after.dense:.4f}"),
        (method, f"{before.method:.4f}", f"{after.method:.4f}"),
        (f"cost of {method}", _with_error(before), _with_error(after)),
    )
    for name, *cells in rows:
        yield f"  {name:<16}" + "".join(f"{cell:<18}" for cell in cells).rstrip()


def _with_error(loss: HeldOutLoss) -> str:
    """What the method costs, with its standard error over windows."""
    return f"{loss.cost:.4f}" if loss.cost_error is None else f"{loss.cost:.4f} ± {loss.cost_error:.4f}"
