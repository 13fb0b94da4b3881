"""The windows of a text, and what a model makes of them with a method attached: losses, densities, a record's run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from xmsim.configs.densities import Densities
from xmsim.configs.errors import XmsimError
from xmsim.reference.activations import total_sparsity
from xmsim.workloads.attachment.activation_plan import ActivationSparsity
from xmsim.workloads.attachment.attach import attach
from xmsim.workloads.evaluation import EvaluatedActivations, EvaluatedRun, LayerDensities, method_label
from xmsim.workloads.methods.library import Method
from xmsim.workloads.models.loading import LoadedModel
from xmsim.workloads.quality.protocols import WindowPlan, window_plan
from xmsim.workloads.quality.token_losses import WindowLoss
from xmsim.workloads.texts.corpora import Corpus
from xmsim.workloads.texts.encoded import EncodedText

LARGEST_LOSS = 700.0  # nats a token; exp of little more is infinite
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory")


@dataclass(frozen=True, slots=True)
class TextWindows:
    """The windows that every method reads at one length."""

    length: int
    plan: WindowPlan
    windows: tuple[EncodedText, ...]

    @property
    def scored_tokens(self) -> int:
        return self.plan.scored * len(self.windows)

    @property
    def scored_bytes(self) -> int | None:
        total = 0
        for window in self.windows:
            if window.byte_counts is None:
                return None
            total += sum(window.byte_counts[-self.plan.scored :])
        return total


@dataclass(frozen=True, slots=True, eq=False)
class AppliedActivations:
    """Activation sparsity, and the zeros that the weights have anyway."""

    activations: ActivationSparsity
    static_sparsity: float

    def facts(self, reached: float) -> EvaluatedActivations:
        """Args: reached: share of the products that was left out for small inputs."""
        plan = self.activations.plan
        return EvaluatedActivations(
            sparsity=plan.sparsity,
            scoring=plan.scoring,
            allocation="uniform" if plan.greedy is None else "greedy",
            policy=plan.policy,
            histograms_sha256=self.activations.histograms_sha256,
            greedy_sha256=self.activations.greedy_sha256,
            static_sparsity=self.static_sparsity,
            dynamic_sparsity=reached,
            total_sparsity=total_sparsity(self.static_sparsity, reached),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Variant:
    """What a model is scored with."""

    method: Method  # of its attention
    applied: AppliedActivations | None  # to the inputs of its linear layers


@dataclass(frozen=True, slots=True)
class WindowScores:
    """The loss of each window with a method attached, in nats a token, and what attention kept over all of them."""

    window_losses: tuple[float, ...]
    densities: Densities
    layers: tuple[LayerDensities, ...]
    activations: EvaluatedActivations | None

    @property
    def loss(self) -> float:
        return statistics.fmean(self.window_losses)


def cut_windows(loaded: LoadedModel, corpus: Corpus, protocol: str, length: int, windows: int | None) -> TextWindows:
    """Cut a text as a protocol does, into no more than `windows` windows (None: all).

    Raises:
        XmsimError: no such protocol, windows longer than the model reads, or a text shorter than one.
    """
    plan = window_plan(protocol, length)
    limit = getattr(loaded.model.config, "max_position_embeddings", None)
    if limit is not None and plan.tokens > limit:
        raise XmsimError(
            f"{loaded.name}: reads at most {limit} tokens, and protocol {protocol} at length {length} needs {plan.tokens}; "
            f"give a smaller --length"
        )
    cut = [
        part.part(start, start + plan.tokens)
        for part in corpus.parts(loaded.tokenizer, plan.tokens)
        for start in plan.starts(len(part.ids))
    ]
    return TextWindows(length, plan, tuple(cut[:windows]))


def score_windows(loaded: LoadedModel, variant: Variant, cut: TextWindows, loss: WindowLoss, step: Callable[[], None]) -> WindowScores:
    """Read every window with a method attached; `step` is called after each.

    Raises:
        XmsimError: memory is full, or a loss is no number that a perplexity follows from.
    """
    import torch

    losses, method, applied = [], variant.method, variant.applied
    try:
        with torch.inference_mode(), attach(loaded, method) as attached, ExitStack() as stack:
            dropped = stack.enter_context(applied.activations.attach(loaded)) if applied else None
            for window in cut.windows:
                losses.append(loss(window.ids, cut.plan.scored))
                step()
            densities, layers = attached.densities(), attached.layers
            activations = applied.facts(dropped.sparsity) if applied and dropped else None
    except (MemoryError, RuntimeError) as error:  # torch raises RuntimeError when memory is full
        if isinstance(error, RuntimeError) and not any(sign in str(error) for sign in _OUT_OF_MEMORY):
            raise
        raise XmsimError(f"{loaded.name}: out of memory at windows of {cut.plan.tokens} tokens; give a smaller --length") from error
    for place, one in enumerate(losses):
        if not one < LARGEST_LOSS:  # not a number is not smaller either
            raise XmsimError(
                f"{loaded.name} with method {label_of(method)}: the loss of window {place} is {one:g} nats a token, and no perplexity "
                f"follows from it; is {dtype_of(loaded)} too narrow for this model? give another --dtype"
            )
    kept = tuple(LayerDensities(at, pairs.densities()) for at, pairs in enumerate(layers))
    return WindowScores(tuple(losses), densities, kept, activations)


def evaluated_run(method: Method, cut: TextWindows, own: WindowScores, *, dense_losses: Sequence[float]) -> EvaluatedRun:
    """A record's run, beside the losses of the dense model on the same windows."""
    increases = [mine - its for mine, its in zip(own.window_losses, dense_losses, strict=True)]
    scored_bytes = cut.scored_bytes
    return EvaluatedRun(
        method=method_facts(method),
        length_tokens=cut.length,
        window_tokens=cut.plan.tokens,
        windows=len(cut.windows),
        scored_tokens=cut.scored_tokens,
        scored_bytes=scored_bytes,
        loss=own.loss,
        perplexity=math.exp(own.loss),
        bits_per_byte=own.loss * cut.scored_tokens / math.log(2) / scored_bytes if scored_bytes else None,
        perplexity_increase=math.expm1(own.loss - statistics.fmean(dense_losses)),
        loss_increase=statistics.fmean(increases),
        loss_increase_error=standard_error(increases),
        densities=own.densities,
        layers=own.layers,
        window_losses=own.window_losses,
        activations=own.activations,
    )


def label_of(method: Method) -> str:
    """What tables call a method."""
    return method_label(method_facts(method))


def method_facts(method: Method) -> dict[str, Any]:
    """A method as records say it: name and parameters."""
    return {"name": method.name} | method.parameters


def dtype_of(loaded: LoadedModel) -> str:
    """Number format of weights and computation."""
    return str(loaded.model.dtype).removeprefix("torch.")


def standard_error(samples: Sequence[float]) -> float | None:
    """Standard error of the mean of independent samples; None where there is only one."""
    return statistics.stdev(samples) / math.sqrt(len(samples)) if len(samples) > 1 else None
