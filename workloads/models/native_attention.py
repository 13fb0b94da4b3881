"""A model whose decoding runs on our dense attention kernel; the prefill, and whatever has a mask, stays on torch's."""

from __future__ import annotations

from typing import Any

from xmsim.reference.kernels import native
from xmsim.workloads.extraction.capture_interface import UNRECORDED
from xmsim.workloads.models.loading import ModelError

NAME = "native"
_REGISTERED_NAME = "xmsim_native"


def use_native_attention(model: Any) -> None:
    """Have one query a sequence be answered by our kernel.

    Raises:
        ModelError: the family does not use transformers' attention interface, or the kernels are not compiled here.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    if native.library() is None:
        raise ModelError("attention native: the kernels are not compiled on this host; choose sdpa")
    if not model._can_set_attn_implementation():
        raise ModelError(f"attention native: {model.config.model_type} does not use transformers' attention interface; choose sdpa")
    AttentionInterface.register(_REGISTERED_NAME, _attention)
    AttentionMaskInterface.register(_REGISTERED_NAME, sdpa_mask)
    model.set_attn_implementation(_REGISTERED_NAME)


def _attention(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    dropout: float = 0.0,
    scaling: float | None = None,
    **keywords: Any,
) -> tuple[Any, None]:
    """Attention as transformers calls it."""
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    from xmsim.reference.kernels.attention import causal_attention

    for name, cause in UNRECORDED.items():
        if keywords.get(name) is not None:  # torch's attention would leave it out as well
            raise ModelError(f"attention native: {module.config.model_type} changes its scores through {cause}; choose eager")
    one_query = query.shape[2] == 1 and query.device.type == "cpu" and not query.requires_grad
    if not one_query or dropout or _forbids_something(attention_mask):
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **keywords)
    rows = [causal_attention(*operands, scale=scaling) for operands in zip(query, key, value, strict=True)]  # [heads, 1, d] each
    return torch.stack(rows).transpose(1, 2), None


def _forbids_something(mask: Any) -> bool:
    import torch

    return mask is not None and (mask.dtype != torch.bool or not bool(mask.all()))
