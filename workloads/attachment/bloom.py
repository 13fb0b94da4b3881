"""Attaching to BLOOM, which keeps its own attention: each module's forward is replaced."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any

from xmsim.workloads.attachment.interface import NAME, register_mask
from xmsim.workloads.attachment.layers import AttachedLayers
from xmsim.workloads.attachment.operands import Operands


def attach_to_bloom(model: Any, layers: AttachedLayers, undo: ExitStack) -> None:
    """Have `layers` compute the attention of every BloomAttention, until `undo` is closed."""
    from transformers.models.bloom.modeling_bloom import BloomAttention

    register_mask()
    undo.callback(setattr, model.config, "_attn_implementation", model.config._attn_implementation)
    model.config._attn_implementation = NAME  # BLOOM asks it for masks only
    for module in model.modules():
        if isinstance(module, BloomAttention):
            own = vars(module).get("forward")  # set by whoever wrapped the module before
            undo.callback(*(delattr, module, "forward") if own is None else (setattr, module, "forward", own))
            module.forward = partial(_forward, module, layers)


def _forward(
    module: Any,
    layers: AttachedLayers,
    hidden_states: Any,
    residual: Any,
    alibi: Any,
    attention_mask: Any,
    layer_past: Any = None,
    **unused: Any,
) -> tuple[Any, None]:
    """BloomAttention.forward with another attention in its middle; no probabilities are returned."""
    from transformers.models.bloom.modeling_bloom import dropout_add

    q, k, v = module._reshape(module.query_key_value(hidden_states))
    if layer_past is not None:
        k, v = layer_past.update(k, v, module.layer_idx)
    operands = Operands(
        q,
        k,
        v,
        scale=module.inv_norm_factor,
        alibi=alibi.unflatten(0, q.shape[:2]),  # slope × key position; padding holds zeros
        dropout=module.attention_dropout.p if module.training else 0.0,
    )
    output = module.dense(layers.attend(module, operands, attention_mask, causal=True).flatten(2))
    return dropout_add(output, residual, module.hidden_dropout, module.training), None
