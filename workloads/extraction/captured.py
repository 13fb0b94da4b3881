"""What one attention layer works on, as it is handed out while a model runs, and the check that a trace can hold it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from xmsim.traces.manifest import Bias
from xmsim.workloads.models.loading import ModelError

VERIFIED = "docs/how_to/own_model.md lists the families that are verified"
_ATTENTION_KINDS = {"full_attention", "sliding_attention", "chunked_attention", "hybrid", "attention"}  # words of config.layer_types


@dataclass(frozen=True, slots=True, eq=False)
class CapturedLayer:
    """Torch tensors that the model goes on to use: not to be changed, and not to be kept."""

    layer: int
    q: Any  # [windows, heads, tokens, head_dim], after rotary embedding, before scaling
    k: Any  # [windows, kv_heads, tokens, head_dim]
    v: Any  # [windows, kv_heads, tokens, head_dim]
    scale: float
    bias: Bias  # slopes: one a head of the model
    mask: Any  # added to the scores: 0 or very negative, [windows or 1, 1, queries, keys]; None: nothing
    alibi: Any = None  # added too: [windows, heads, 1, keys]; None: nothing

    def probabilities(self, window: int) -> Any:
        """The model's attention probabilities of one window, [1, heads, queries, keys]: eager's arithmetic in eager's order."""
        import torch

        one = slice(window, window + 1)
        q, k = self.q[one], self._repeated(self.k[one])
        if self.alibi is None:
            scores = torch.matmul(q, k.transpose(2, 3)) * self.scale
        else:  # BLOOM rounds once where the others round twice
            scores = torch.baddbmm(self.alibi[window], q[0], k[0].transpose(1, 2), alpha=self.scale)[None]
        if self.mask is not None:
            scores = scores + (self.mask[one] if len(self.mask) > 1 else self.mask)
        return torch.nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(self.q.dtype)

    def output(self) -> Any:
        """The layer's attention output, [windows, tokens, heads, head_dim]; one window's probabilities are alive at a time."""
        import torch

        windows = range(len(self.q))
        outputs = [torch.matmul(self.probabilities(window), self._repeated(self.v[window : window + 1])) for window in windows]
        return torch.cat(outputs).transpose(1, 2).contiguous()

    def _repeated(self, states: Any) -> Any:
        """KV heads, each repeated for the query heads that read it."""
        heads, kv_heads = self.q.shape[1], states.shape[1]
        return states if heads == kv_heads else states.repeat_interleave(heads // kv_heads, dim=1)


Take = Callable[[CapturedLayer], None]


class Sink:
    """Numbers the layers of one forward pass, checks that a trace can hold them, and hands them on."""

    def __init__(self, config: Any, valid_tokens: Sequence[int], take: Take) -> None:
        self.layers = 0  # seen so far
        self.valid_tokens = tuple(valid_tokens)
        self._config = config
        self._take = take

    def add(self, captured: CapturedLayer) -> None:
        """Hand on the next layer.

        Raises:
            ModelError: its mask is not what its bias says, or its values are of another size than its keys.
        """
        key_dim, value_dim = captured.k.shape[3], captured.v.shape[3]
        if key_dim != value_dim:
            raise self.refuse(f"a key has {key_dim} elements and a value {value_dim} (multi-head latent attention), and a trace one size")
        if not self.allows(captured.mask, captured.bias):
            chunk = getattr(self._config, "attention_chunk_size", None)
            chunks = f" (it attends in chunks of {chunk} tokens: ask for that many or fewer)" if chunk else ""
            raise self.refuse(f"the mask of layer {captured.layer} is neither causal nor a sliding window nor padding alone{chunks}")
        self.layers += 1
        self._take(captured)

    def allows(self, mask: Any, bias: Bias) -> bool:
        """Whether an additive mask lets exactly those pairs of valid tokens through that the bias says."""
        import torch

        if mask is None:
            return bias.kind == "none"
        blocked = torch.finfo(mask.dtype).min / 2
        for window, valid in enumerate(self.valid_tokens):
            part = mask[window if len(mask) > 1 else 0, :, :valid, :valid]
            allowed = torch.from_numpy(bias.allowed(valid)).to(mask.device).expand_as(part)
            if not (torch.equal(part == 0, allowed) and torch.equal(part > blocked, allowed)):
                return False
        return True

    def refuse(self, reason: str) -> ModelError:
        """The error for a family whose attention a trace cannot hold."""
        return ModelError(f"{self._config.model_type}: this model family cannot be extracted, {reason}; {VERIFIED}")


def layers_seen(config: Any, seen: int) -> str:
    """What to say where attention did not run once in each layer."""
    kinds = sorted(set(getattr(config, "layer_types", None) or ()) - _ATTENTION_KINDS)
    others = f", the others being of kind {', '.join(kinds)}" if kinds else ""
    return f"attention was seen in {seen} of {config.num_hidden_layers} layers{others}"
