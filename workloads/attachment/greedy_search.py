"""TEAL's greedy search over a whole model: block by block, each on what the dense model gives it.

Source: TEAL (arXiv 2408.14690); FasterDecoding/TEAL at 5baaec8, teal/greedyopt.py.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from xmsim.configs.errors import XmsimError
from xmsim.reference.activations import greedy_steps, tail_error
from xmsim.workloads.attachment.activation_policies import find_policy
from xmsim.workloads.attachment.activation_sparsity import Thresholds, attach_activation_sparsity, weights_of
from xmsim.workloads.attachment.greedy_record import GreedyBlock, GreedyRecord, read_greedy, write_greedy
from xmsim.workloads.extraction.extract import model_facts, run_layers
from xmsim.workloads.models.linear_exchange import all_layers
from xmsim.workloads.models.loading import LoadedModel, ModelError

STEP = 0.05  # as published
Progress = Callable[[int, int], None]  # (blocks done, blocks in all)


def _no_progress(done: int, blocks: int) -> None:
    """Show nothing."""


def search_greedy_sparsities(
    loaded: LoadedModel,
    token_ids: Sequence[Sequence[int]],
    thresholds: Callable[[Mapping[str, float]], Thresholds],
    *,
    until: float,
    scoring: str,
    policy: str,
    file: Path,
    step: float = STEP,
    progress: Progress = _no_progress,
) -> GreedyRecord:
    """Share activation sparsity out among the projections of each block, where it hurts the block's output least; written to a file.

    A block is searched on the inputs that the dense model gives it, alone. An interrupted search goes on after its last finished block,
    in `<file>.part`, when it is called again with the same arguments.

    Args:
        loaded: any transformers model with a list of blocks.
        token_ids: windows, each run by itself; TEAL uses 10 of 2048 tokens.
        thresholds: what makes thresholds of sparsities by module name.
        until: effective sparsity that each block reaches at least, above 0 and at most 1; what it costs grows with it.
        scoring: how thresholds rank inputs, for the record.
        policy: by name, which tokens stay dense while errors are measured; published is first_half_dense.
        step: sparsity that a step adds to the first projection; others get as many weights more.
        progress: called after each block.
    Raises:
        XmsimError: the model has no list of blocks, an unfinished search with other arguments is there, or the file cannot be written.
    """
    import torch

    prefixes = block_prefixes(loaded.model)
    plan = GreedyRecord(
        model=asdict(model_facts(loaded)),
        tokens_sha256=hashlib.sha256(json.dumps([list(ids) for ids in token_ids]).encode()).hexdigest(),
        windows=len(token_ids),
        scoring=scoring,
        policy=policy,
        step=step,
        until=until,
        blocks=(),
    )
    part = file.with_name(f"{file.name}.part")
    record = _unfinished(part, plan)
    with torch.inference_mode():
        for prefix in prefixes[len(record.blocks) :]:
            block = _Block(loaded.model, prefix, token_ids)
            steps = block.search(thresholds, policy, step=step, until=until)
            record = replace(record, blocks=(*record.blocks, GreedyBlock(prefix, steps)))
            write_greedy(part, record)
            progress(len(record.blocks), len(prefixes))
    write_greedy(file, record)
    with suppress(OSError):
        part.unlink()
    return record


def block_prefixes(model: Any) -> list[str]:
    """What the module names in each decoder block of a transformers model begin with, in order.

    Raises:
        ModelError: it has no list of as many blocks as its configuration says.
    """
    from torch.nn import ModuleList

    count, layers = getattr(model.config, "num_hidden_layers", None), all_layers(model)
    for name, module in model.named_modules():
        if isinstance(module, ModuleList) and len(module) == count:
            prefixes = [f"{name}.{at}." for at in range(len(module))]
            if all(any(layer.startswith(prefix) for layer in layers) for prefix in prefixes):
                return prefixes
    raise ModelError(f"{model.config.model_type}: a model of this family has no list of blocks to search; use uniform sparsities")


def _unfinished(part: Path, plan: GreedyRecord) -> GreedyRecord:
    """The search to go on with, or the plan of a new one."""
    if not part.exists():
        return plan
    found = read_greedy(part)
    if replace(found, blocks=()) != plan:
        raise XmsimError(f"{part}: holds an unfinished search of another model, text or choice; delete it, or give --greedy another file")
    return found


class _EndOfBlock(Exception):
    """The block that was waited for has been called; nothing after it needs to run."""


class _Block:
    """A block with what the dense model calls it with, window by window, and what it then gives."""

    def __init__(self, network: Any, prefix: str, token_ids: Sequence[Sequence[int]]) -> None:
        self._network, self._prefix = network, prefix
        self._module = network.get_submodule(prefix.removesuffix("."))
        self._layers = {name: layer for name, layer in all_layers(network).items() if name.startswith(prefix)}
        self._calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

        def note(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._calls.append((args, kwargs))
            raise _EndOfBlock

        handle = self._module.register_forward_pre_hook(note, with_kwargs=True)
        try:
            for ids in token_ids:
                with suppress(_EndOfBlock):
                    run_layers(network, [ids])
        finally:
            handle.remove()
        self._dense = [self._output(*call) for call in self._calls]

    def _output(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = self._module(*args, **kwargs)
        return given[0] if isinstance(given, tuple) else given

    def search(self, thresholds: Callable[[Mapping[str, float]], Thresholds], policy: str, *, step: float, until: float) -> Any:
        """The steps from dense to `until`."""
        chosen = find_policy(policy)

        def error(sparsities: Mapping[str, float]) -> float:
            named = {f"{self._prefix}{projection}": share for projection, share in sparsities.items()}
            with attach_activation_sparsity(self._network, thresholds(named), policy=chosen):
                outputs = zip(self._calls, self._dense, strict=True)
                return fmean(tail_error(self._output(*call), dense) for call, dense in outputs)

        sizes = {name.removeprefix(self._prefix): float(weights_of(layer)) for name, layer in self._layers.items()}
        try:
            return greedy_steps(error, sizes, step=step, until=until)
        except ValueError as fault:
            raise XmsimError(f"{self._prefix.removesuffix('.')}: {fault}") from fault
