"""Greedy decoding on a cache whose room is made ahead: each token is the same work at the same addresses, as a CUDA graph replays it.

Eager decoding of one sequence waits for launches on a GPU, whatever the kernels are; a graph shows what they take.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from xmsim.configs.errors import XmsimError
from xmsim.workloads.measuring.generate_timing import generation_runs
from xmsim.workloads.measuring.generation_record import GenerationRun
from xmsim.workloads.measuring.linear_variants import LinearVariants
from xmsim.workloads.measuring.profile_ranges import round_range, token_range

GRAPH = "static cache, CUDA graph"  # of a run's attention
_WARM_UP_STEPS = 3


class StaticDecoding:
    """One prompt on a model as it is now; step by step, or replayed."""

    def __init__(self, model: Any, prompt: Any, new_tokens: int) -> None:
        """Make room for the prompt, int64 [batch, tokens], and so many tokens.

        Raises:
            XmsimError: the model keeps something else than keys and values of all tokens.
        """
        from transformers import StaticCache

        self._model, self._prompt = model, prompt
        self._cache = StaticCache(config=model.config, max_cache_len=prompt.shape[1] + new_tokens + _WARM_UP_STEPS)
        if any(type(layer).__name__ != "StaticLayer" for layer in self._cache.layers):
            raise XmsimError("the model keeps less than all its tokens (a sliding window, a state); measure it with --eager")
        self.token = prompt[:, -1:].clone()  # the newest

    def prefill(self) -> None:
        """Begin anew; the first token of the answer is `token` then."""
        self._cache.reset()
        self._advance(self._prompt)

    def step(self) -> None:
        """One token on."""
        self._advance(self.token)

    def rewind(self) -> None:
        """Forget what came after the first token, but for `token`."""
        for layer in self._cache.layers:
            layer.cumulative_length.fill_(self._prompt.shape[1])

    def graph(self) -> Any:
        """One step as a CUDA graph; call it after a prefill, which it leaves as it was."""
        import torch

        first, side = self.token.clone(), torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP_STEPS):
                self.step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        self.rewind()
        self.token.copy_(first)
        return graph

    def _advance(self, tokens: Any) -> None:
        out = self._model(tokens, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        self.token.copy_(out.logits[:, -1:].argmax(dim=-1))


def time_graphs(
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
    """As `time_generation` on a GPU: the prefill as it is, each token by replaying a graph, timed by CUDA events."""
    import torch

    kernels = list(variants.layers)
    first_ms: dict[str, list[float]] = {kernel: [] for kernel in kernels}
    token_ms: dict[str, list[list[float]]] = {kernel: [] for kernel in kernels}
    with torch.inference_mode():
        decodings = {}
        for kernel in kernels:
            variants.use(kernel)
            decoding = StaticDecoding(model, prompt, new_tokens)
            decoding.prefill()
            decodings[kernel] = decoding, decoding.graph()
        for done in range(warmup + repeat):
            for kernel, (decoding, graph) in decodings.items():
                variants.use(kernel)
                with round_range(done, warmup, kernel):
                    torch.cuda.synchronize()
                    begin = time.perf_counter()
                    decoding.prefill()
                    torch.cuda.synchronize()
                    first = 1e3 * (time.perf_counter() - begin)
                    tokens = _replayed(graph, new_tokens)
                if done >= warmup:
                    first_ms[kernel].append(first)
                    token_ms[kernel].append(tokens)
            progress(done + 1, warmup + repeat)
    return generation_runs(variants, first_ms, token_ms, attention=f"{attention}, {GRAPH}", save_per_token=save_per_token)


def _replayed(graph: Any, new_tokens: int) -> list[float]:
    """Milliseconds of each token on the GPU."""
    import torch

    marks = [torch.cuda.Event(enable_timing=True) for _ in range(new_tokens + 1)]
    marks[0].record()
    for number, mark in enumerate(marks[1:]):
        with token_range(number):
            graph.replay()
        mark.record()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) for before, after in pairwise(marks)]
