"""What an attention layer of a running model works on, and the model's arithmetic on it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from xmsim.workloads.attachment.mask import WindowPairs


@dataclass(frozen=True, slots=True, eq=False)
class Operands:
    """Torch tensors of a layer, or of a part of its windows and queries."""

    q: Any  # [windows, heads, queries, head_dim], after rotary embedding, before scaling
    k: Any  # [windows, kv_heads, keys, head_dim]
    v: Any  # [windows, kv_heads, keys, head_dim]
    scale: float
    alibi: Any = None  # added to the scaled scores, [windows, heads, 1, keys]; None: nothing
    dropout: float = 0.0  # of the probabilities

    def scores(self, dtype: Any) -> Any:
        """Scaled and biased scores in `dtype`, [windows, heads, queries, keys]: the model's arithmetic in the model's order."""
        import torch

        q, k = self.q.to(dtype), self._shared(self.k.to(dtype)).transpose(2, 3)
        if self.alibi is None:
            return torch.matmul(q, k) * self.scale
        alibi = self.alibi.to(dtype).flatten(0, 1)  # BLOOM rounds once where the others round twice
        return torch.baddbmm(alibi, q.flatten(0, 1), k.flatten(0, 1), alpha=self.scale).unflatten(0, q.shape[:2])

    def output(self, scores: Any, keep: Any) -> Any:
        """Attention on the kept pairs, [windows, heads, queries, head_dim]; zero where a query keeps nothing.

        `keep` is bool and broadcasts to the scores.
        """
        import torch

        kept = torch.where(keep, scores, torch.finfo(scores.dtype).min)  # finite: the gradient of a row of -inf is NaN
        probabilities = torch.nn.functional.softmax(kept, dim=-1, dtype=torch.float32).to(self.q.dtype)
        probabilities = torch.nn.functional.dropout(probabilities, self.dropout)
        output = torch.matmul(probabilities, self._shared(self.v))
        return torch.where(keep.amax(dim=-1, keepdim=True), output, 0)  # amax of bool is any, and much the faster of the two

    def without_padding(self, pairs: WindowPairs) -> Operands:
        """The windows and tokens that `pairs` speaks of."""
        part = self.block(pairs.windows, 0, self.q.shape[2])
        if pairs.rows is None:
            return part
        return replace(
            part,
            q=part.q[:, :, pairs.rows],
            k=part.k[:, :, pairs.columns],
            v=part.v[:, :, pairs.columns],
            alibi=None if part.alibi is None else part.alibi[..., pairs.columns],
        )

    def block(self, windows: range, first: int, last: int) -> Operands:
        """Queries first to last - 1 of some of the windows, and all their keys."""
        some = slice(windows.start, windows.stop)
        alibi = None if self.alibi is None else self.alibi[some]
        return replace(self, q=self.q[some, :, first:last], k=self.k[some], v=self.v[some], alibi=alibi)

    def _shared(self, states: Any) -> Any:
        """KV heads, each repeated for the query heads that read it."""
        share = self.q.shape[1] // states.shape[1]
        return states if share == 1 else states.repeat_interleave(share, dim=1)
