"""How long one more token of a loaded model takes, whatever its linear layers and its attention run on at the moment."""

from __future__ import annotations

import statistics
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
    as `measure_generation` does.

    Args:
        model: a transformers model that generates, or a LoadedModel; exchanged layers, their thresholds and attached methods stay.
        input_tokens: of the prompt, drawn at random, always the same.
        new_tokens: decoded after the first one, which the prefill gives; at least 1.
        warmup, repeat: rounds that are not counted, and those that are, at least 2.
        threads: of every operation; None: all cores this process may use.
    Raises:
        XmsimError: a number that is too small, a prompt that does not fit the model, or too many threads.
    """
    import torch

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
    prompt = torch.randint(network.config.vocab_size, (1, input_tokens), generator=torch.Generator().manual_seed(0)).to(network.device)
    with thread_limit(available_cores() if threads is None else threads):
        rounds = [statistics.median(generate_once(network, prompt, new_tokens)[1]) for _ in range(warmup + repeat)]
    return Timing.of(rounds[warmup:])
