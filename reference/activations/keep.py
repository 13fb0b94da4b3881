"""Which inputs of a linear layer take part: masks of activations, True where an input is kept.

Inputs are [..., tokens, channels]; NumPy arrays or torch tensors in, the same kind out.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from xmsim.reference.attention import topk_keep
from xmsim.reference.attention.arrays import is_tensor


def threshold_keep(x: Any, *, threshold: Any) -> Any:
    """Keep the inputs whose magnitude is above the threshold, and NaN, so that it stays visible.

    Args:
        x: float [..., channels].
        threshold: 0 or more, or float [channels], one for each channel; each token keeps as many inputs as are above it.
    Returns: bool like x.
    Raises: ValueError: threshold is NaN.
    Source: TEAL (arXiv 2408.14690). A negative threshold, which a skewed histogram gives, keeps everything, as published.
    """
    if has_nan(threshold):
        raise ValueError("threshold: is NaN; take it from a histogram")
    return ~(abs(x) <= threshold)


def has_nan(threshold: Any) -> bool:
    """Whether a threshold, or one of those of the channels, is not a number."""
    differs = threshold != threshold  # as NaN alone does from itself
    return bool(differs.any()) if hasattr(differs, "any") else bool(differs)


def token_share_keep(x: Any, *, sparsity: float) -> Any:
    """Keep the same number of inputs for every token, those of the largest magnitude; of equal ones the lowest channel first.

    Args:
        x: float [..., tokens, channels].
        sparsity: share that is dropped, at least 0 and below 1; floor(sparsity × channels) inputs go.
    Returns: bool like x.
    Raises: ValueError naming the argument: sparsity out of its range; x of the wrong rank or number format, with NaN or infinity.
    Source: the selection of WINA (arXiv 2505.19427), fixed work for each token.
    """
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity: {sparsity} is not a share; choose at least 0 and less than 1")
    channels = x.shape[-1]
    return topk_keep(abs(x), kept=channels - int(sparsity * channels))


def wina_column_norms(weight: Any) -> Any:
    """The L2 norm of each column of a weight matrix [out_features, in_features]: how much an input counts. float32 [in_features]."""
    if weight.ndim != 2:
        raise ValueError(f"weight: shape {tuple(weight.shape)} is not [out_features, in_features]")
    if is_tensor(weight):
        return weight.detach().float().norm(dim=0)
    return np.linalg.norm(weight.astype(np.float32), axis=0)


def wina_scores(x: Any, column_norms: Any) -> Any:
    """Inputs times the norms of their columns, sign and all: histograms, thresholds and masks are made of these as of inputs.

    Args:
        x: float [..., in_features].
        column_norms: [in_features], of wina_column_norms.
    Raises: ValueError: the sizes differ.
    Source: WINA (arXiv 2505.19427), the score |x_j| · ||W_:j||, an extension of TEAL; without its orthogonal transform.
    """
    if x.shape[-1:] != column_norms.shape:
        raise ValueError(f"column_norms: shape {tuple(column_norms.shape)} does not fit inputs {tuple(x.shape)}")
    return x * column_norms


def wina_thresholds(threshold: float, column_norms: Any) -> Any:
    """The magnitude of each input at which its score reaches a threshold of scores: inputs above it are those of larger scores.

    An input whose column is all zero has no effect, and is below any threshold.

    Args:
        threshold: of `wina_scores`, from a histogram of them.
        column_norms: float [in_features], of wina_column_norms.
    Returns: float like column_norms.
    """
    dead = column_norms == 0
    if is_tensor(column_norms):
        return (threshold / column_norms.masked_fill(dead, 1)).masked_fill(dead, float("inf"))
    return np.where(dead, np.inf, threshold / np.where(dead, 1, column_norms)).astype(column_norms.dtype)


def keep_first_half(keep: Any) -> Any:
    """Keep everything of the first ceil(tokens / 2) tokens, which hold the attention sinks; a single token (decode) stays as it is.

    What becomes of a token depends on how many follow, so perplexity measured with this flatters: a model that decodes has no such half.

    Args:
        keep: bool [..., tokens, channels].
    Source: as published, FasterDecoding/TEAL at 5baaec8, utils/utils.py, SparsifyFn.
    """
    tokens = _tokens(keep)
    return keep if tokens == 1 else _with_first(keep, tokens - tokens // 2)


def keep_first_tokens(keep: Any, *, dense_tokens: int, first_position: int = 0) -> Any:
    """Keep everything of the first tokens of the sequence: the corrected variant, the same whether tokens come at once or one by one. Ours.

    Args:
        keep: bool [..., tokens, channels].
        dense_tokens: tokens at the start of the sequence that stay dense, the attention sinks; 0 or more.
        first_position: place in the sequence of the first token of `keep`; tokens in the cache when decoding.
    Raises: ValueError naming the argument: a negative number.
    """
    for name, number in (("dense_tokens", dense_tokens), ("first_position", first_position)):
        if number < 0:
            raise ValueError(f"{name}: {number} is negative; choose 0 or more")
    return _with_first(keep, min(_tokens(keep), max(0, dense_tokens - first_position)))


def sparsified(x: Any, keep: Any) -> Any:
    """The inputs that are kept, and zeros."""
    if tuple(x.shape) != tuple(keep.shape):
        raise ValueError(f"keep: shape {tuple(keep.shape)} is not that of the inputs, {tuple(x.shape)}")
    if is_tensor(x):
        return x.masked_fill(~keep, 0)
    return np.where(keep, x, x.dtype.type(0))


def _tokens(keep: Any) -> int:
    if keep.ndim < 2:
        raise ValueError(f"keep: shape {tuple(keep.shape)} is not [..., tokens, channels]")
    return int(keep.shape[-2])


def _with_first(keep: Any, tokens: int) -> Any:
    dense = keep.clone() if is_tensor(keep) else keep.copy()
    dense[..., :tokens, :] = True
    return dense
