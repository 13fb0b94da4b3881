"""How long one more token of a loaded model takes, whatever its linear layers and its attention run on at the moment."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any

from xmsim.configs.errors import XmsimError
from xmsim.workloads.measurement import Timing
from xmsim.workloads.measuring.generate_timing import generate_once
from xmsim.workloads.measuring.host import available_cores
from xmsim.workloads.measuring.threads import thread_limit
from xmsim.workloads.models.loading import LoadedModel


def tpot_ms(
    model: Any, *, input_tokens: int = 32, new_tokens: int = 16, warmup: int = 1, repeat: int = 5, threads: int | None = None
) -> Timing:
    """Time per output token of greedy decoding with a cache, one sequence: a median of each repeat.

    Runs of different models may lie minutes apart, and a host is not as fast all day: for ratios let kernels take turns in one run,
    as `tpot_in_turn_ms` and `measure_generation` do.

    Args:
        model: a transformers model that generates, or a LoadedModel; exchanged layers, their thresholds and attached methods stay.
        input_tokens: of the prompt, drawn at random, always the same.
        new_tokens: decoded after the first one, which the prefill gives; at least 1.
        warmup, repeat: rounds that are not counted, and those that are, at least 2.
        threads: of every operation; None: all cores this process may use.
    Raises:
        XmsimError: a number that is too small, a prompt that does not fit the model, or too many threads.
    """
    sizes = {"input_tokens": input_tokens, "new_tokens": new_tokens, "warmup": warmup, "repeat": repeat}
    return tpot_in_turn_ms(model, {"as it is": lambda: None}, **sizes, threads=threads)["as it is"]


def tpot_in_turn_ms(
    model: Any,
    turns: Mapping[str, Callable[[], None]],
    *,
    input_tokens: int,
    new_tokens: int,
    warmup: int,
    repeat: int,
    threads: int | None = None,
) -> dict[str, Timing]:
    """The same of one model in several states, which take turns in each round: {name: a median of each repeat}.

    Args:
        turns: what brings the model into each state, by name; it is left in the last.
        model, input_tokens, new_tokens, warmup, repeat, threads, and what is raised: as for `tpot_ms`.
    """
    import torch

    check_decoding(model, input_tokens=input_tokens, new_tokens=new_tokens, warmup=warmup, repeat=repeat)
    network = model.model if isinstance(model, LoadedModel) else model
    prompt = torch.randint(network.config.vocab_size, (1, input_tokens), generator=torch.Generator().manual_seed(0)).to(network.device)
    rounds: dict[str, list[float]] = {name: [] for name in turns}
    with thread_limit(available_cores() if threads is None else threads):
        for _ in range(warmup + repeat):
            for name, bring in turns.items():
                bring()
                rounds[name].append(statistics.median(generate_once(network, prompt, new_tokens)[1]))
    return {name: Timing.of(medians[warmup:]) for name, medians in rounds.items()}


def check_decoding(model: Any, *, input_tokens: int, new_tokens: int, warmup: int, repeat: int) -> None:
    """Say before anything is done what cannot be timed; all as for `tpot_ms`."""
    for name, number, least in (
        ("input_tokens", input_tokens, 1),
        ("new_tokens", new_tokens, 1),
        ("warmup", warmup, 0),
        ("repeat", repeat, 2),
    ):
        if number < least:
            raise XmsimError(f"{name}: {number} is too few; choose at least {least}")
    network = model.model if isinstance(model, LoadedModel) else model
    limit = getattr(network.config, "max_position_embeddings", None)
    if limit and input_tokens + new_tokens > limit:
        raise XmsimError(f"{input_tokens} + {new_tokens} tokens do not fit the {limit} positions of this model; ask for fewer")
