"""A method on one attention layer of a running model: what it keeps, what comes out, and how many pairs that were."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from xmsim.configs.errors import XmsimError
from xmsim.reference.attention import predict_scores
from xmsim.workloads.attachment.mask import AttachedMask, WindowPairs
from xmsim.workloads.attachment.operands import Operands
from xmsim.workloads.methods.kinds import PredictionConfig
from xmsim.workloads.methods.library import Method
from xmsim.workloads.methods.pair_counts import PairCounts

_BLOCK_SCORES = 1 << 24  # computed together; besides its operands, a layer needs memory for a small multiple of this
_ALIGNMENT = 64  # queries; a block begins at a multiple of it


class AttachedLayer:
    """One attention layer under a method."""

    def __init__(self, number: int, method: Method) -> None:
        self._number = number  # in the order in which the model runs its layers, from 0
        self._method = method
        self._largest: dict[str, Any] = {}  # q_max and k_max of the last prefill
        self._counts: Any = None  # the fields of PairCounts, int64 tensor; left on the layer's device, for reading it waits

    @property
    def counts(self) -> PairCounts:
        """Pairs counted since the last reset; what gradient checkpointing runs twice is counted twice."""
        return PairCounts() if self._counts is None else PairCounts(*self._counts.tolist())

    def reset_counts(self) -> None:
        """Count from zero again."""
        self._counts = None

    def attend(self, operands: Operands, mask: AttachedMask) -> Any:
        """Attention on the kept pairs, [windows, queries, heads, head_dim]; zero at padding and where nothing is kept.

        Raises:
            XmsimError: the method does not fit the layer, or its scores hold NaN or infinity.
        """
        parts = [operands.without_padding(pairs) for pairs in mask.parts]
        try:
            self._remember_scale(parts, prefill=mask.query_offset == 0)
            outputs = [self._attend_part(part, pairs) for part, pairs in zip(parts, mask.parts, strict=True)]
        except ValueError as error:  # the reference's word for arguments that do not fit
            raise XmsimError(f"method {self._method.name} on layer {self._number}: {error}") from error
        return _with_padding(outputs, mask, operands).transpose(1, 2).contiguous()

    def _remember_scale(self, parts: list[Operands], *, prefill: bool) -> None:
        """A decode step is quantised with the scale of its prefill, or of the first step that was seen."""
        prediction = self._method.prediction
        if prediction is not None and parts and (prefill or not self._largest):
            self._largest = _largest_magnitudes(parts, prediction)

    def _attend_part(self, part: Operands, pairs: WindowPairs) -> Any:
        """Block by block, so that memory does not grow with the square of the length."""
        import torch

        windows, heads, queries = part.q.shape[:3]
        row_scores = heads * part.k.shape[2]
        outputs = []
        for first, last in _query_blocks(queries, pairs.query_offset, row_scores, self._method.config.query_block):
            step = max(1, _BLOCK_SCORES // (row_scores * (last - first)))
            together = [range(window, min(window + step, windows)) for window in range(0, windows, step)]
            blocks = [self._attend_block(part.block(some, first, last), pairs.block(some, first, last)) for some in together]
            outputs.append(torch.cat(blocks))
        return torch.cat(outputs, dim=2)

    def _attend_block(self, block: Operands, pairs: WindowPairs) -> Any:
        import torch
        from torch.utils.checkpoint import checkpoint

        def attend(q: Any, k: Any, v: Any) -> tuple[Any, Any]:
            operands = replace(block, q=q, k=k, v=v)
            scores = operands.scores(q.dtype)
            with torch.no_grad():  # a mask is a constant: gradients flow through the kept pairs as if nothing had been decided
                allowed = pairs.allowed()
                keep = self._keep(operands, scores, allowed, pairs)
                counts = _counts(operands, allowed, keep, pairs.key_offset)
            return operands.output(scores, keep), counts

        if torch.is_grad_enabled():  # what lies between is computed again on the way back, not kept until then
            output, counts = checkpoint(attend, block.q, block.k, block.v, use_reentrant=False)
        else:
            output, counts = attend(block.q, block.k, block.v)
        self._counts = counts if self._counts is None else self._counts + counts
        return output

    def _keep(self, block: Operands, scores: Any, allowed: Any, pairs: WindowPairs) -> Any:
        """The kept pairs, bool that broadcasts to `scores`; decided in float32, whatever the model computes in."""
        import torch

        config, prediction = self._method.config, self._method.prediction
        kv_heads = block.k.shape[1]
        with torch.autocast(block.q.device.type, enabled=False):
            if not config.reads_scores:  # every head keeps the same
                basis, kv_heads = torch.zeros((), device=scores.device), 1
            elif prediction is not None:
                basis = _predicted_scores(block, prediction, self._largest)
            else:
                basis = scores if scores.dtype == torch.float32 else block.scores(torch.float32)
        basis = torch.where(allowed, basis, -torch.inf)
        if dropped := pairs.key_offset:  # a method counts keys from the first token of the text
            basis = torch.nn.functional.pad(basis, (dropped, 0), value=-torch.inf)
        return config.keep(basis, kv_heads=kv_heads, query_offset=pairs.query_offset)[..., dropped:]


def _query_blocks(queries: int, offset: int, row_scores: int, together: int) -> Iterator[tuple[int, int]]:
    """First query, and the one after the last, of each block; `offset` is the position of query 0.

    All but the first begin at positions that are multiples of 64 and of `together`.
    """
    unit = math.lcm(_ALIGNMENT, together)
    step = max(1, _BLOCK_SCORES // (row_scores * unit)) * unit
    first = 0
    while first < queries:
        last = min(queries, first + step - (offset + first) % step)
        yield first, last
        first = last


def _largest_magnitudes(parts: list[Operands], prediction: PredictionConfig) -> dict[str, Any]:
    """q_max and k_max over all windows and tokens of a layer: one for all heads, or an array of one a head."""
    import torch

    largest = {}
    for name, tensors in (("q_max", [part.q for part in parts]), ("k_max", [part.k for part in parts])):
        heads = torch.stack([tensor.detach().abs().amax(dim=(0, 2, 3)) for tensor in tensors]).amax(dim=0).float().cpu()
        largest[name] = heads.numpy() if prediction.scale_per == "head" else heads.max().item()
    return largest


def _predicted_scores(block: Operands, prediction: PredictionConfig, largest: dict[str, Any]) -> Any:
    predicted = predict_scores(block.q.float(), block.k.float(), group=prediction.group, bits=prediction.bits, scale=block.scale, **largest)
    return predicted if block.alibi is None else predicted + block.alibi.float()


def _counts(block: Operands, allowed: Any, keep: Any, key_offset: int) -> Any:
    """The fields of PairCounts; int64 tensor."""
    import torch

    windows, heads, queries = block.q.shape[:3]
    kv_heads, keys = block.k.shape[1:3]
    keep = keep.expand(windows, heads, -1, -1)
    of_any_head = keep.unflatten(1, (kv_heads, heads // kv_heads)).amax(dim=2)
    kept, kv_kept, seen = (torch.count_nonzero(mask) for mask in (keep, of_any_head, allowed.expand(windows, -1, -1, -1)))
    pairs = torch.full_like(seen, windows * heads * queries * (key_offset + keys))
    return torch.stack([kept, seen * heads, pairs, kv_kept, seen * kv_heads])


def _with_padding(outputs: list[Any], mask: AttachedMask, operands: Operands) -> Any:
    """The outputs of the parts of a mask in the places of their tokens; [windows, heads, queries, head_dim]."""
    if len(outputs) == 1 and mask.parts[0].rows is None:
        return outputs[0]
    whole = operands.v.new_zeros((*operands.q.shape[:3], operands.v.shape[3]))
    for output, pairs in zip(outputs, mask.parts, strict=True):
        whole[pairs.windows.start].index_copy_(1, pairs.rows, output[0])
    return whole
