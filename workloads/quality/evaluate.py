"""Perplexity of a model with sparse attention: every method on the same windows, compared with the dense model."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from xmsim.configs.densities import Densities
from xmsim.configs.errors import XmsimError
from xmsim.reference.activations import total_sparsity
from xmsim.workloads.attachment.activation_plan import ActivationSparsity
from xmsim.workloads.attachment.attach import attach
from xmsim.workloads.evaluation import (
    EvaluatedActivations,
    EvaluatedRun,
    EvaluatedText,
    EvaluationRecord,
    LayerDensities,
    method_label,
)
from xmsim.workloads.extraction.extract import model_facts
from xmsim.workloads.measuring.host import describe_host
from xmsim.workloads.methods.library import Method, load_method
from xmsim.workloads.models.loading import LoadedModel
from xmsim.workloads.quality.protocols import WindowPlan, window_plan
from xmsim.workloads.quality.token_losses import WindowLoss, window_loss
from xmsim.workloads.quality.weight_sparsity import weight_sparsity
from xmsim.workloads.texts.corpora import Corpus
from xmsim.workloads.texts.encoded import EncodedText

Progress = Callable[[int, int], None]  # (windows done, windows in all), over all methods and lengths
LARGEST_LOSS = 700.0  # nats a token; exp of little more is infinite
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory")


def _no_progress(done: int, windows: int) -> None:
    """Show nothing."""


@dataclass(frozen=True, slots=True)
class _Cut:
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
class _Applied:
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
class _Variant:
    """What a model is scored with."""

    method: Method  # of its attention
    applied: _Applied | None  # to the inputs of its linear layers


@dataclass(frozen=True, slots=True)
class _Scores:
    """The loss of each window with a method attached, in nats a token, and what attention kept over all of them."""

    window_losses: tuple[float, ...]
    densities: Densities
    layers: tuple[LayerDensities, ...]
    activations: EvaluatedActivations | None

    @property
    def loss(self) -> float:
        return statistics.fmean(self.window_losses)


def evaluate_model(
    loaded: LoadedModel,
    methods: Sequence[Method],
    corpus: Corpus,
    *,
    lengths: Sequence[int] = (1024,),
    protocol: str = "dynax",
    windows: int | None = None,
    activations: ActivationSparsity | None = None,
    progress: Progress = _no_progress,
) -> EvaluationRecord:
    """Score a text with each method attached to a model, at each length; the dense model always comes first.

    With activation sparsity the model is scored as it is, then with it, and with it and each method; weights are what they are throughout.

    Windows are read one at a time, so low-bit prediction has one quantisation scale a window and layer, as in the DynaX artifact.

    Args:
        loaded: a causal language model with its tokenizer.
        lengths: in tokens, as the protocol understands them (`xmsim.workloads.quality.protocols`).
        windows: only the first so many at each length; None: all that the text has.
        activations: which inputs of the linear layers count as zero in all runs but the first; None: none.
        progress: called after each window.
    Raises:
        XmsimError: whatever is wrong with the model, the text or the choice, in one sentence.
    """
    if not loaded.model.can_generate():
        raise XmsimError(f"{loaded.name}: a model of family {loaded.family} without a causal language head has no perplexity")
    if windows is not None and windows < 1:
        raise XmsimError(f"{windows} windows cannot be evaluated; ask for at least 1")
    chosen = _with_dense_first(methods)
    variants = [_Variant(method, None) for method in (chosen if activations is None else chosen[:1])]
    if activations is not None:
        applied = _Applied(activations, weight_sparsity(loaded.model))
        variants += [_Variant(method, applied) for method in chosen]
    cuts = [_cut(loaded, corpus, protocol, length, windows) for length in dict.fromkeys(lengths)]
    loss = window_loss(loaded.model, cuts[0].windows[0].ids)
    done, total = itertools.count(1), len(variants) * sum(len(cut.windows) for cut in cuts)
    runs: list[EvaluatedRun] = []
    for cut in cuts:
        scores = [_scores(loaded, variant, cut, loss, lambda: progress(next(done), total)) for variant in variants]
        runs += [_run(variant.method, cut, own, dense=scores[0]) for variant, own in zip(variants, scores, strict=True)]
    return EvaluationRecord(
        host=describe_host(),
        device=loaded.model.device.type,
        dtype=_dtype(loaded),
        model=asdict(model_facts(loaded)),
        text=EvaluatedText(corpus.name, corpus.sha256, corpus.note),
        protocol=protocol,
        runs=tuple(runs),
    )


def _with_dense_first(methods: Sequence[Method]) -> list[Method]:
    chosen = [load_method("dense")]
    for method in methods:
        if method.parameters["method"] == "dense" or method in chosen:
            continue
        if label := next((known for known in map(_label, chosen) if known == _label(method)), ""):
            raise XmsimError(f"two different methods are called {label}; rename one of the files")
        chosen.append(method)
    return chosen


def _label(method: Method) -> str:
    return method_label(_facts(method))


def _facts(method: Method) -> dict[str, Any]:
    return {"name": method.name} | method.parameters


def _cut(loaded: LoadedModel, corpus: Corpus, protocol: str, length: int, windows: int | None) -> _Cut:
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
    return _Cut(length, plan, tuple(cut[:windows]))


def _scores(loaded: LoadedModel, variant: _Variant, cut: _Cut, loss: WindowLoss, step: Callable[[], None]) -> _Scores:
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
                f"{loaded.name} with method {_label(method)}: the loss of window {place} is {one:g} nats a token, and no perplexity "
                f"follows from it; is {_dtype(loaded)} too narrow for this model? give another --dtype"
            )
    kept = tuple(LayerDensities(at, pairs.densities()) for at, pairs in enumerate(layers))
    return _Scores(tuple(losses), densities, kept, activations)


def _run(method: Method, cut: _Cut, own: _Scores, *, dense: _Scores) -> EvaluatedRun:
    increases = [mine - its for mine, its in zip(own.window_losses, dense.window_losses, strict=True)]
    scored_bytes = cut.scored_bytes
    return EvaluatedRun(
        method=_facts(method),
        length_tokens=cut.length,
        window_tokens=cut.plan.tokens,
        windows=len(cut.windows),
        scored_tokens=cut.scored_tokens,
        scored_bytes=scored_bytes,
        loss=own.loss,
        perplexity=math.exp(own.loss),
        bits_per_byte=own.loss * cut.scored_tokens / math.log(2) / scored_bytes if scored_bytes else None,
        perplexity_increase=math.expm1(own.loss - dense.loss),
        loss_increase=statistics.fmean(increases),
        loss_increase_error=standard_error(increases),
        densities=own.densities,
        layers=own.layers,
        window_losses=own.window_losses,
        activations=own.activations,
    )


def _dtype(loaded: LoadedModel) -> str:
    return str(loaded.model.dtype).removeprefix("torch.")


def standard_error(samples: Sequence[float]) -> float | None:
    """Standard error of the mean of independent samples; None where there is only one."""
    return statistics.stdev(samples) / math.sqrt(len(samples)) if len(samples) > 1 else None
