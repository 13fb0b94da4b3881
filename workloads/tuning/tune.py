"""Sparse-aware fine-tuning: a model is tuned with a sparsity method in place, so that it learns to do with the pairs it keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from xmsim.configs.codec import encode
from xmsim.workloads.attachment.attach import attach
from xmsim.workloads.extraction.extract import model_facts
from xmsim.workloads.measuring.host import describe_host
from xmsim.workloads.methods.library import Method, load_method
from xmsim.workloads.models.built_in import NAME as BUILT_IN
from xmsim.workloads.models.loading import LoadedModel, load_model
from xmsim.workloads.models.whole_folder import check_free, write_folder
from xmsim.workloads.tuning.adapters import add_adapter, check_four_bit, quantised, write_adapter, write_model
from xmsim.workloads.tuning.checkpoint import Checkpoint, Progress
from xmsim.workloads.tuning.limits import check_trainable, full_memory_explained
from xmsim.workloads.tuning.loop import TuningLoop, predicted_tokens, window_losses
from xmsim.workloads.tuning.recipe import Recipe, RecipeConfig, load_recipe
from xmsim.workloads.tuning.record import BaseModel, HeldOutLoss, TunedText, TuningRecord, write_tuning
from xmsim.workloads.tuning.resumable_steps import Watch, no_watch, resume, run_steps
from xmsim.workloads.tuning.text import TUNING_TEXT, TuningText, read_tuning_text

_FULL_MEMORY = "use a smaller --length, gradient_checkpointing: true in the recipe, or --lora"


def tune_model(
    model: str,
    *,
    out: Path,
    text: Path | None = None,
    method: str | Method = "xm",
    recipe: str | Recipe = "full",
    seed: int = 0,
    device: str = "cpu",
    watch: Watch = no_watch,
) -> TuningRecord:
    """Tune a model on a text with a method attached, and write it with a record of how.

    The mask is a constant of each step: gradients pass through the pairs it keeps. An interrupted run goes on from its last
    checkpoint, in `<out>.part`, when it is called again with the same arguments, and ends as it would have: bit for bit on
    one CPU host with as many threads.

    Args:
        model: a name for `load_model`.
        out: the new folder: a model, or with a recipe that has `lora` an adapter for `merge_adapter`.
        text: a UTF-8 file, or one that xz packed; its end is held out, scored before and after, and not tuned on. None: the
            encyclopaedia prose and Wikipedia articles that come with xmsim.
        method: `dense` tunes the model as it is, for comparison.
        seed: of the windows drawn, of dropout and of an adapter's first weights.
        watch: called after each step.
    Raises:
        XmsimError: whatever is wrong with the model, the method, the recipe, the text or the folder, in one sentence.
    """
    check_free(out)
    method = load_method(method) if isinstance(method, str) else method
    recipe = load_recipe(recipe) if isinstance(recipe, str) else recipe
    config = recipe.config
    if config.lora is not None and config.lora.four_bit is not None:
        check_four_bit(device)  # before a large model is loaded
    loaded = load_model(model, dtype="float32" if config.lora is None else config.dtype, device=device)
    check_trainable(loaded, config.length, asked_by=f"recipe {recipe.name}", option="--length")
    read = read_tuning_text(text or TUNING_TEXT, loaded.tokenizer, config, seed=seed)
    base = _base(loaded)
    facts = {"name": method.name, **method.parameters}
    plan = {"model": encode(base), "method": facts, "text": read.sha256, "seed": seed, "device": device, **recipe.parameters}
    checkpoint = Checkpoint(out, plan, TuningProgress, name="tuning")
    with full_memory_explained(loaded.name, config.length, _FULL_MEMORY):
        part = _whole(loaded) if config.lora is None else _adapter(loaded, config, source=_source(model), seed=seed, device=device)
        tuning = _Tuning(part, method, read, config, TuningLoop(part.loaded, read.windows, config, seed=seed))
        progress = tuning.run(checkpoint, watch)
        after = tuning.held_out_loss()
    record = TuningRecord(
        base=base,
        method=facts,
        recipe={"name": recipe.name, **recipe.parameters},
        text=TunedText(read.name, read.sha256, read.tokens),
        seed=seed,
        device=part.loaded.model.device.type,
        threads=_threads(),
        host=describe_host(),
        steps=progress.steps,
        tuned_parameters=sum(parameter.numel() for parameter in tuning.loop.parameters.values()),
        tuned_tokens=sum(predicted_tokens(read.windows.at(step)) for step in range(progress.steps)),
        seconds=round(progress.seconds, 1),
        before=progress.before,
        after=after,
        losses=progress.losses,
    )

    def write(folder: Path) -> None:
        part.write(folder)
        write_tuning(folder, record)

    write_folder(out, write)
    checkpoint.delete()
    return record


@dataclass(frozen=True, slots=True)
class TuningProgress(Progress):
    """How far a tuning has come."""

    before: HeldOutLoss


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """A model of which some parameters require a gradient, and how those are written."""

    loaded: LoadedModel
    write: Callable[[Path], None]


def _whole(loaded: LoadedModel) -> _Part:
    return _Part(loaded, lambda folder: write_model(folder, loaded))


def _adapter(loaded: LoadedModel, config: RecipeConfig, *, source: str, seed: int, device: str) -> _Part:
    assert config.lora is not None
    if config.lora.four_bit is not None:
        loaded = quantised(loaded, config.lora.four_bit, dtype=config.dtype, device=device)
    adapted = add_adapter(loaded, config.lora, source=source, seed=seed)
    return _Part(loaded, lambda folder: write_adapter(folder, adapted))


@dataclass(frozen=True, slots=True, eq=False)
class _Tuning:
    """One run."""

    part: _Part
    method: Method
    text: TuningText
    config: RecipeConfig
    loop: TuningLoop

    def run(self, checkpoint: Checkpoint[TuningProgress], watch: Watch) -> TuningProgress:
        """Do the steps that are not done yet."""
        progress = resume(self.loop, checkpoint, lambda: TuningProgress(0.0, (), self.held_out_loss()))
        watch(progress.steps, self.loop.steps, progress.losses[-1] if progress.losses else progress.before.method)
        with attach(self.part.loaded, self.method):
            return run_steps(self.loop, checkpoint, progress, watch)

    def held_out_loss(self) -> HeldOutLoss:
        """The loss on the end of the text, as the model is now."""
        dense = window_losses(self.part.loaded, self.text.held_out, self.config.dtype)
        with attach(self.part.loaded, self.method):
            return HeldOutLoss(dense, window_losses(self.part.loaded, self.text.held_out, self.config.dtype))


def _base(loaded: LoadedModel) -> BaseModel:
    facts = model_facts(loaded)
    dtype = str(loaded.model.dtype).removeprefix("torch.")
    return BaseModel(facts.name, facts.family, dtype, facts.weights_sha256, facts.config_sha256)


def _source(model: str) -> str:
    """Where the base model will be found again: a folder by its whole path."""
    folder = Path(model).expanduser()
    return str(folder.resolve()) if model != BUILT_IN and folder.exists() else model


def _threads() -> int:
    import torch

    return int(torch.get_num_threads())
