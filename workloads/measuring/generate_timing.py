"""Prefill and decode of a model, token by token, on several kernels in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from xmsim.configs.errors import XmsimError
from xmsim.workloads.measurement import Timing
from xmsim.workloads.measuring.generation_record import GenerationRun, Ratio
from xmsim.workloads.measuring.linear_variants import TORCH, LinearVariants
from xmsim.workloads.measuring.profile_ranges import round_range, token_range


def time_generation(
    model: Any,
    variants: LinearVariants,
    prompt: Any,
    *,
    new_tokens: int,
    warmup: int,
    repeat: int,
    attention: str,
    save_per_token: bool = False,
    progress: Callable[[int, int], None] = lambda done, rounds: None,
) -> tuple[GenerationRun, ...]:
    """Time prefill and greedy decoding with a cache; the kernels take turns, so that each repeat pairs all of them.

    Args:
        model: the transformers model that `variants` belongs to.
        prompt: int64 tensor [batch, tokens].
        new_tokens: decoded after the first one, which the prefill gives; at least 2.
        warmup, repeat: rounds that are not counted, and those that are, at least 2.
        attention: what the attention runs on, for the record.
        save_per_token: keep every time, not their summary alone.
        progress: called after each round.
    Raises:
        XmsimError: the model has no cache, or does not run on a kernel.
    """
    kernels = list(variants.layers)
    first_ms: dict[str, list[float]] = {kernel: [] for kernel in kernels}
    token_ms: dict[str, list[list[float]]] = {kernel: [] for kernel in kernels}
    for done in range(warmup + repeat):
        for kernel in kernels:
            variants.use(kernel)
            with round_range(done, warmup, kernel):
                try:
                    first, tokens = generate_once(model, prompt, new_tokens)
                except AttributeError as error:  # a block that reads the weights of its layers by itself
                    raise XmsimError(
                        f"{model.config.model_type}: this family does not run on kernel {kernel} ({error}); choose layers by --include"
                    ) from error
            if done >= warmup:
                first_ms[kernel].append(first)
                token_ms[kernel].append(tokens)
        progress(done + 1, warmup + repeat)
    return generation_runs(variants, first_ms, token_ms, attention=attention, save_per_token=save_per_token)


def generation_runs(
    variants: LinearVariants,
    first_ms: dict[str, list[float]],
    token_ms: dict[str, list[list[float]]],
    *,
    attention: str,
    save_per_token: bool,
) -> tuple[GenerationRun, ...]:
    """What was timed of each kernel, summarised: times to the first token [repeats], and of each further one [repeats, tokens]."""
    kernels = list(variants.layers)
    medians = {kernel: [statistics.median(tokens) for tokens in token_ms[kernel]] for kernel in kernels}
    return tuple(
        GenerationRun(
            kernel=kernel,
            attention=attention,
            exchanged_layers=0 if kernel == TORCH else len(variants.layers[kernel]),
            weight_bytes=variants.weight_bytes(kernel),
            time_to_first_token=Timing.of(first_ms[kernel]),
            time_per_output_token=Timing.of(every := [ms for tokens in token_ms[kernel] for ms in tokens]),
            p50_ms=statistics.median(every),
            p99_ms=percentile(every, 99),
            speedup={other: paired_ratio(medians[other], medians[kernel]) for other in kernels if other != kernel},
            token_ms=tuple(token_ms[kernel]) if save_per_token else (),
        )
        for kernel in kernels
    )


def generate_once(model: Any, prompt: Any, new_tokens: int) -> tuple[float, list[float]]:
    """Milliseconds until the first token, and of each that follows it, greedily."""
    import torch

    def step(tokens: Any, cache: Any) -> tuple[Any, Any, float]:
        begin = time.perf_counter()
        out = model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
        if getattr(out, "past_key_values", None) is None:
            raise XmsimError(f"{model.config.model_type}: this model family gives back no cache that decoding could go on from")
        chosen = out.logits[:, -1:].argmax(dim=-1)
        if chosen.is_cuda:
            torch.cuda.synchronize()
        return chosen, out.past_key_values, 1e3 * (time.perf_counter() - begin)

    with torch.inference_mode(), _plain_input_strides(model.get_output_embeddings()):
        token, cache, first_ms = step(prompt, None)
        token_ms = []
        for number in range(new_tokens):
            with token_range(number):
                token, cache, ms = step(token, cache)
            token_ms.append(ms)
    return first_ms, token_ms


@contextmanager
def _plain_input_strides(layer: Any) -> Iterator[None]:
    """Give a layer inputs with the strides of a tensor of their own.

    After a prefill the logits of one token are made from a slice whose outer stride spans the whole prompt. torch's bfloat16 product then
    leaves its fast path on the CPU and takes 60 times as long, seconds at Llama's vocabulary: no baseline to be compared with.
    """

    def plain(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden, *others = inputs
        return (hidden.reshape(-1, hidden.shape[-1]).reshape(hidden.shape), *others)

    hook = layer.register_forward_pre_hook(plain)
    try:
        yield
    finally:
        hook.remove()


def paired_ratio(slower: Sequence[float], faster: Sequence[float]) -> Ratio:
    """How many times as long the first of each pair took."""
    ratios = [a / b for a, b in zip(slower, faster, strict=True)]
    first, median, third = statistics.quantiles(ratios, n=4, method="inclusive")
    return Ratio(len(ratios), median, first, third)


def percentile(samples: Sequence[float], percent: float) -> float:
    """The value that so many percent of the samples do not exceed, between neighbours in proportion."""
    ordered = sorted(samples)
    place = (len(ordered) - 1) * percent / 100
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
