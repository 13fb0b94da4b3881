"""Sparse-aware fine-tuning: a model is tuned with a sparsity method in place, so that it learns to do with the pairs it keeps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from xmsim.configs.codec import encode
from xmsim.workloads.adapters import add_adapter, check_four_bit, quantised, write_adapter, write_model
from xmsim.workloads.attachment import attach
from xmsim.workloads.built_in import NAME as BUILT_IN
from xmsim.workloads.extract import model_facts
from xmsim.workloads.host import describe_host
from xmsim.workloads.methods import Method, load_method
from xmsim.workloads.models import LoadedModel, ModelError, load_model
from xmsim.workloads.tune_checkpoint import Checkpoint, Progress
from xmsim.workloads.tune_loop import TuningLoop, predicted_tokens, window_losses
from xmsim.workloads.tune_recipe import Recipe, RecipeConfig, load_recipe
from xmsim.workloads.tune_text import TUNING_TEXT, TuningText, read_tuning_text
from xmsim.workloads.tuning_record import BaseModel, HeldOutLoss, TunedText, TuningRecord, write_tuning
from xmsim.workloads.whole_folder import check_free, write_folder

Watch = Callable[[int, int, float], None]  # (steps done, steps in all, loss of the last one)
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory")
_CHECKPOINT_SECONDS = 60.0  # between two checkpoints, at least
_CHECKPOINT_SHARE = 0.05  # of the time may go into writing them


def _no_watch(done: int, steps: int, loss: float) -> None:
    """Show nothing."""


def tune_model(
    model: str,
    *,
    out: Path,
    text: Path | None = None,
    method: str | Method = "xm",
    recipe: str | Recipe = "full",
    seed: int = 0,
    device: str = "cpu",
    watch: Watch = _no_watch,
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
    _check_fit(loaded, recipe)
    read = read_tuning_text(text or TUNING_TEXT, loaded.tokenizer, config, seed=seed)
    base = _base(loaded)
    facts = {"name": method.name, **method.parameters}
    plan = {"model": encode(base), "method": facts, "text": read.sha256, "seed": seed, "device": device, **recipe.parameters}
    checkpoint = Checkpoint(out, plan)
    with _full_memory_explained(loaded.name, config.length):
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

    def run(self, checkpoint: Checkpoint, watch: Watch) -> Progress:
        """Do the steps that are not done yet."""
        progress = self._resumed(checkpoint)
        losses, steps = list(progress.losses), self.text.windows.steps
        watch(len(losses), steps, losses[-1] if losses else progress.before.method)
        started = time.monotonic() - progress.seconds
        due = time.monotonic() + _CHECKPOINT_SECONDS
        with attach(self.part.loaded, self.method):
            for number in range(len(losses), steps):
                losses.append(self._step(number, checkpoint))
                progress = Progress(time.monotonic() - started, progress.before, tuple(losses))
                watch(len(losses), steps, losses[-1])
                if time.monotonic() > due:
                    begun = time.monotonic()
                    checkpoint.write(self.loop.parameters, self.loop.optimizer, progress)
                    written = time.monotonic()
                    due = written + max(_CHECKPOINT_SECONDS, (written - begun) / _CHECKPOINT_SHARE)
        return progress

    def held_out_loss(self) -> HeldOutLoss:
        """The loss on the end of the text, as the model is now."""
        dense = window_losses(self.part.loaded, self.text.held_out, self.config.dtype)
        with attach(self.part.loaded, self.method):
            return HeldOutLoss(dense, window_losses(self.part.loaded, self.text.held_out, self.config.dtype))

    def _resumed(self, checkpoint: Checkpoint) -> Progress:
        if checkpoint.exists:
            return checkpoint.read(self.loop.parameters, self.loop.optimizer)
        progress = Progress(0.0, self.held_out_loss(), ())
        checkpoint.write(self.loop.parameters, self.loop.optimizer, progress)  # whether there is room for one is known now
        return progress

    def _step(self, number: int, checkpoint: Checkpoint) -> float:
        try:
            return self.loop.step(number)
        except ModelError:  # the same steps would end here again
            checkpoint.delete()
            raise


@contextmanager
def _full_memory_explained(name: str, length: int) -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch raises RuntimeError when memory is full
        if isinstance(error, RuntimeError) and not any(sign in str(error) for sign in _OUT_OF_MEMORY):
            raise
        way_out = "use a smaller --length, gradient_checkpointing: true in the recipe, or --lora"
        raise ModelError(f"{name}: out of memory at {length} tokens; {way_out}") from error


def _check_fit(loaded: LoadedModel, recipe: Recipe) -> None:
    if not loaded.model.can_generate():
        raise ModelError(f"{loaded.name}: a model of family {loaded.family} without a causal language head has no loss to tune by")
    limit = getattr(loaded.model.config, "max_position_embeddings", None)
    if limit is not None and recipe.config.length > limit:
        raise ModelError(
            f"{loaded.name}: reads at most {limit} tokens, recipe {recipe.name} asks for {recipe.config.length}; "
            f"use --length {limit} or fewer"
        )


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
