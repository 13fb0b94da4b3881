"""Attaching through transformers' attention interface, where attention and the builder of its masks are chosen by name."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any
from weakref import WeakKeyDictionary

from xmsim.workloads.attachment.layers import AttachedLayers
from xmsim.workloads.attachment.mask import build_mask
from xmsim.workloads.attachment.operands import Operands
from xmsim.workloads.extraction.capture_interface import UNRECORDED
from xmsim.workloads.models.loading import ModelError

NAME = "xmsim_attached"
# the layers that a module was last attached to: the function that transformers calls is one for all models
_LAYERS: WeakKeyDictionary[Any, AttachedLayers] = WeakKeyDictionary()


def attach_through_interface(model: Any, layers: AttachedLayers, undo: ExitStack) -> None:
    """Have `layers` compute the model's attention, until `undo` is closed.

    Raises:
        ModelError: the family does not use the interface.
    """
    from transformers import AttentionInterface

    if not model._can_set_attn_implementation():  # setting it would log a warning and do nothing
        raise layers.refuse("it does not use transformers' attention interface")
    register_mask()
    AttentionInterface.register(NAME, _attention)
    undo.callback(model.set_attn_implementation, model.config._attn_implementation)
    model.set_attn_implementation(NAME)
    _LAYERS.update(dict.fromkeys(model.modules(), layers))


def register_mask() -> None:
    """Make our masks known under NAME: an attention without a mask builder of its name is given no masks at all."""
    from transformers import AttentionMaskInterface

    AttentionMaskInterface.register(NAME, build_mask)


def _attention(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    **keywords: Any,
) -> tuple[Any, None]:
    """Attention as transformers calls it. There are no probabilities to return: they exist a block at a time."""
    layers = _LAYERS.get(module)
    if layers is None:
        raise ModelError("this model was copied while a method was attached to the original; detach it before copying")
    for name, cause in UNRECORDED.items():
        if keywords.get(name) is not None:
            raise layers.refuse(f"it changes its scores through {cause}")
    operands = Operands(query, key, value, query.shape[-1] ** -0.5 if scaling is None else scaling, dropout=dropout)
    causal = getattr(module, "is_causal", False) if is_causal is None else is_causal
    return layers.attend(module, operands, attention_mask, causal=causal), None
