"""What may attend to a cache for one decoded token: how a kernel is described, and what every device has, torch's dense attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from xmsim.reference.kernels.attention import unpacked
from xmsim.traces.store import LayerTrace
from xmsim.workloads.measuring.accuracy import AttentionProblem, check_mask
from xmsim.workloads.measuring.attention import position_bias
from xmsim.workloads.measuring.dense_decode import DenseDecode, DenseDecodeKernel, fastest_dense_decode

DENSE, MASK, SPARSE = "dense attention", "mask", "sparse attention"  # operations of a measurement
_TORCH_EXPONENTIALS = 20 * 2.0**-23  # its flash attention takes those of float32 with 20 ULP: ATen's exp_u20
_JUDGED_QUERIES = 32  # one gives too few numbers to tell how far off plain arithmetic may be
FROM_CACHE, FROM_KEYS = "few-bit copy of the keys", "keys quantised each time"  # what predicts the kept keys


@dataclass(frozen=True, slots=True, eq=False)
class Token:
    """One decoded token of a window of a layer, and what it keeps."""

    so_far: LayerTrace  # of which it is the last token; values that bfloat16 has
    window: int
    keep: np.ndarray | None  # bool [heads, 1, keys]; None: the method is dense

    @property
    def keys(self) -> int:
        return self.so_far.valid_tokens[self.window]

    @property
    def first_key(self) -> int:
        """The first that the model lets it see."""
        return max(0, self.keys - (self.so_far.bias.window or self.keys))

    @property
    def density(self) -> float:
        """Kept / allowed keys, over query heads."""
        if self.keep is None:
            return 1.0
        return float(np.count_nonzero(self.keep) / (len(self.keep) * (self.keys - self.first_key)))

    def last_queries(self, like: Any) -> Any:
        """Queries of the last tokens up to this one, a tensor of the type and on the device of `like`; [heads, at most 32, d]."""
        import torch

        return torch.from_numpy(self.new(self.so_far.q, max(0, self.keys - _JUDGED_QUERIES)).copy()).to(like.device, like.dtype)

    @property
    def name(self) -> str:
        return f"layer {self.so_far.layer}, token {self.keys - 1}"

    def new(self, operand: np.ndarray, first: int | None = None) -> np.ndarray:
        """Tokens of an operand of the layer from `first` to this one, by default this one alone; [heads, tokens, d]."""
        return operand[self.window, :, self.keys - 1 if first is None else first : self.keys]


@dataclass(frozen=True, slots=True, eq=False)
class Contender:
    """One kernel on one token."""

    operation: str  # DENSE, MASK or SPARSE
    backend: str
    dtype: str
    call: Callable[[], Any]  # tensor [heads, 1, d] of what attends; returns when it is done
    problem: AttentionProblem | None  # None: it attends to nothing, and was checked already

    @property
    def label(self) -> str:
        return f"{self.operation}, {self.backend}, {self.dtype}"


class Decoder(Protocol):
    """A device that decodes a layer token by token."""

    device: str

    def begin(self, layer: LayerTrace, window: int, prefill_tokens: int) -> None:
        """Fill an empty cache with the first tokens of a window; `layer` holds the maxima of its prefill."""

    def contenders(self, token: Token) -> list[Contender]:
        """Everything that can serve the next token, whose key and value join the cache.

        Raises:
            XmsimError: a kernel keeps other keys than the method.
        """


def torch_contender(
    token: Token, q: Any, k: Any, v: Any, kernel: DenseDecodeKernel | None, before: Callable[[], object]
) -> tuple[Contender, DenseDecodeKernel]:
    """Dense attention by torch on the keys that the token sees; without a kernel, by the fastest of a trial."""
    import torch

    bias = position_bias(token.so_far, token.window)
    given: dict[str, Any] = {"scale": token.so_far.scale, "bias": None if bias is None else torch.from_numpy(bias).to(q.device)}
    k, v = k[:, token.first_key :], v[:, token.first_key :]
    kernel = kernel or fastest_dense_decode(q, k, v, **given, before=before)
    call = DenseDecode(q, k, v, kernel, **given)
    rounding = max(torch.finfo(call.q.dtype).eps, _TORCH_EXPONENTIALS)
    keep, more_q = np.ones((1, 1, 1), bool), token.last_queries(call.q)
    problem = AttentionProblem(call.q, call.k, call.v, keep, token.so_far.scale, bias, rounding, more_q)
    return Contender(DENSE, kernel.name, kernel.dtype, call, problem), kernel


def check_words(words: np.ndarray, token: Token, kernel: str, *, rounding: float = 0.0) -> np.ndarray:
    """A prediction's words, [heads or KV heads, 1, words], as a mask of every head that `check_mask` has seen."""
    assert token.keep is not None
    found = unpacked(words, token.keys)
    found = found.repeat(len(token.keep) // len(found), axis=0)
    check_mask(found, token.keep, kernel, rounding=rounding)
    return found
