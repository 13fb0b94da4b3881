"""Running a decoder of which one block at a time is in memory, on windows that all wait between two blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from xmsim.configs.errors import XmsimError
from xmsim.workloads.models.linear_exchange import linear_layers
from xmsim.workloads.models.loading import ModelError
from xmsim.workloads.pruning.methods import Sums
from xmsim.workloads.pruning.stored import StoredModel
from xmsim.workloads.tuning.text import TokenIds


class StreamedDecoder:
    """The windows' states before the next block, on the CPU, and the block that was loaded last.

    Use it under torch.inference_mode().
    """

    def __init__(self, stored: StoredModel, *, dtype: str, device: str) -> None:
        import torch

        self._stored = stored
        self._dtype, self._device = getattr(torch, dtype), device
        self._states: list[Any] = []
        self._calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []  # what each block is called with besides states

    def begin(self, windows: Sequence[TokenIds]) -> None:
        """Bring windows, all of one length, before the first block."""
        import torch

        base = self._stored.skeleton.base_model
        if hasattr(base, "rotary_emb"):
            base.rotary_emb = type(base.rotary_emb)(self._stored.config).to(self._device)  # its tables are computed, not stored
        for part in base.modules():
            if hasattr(part, "scalar_embed_scale"):  # Gemma's embeddings; computed, too
                part.embed_scale = torch.tensor(part.scalar_embed_scale, device=self._device)
        own = f"{self._stored.skeleton.base_model_prefix}."  # of the model without its language head
        self._fill(self._stored.read(name for name in self._stored.outer_names() if name.startswith(own)))
        self._states, self._calls = [], []
        with self._stopping_at_the_end():
            for window in windows:
                self._calls.clear()
                with _ignored_end():
                    base(torch.from_numpy(window)[None].to(self._device), use_cache=False)
        self._stored.skeleton.to("meta")

    @contextmanager
    def _stopping_at_the_end(self) -> Iterator[None]:
        """Let the model call its blocks, which only note with what."""
        blocks = list(self._stored.blocks)

        def note(states: Any, *others: Any, **named: Any) -> Any:
            if not self._calls:
                self._states.append(states.cpu())
            self._calls.append((others, named))
            if len(self._calls) == len(blocks):
                raise _EndOfBlocks
            return states

        for block in blocks:
            block.forward = note
        try:
            yield
        finally:
            for block in blocks:
                del block.forward

    def load(self, number: int, tensors: dict[str, Any]) -> Any:
        """Give a block its weights, by the names they have in the model; gives the block."""
        self._fill(tensors)
        return self._stored.blocks[number]

    def release(self, number: int) -> None:
        """Take a block's weights away again."""
        self._stored.blocks[number].to("meta")

    def gather(self, number: int, kind: type[Sums]) -> dict[str, Sums]:
        """Run a loaded block on all windows, whose states stay; gives what its linear layers read, by their names in the block."""
        block = self._stored.blocks[number]
        layers = linear_layers(block)
        sums = {name: kind() for name in layers}
        hooks = [layers[name].register_forward_pre_hook(lambda _, inputs, own=own: own.add(inputs[0])) for name, own in sums.items()]
        try:
            for window in range(len(self._states)):
                self._output(number, window)
        finally:
            for hook in hooks:
                hook.remove()
        return sums

    def advance(self, number: int) -> None:
        """Move all windows past a loaded block."""
        for window in range(len(self._states)):
            self._states[window] = self._output(number, window).cpu()

    def _output(self, number: int, window: int) -> Any:
        others, named = self._calls[number]
        output = self._stored.blocks[number](self._states[window].to(self._device), *others, **named)
        return output[0] if isinstance(output, tuple) else output

    def _fill(self, tensors: dict[str, Any]) -> None:
        from torch import nn

        for name, tensor in tensors.items():
            owner, _, own = name.rpartition(".")
            try:
                holder = self._stored.skeleton.get_submodule(owner)
                empty = holder.get_parameter(own)
            except AttributeError:
                continue  # what older versions stored besides the weights
            if empty.shape != tensor.shape:
                raise ModelError(f"{self._stored.name}: {name} has shape {list(tensor.shape)}, its configuration says {list(empty.shape)}")
            setattr(holder, own, nn.Parameter(tensor.to(device=self._device, dtype=self._dtype), requires_grad=False))


class _EndOfBlocks(Exception):
    """The model has come to its last block; what would follow is not needed."""


@contextmanager
def _ignored_end() -> Iterator[None]:
    try:
        yield
    except _EndOfBlocks:
        return
    raise XmsimError("the model did not call all of its blocks; its family does not run them one after the other")
