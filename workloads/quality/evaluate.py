"""Perplexity of a model with sparse attention: every method on the same windows, compared with the dense model."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict

from xmsim.configs.errors import XmsimError
from xmsim.workloads.attachment.activation_plan import ActivationSparsity
from xmsim.workloads.evaluation import EvaluatedRun, EvaluatedText, EvaluationRecord
from xmsim.workloads.extraction.extract import model_facts
from xmsim.workloads.measuring.host import describe_host
from xmsim.workloads.methods.library import Method, load_method
from xmsim.workloads.models.loading import LoadedModel
from xmsim.workloads.quality.token_losses import window_loss
from xmsim.workloads.quality.weight_sparsity import weight_sparsity
from xmsim.workloads.quality.window_scores import (
    AppliedActivations,
    Variant,
    cut_windows,
    dtype_of,
    evaluated_run,
    label_of,
    score_windows,
)
from xmsim.workloads.texts.corpora import Corpus

Progress = Callable[[int, int], None]  # (windows done, windows in all), over all methods and lengths


def no_progress(done: int, windows: int) -> None:
    """Show nothing."""


def evaluate_model(
    loaded: LoadedModel,
    methods: Sequence[Method],
    corpus: Corpus,
    *,
    lengths: Sequence[int] = (1024,),
    protocol: str = "dynax",
    windows: int | None = None,
    activations: ActivationSparsity | None = None,
    progress: Progress = no_progress,
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
    check_scorable(loaded, windows)
    chosen = with_dense_first(methods)
    variants = [Variant(method, None) for method in (chosen if activations is None else chosen[:1])]
    if activations is not None:
        applied = AppliedActivations(activations, weight_sparsity(loaded.model))
        variants += [Variant(method, applied) for method in chosen]
    cuts = [cut_windows(loaded, corpus, protocol, length, windows) for length in dict.fromkeys(lengths)]
    loss = window_loss(loaded.model, cuts[0].windows[0].ids)
    done, total = itertools.count(1), len(variants) * sum(len(cut.windows) for cut in cuts)
    runs: list[EvaluatedRun] = []
    for cut in cuts:
        scores = [score_windows(loaded, variant, cut, loss, lambda: progress(next(done), total)) for variant in variants]
        runs += [
            evaluated_run(variant.method, cut, own, dense_losses=scores[0].window_losses)
            for variant, own in zip(variants, scores, strict=True)
        ]
    return evaluation_record(loaded, corpus, protocol, runs)


def check_scorable(loaded: LoadedModel, windows: int | None) -> None:
    """Raises: XmsimError: the model predicts no tokens, or there would be no window."""
    if not loaded.model.can_generate():
        raise XmsimError(f"{loaded.name}: a model of family {loaded.family} without a causal language head has no perplexity")
    if windows is not None and windows < 1:
        raise XmsimError(f"{windows} windows cannot be evaluated; ask for at least 1")


def evaluation_record(loaded: LoadedModel, corpus: Corpus, protocol: str, runs: Sequence[EvaluatedRun]) -> EvaluationRecord:
    """What was run where, on which model and text."""
    return EvaluationRecord(
        host=describe_host(),
        device=loaded.model.device.type,
        dtype=dtype_of(loaded),
        model=asdict(model_facts(loaded)),
        text=EvaluatedText(corpus.name, corpus.sha256, corpus.note),
        protocol=protocol,
        runs=tuple(runs),
    )


def with_dense_first(methods: Sequence[Method]) -> list[Method]:
    """Dense, then every other method once.

    Raises:
        XmsimError: two different methods would be called the same.
    """
    chosen = [load_method("dense")]
    for method in methods:
        if method.parameters["method"] == "dense" or method in chosen:
            continue
        if label := next((known for known in map(label_of, chosen) if known == label_of(method)), ""):
            raise XmsimError(f"two different methods are called {label}; rename one of the files")
        chosen.append(method)
    return chosen
