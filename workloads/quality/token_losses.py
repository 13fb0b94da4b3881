"""The loss of a language model on a window of tokens, without all of its logits in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from xmsim.workloads.extraction.extract import run_layers

SLICE_LOGITS = 2**24  # logits that are held as float32 at once: 64 MiB
_PROBE_TOKENS = 16

WindowLoss = Callable[[Sequence[int], int], float]
Logits = Callable[[Any, Sequence[int], range], Iterator[Any]]  # (model, ids, rows) -> logits [slice, vocabulary] of these rows


def window_loss(model: Any, ids: Sequence[int]) -> WindowLoss:
    """How to compute the loss of a window: (token ids, scored) -> mean cross entropy of the last `scored` tokens, in nats.

    Each token is predicted from all before it in its window. Most models apply nothing but their output layer to the last
    hidden state, so a slice of the tokens can be done at a time; whether this one does is tried out on the first of `ids`,
    and one that also scales or caps its logits computes all of them at once.

    Whatever is attached to the model when the function is called counts, not what was when it was made.
    """
    logits = _sliced_logits if _output_layer_suffices(model, ids[:_PROBE_TOKENS]) else _whole_logits
    return lambda window, scored: _mean_loss(logits, model, window, scored)


def _output_layer_suffices(model: Any, ids: Sequence[int]) -> bool:
    import torch

    with torch.inference_mode():
        return torch.equal(model.get_output_embeddings()(_last_hidden(model, ids)), _all_logits(model, ids))


def _mean_loss(logits: Logits, model: Any, window: Sequence[int], scored: int) -> float:
    import torch

    rows = range(len(window) - 1 - scored, len(window) - 1)  # each predicts the token behind it
    targets = torch.tensor(window[rows.start + 1 :], device=model.device)
    total, done = 0.0, 0
    for part in logits(model, window, rows):
        losses = torch.nn.functional.cross_entropy(part.float(), targets[done : done + len(part)], reduction="none")
        total += losses.double().sum().item()
        done += len(part)
    return total / scored


def _sliced_logits(model: Any, ids: Sequence[int], rows: range) -> Iterator[Any]:
    hidden, layer = _last_hidden(model, ids), model.get_output_embeddings()
    for part in _slices(rows, model.config.vocab_size):
        yield layer(hidden[part.start : part.stop])


def _whole_logits(model: Any, ids: Sequence[int], rows: range) -> Iterator[Any]:
    logits = _all_logits(model, ids)
    for part in _slices(rows, model.config.vocab_size):
        yield logits[part.start : part.stop]


def _last_hidden(model: Any, ids: Sequence[int]) -> Any:
    return run_layers(model, [ids]).last_hidden_state[0]


def _all_logits(model: Any, ids: Sequence[int]) -> Any:
    import torch

    return model(torch.tensor([ids], device=model.device), use_cache=False).logits[0]


def _slices(rows: range, vocabulary: int) -> Iterator[range]:
    step = max(1, SLICE_LOGITS // vocabulary)
    for start in range(rows.start, rows.stop, step):
        yield range(start, min(start + step, rows.stop))
