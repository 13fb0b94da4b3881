"""A method on all attention layers of one model."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from xmsim.workloads.attachment.layer import AttachedLayer
from xmsim.workloads.attachment.mask import AttachedMask, full_mask, given_mask
from xmsim.workloads.attachment.operands import Operands
from xmsim.workloads.extraction.captured import VERIFIED, layers_seen
from xmsim.workloads.methods.library import Method
from xmsim.workloads.models.loading import ModelError


class AttachedLayers:
    """The attention layers of a model, in the order in which they first run."""

    def __init__(self, config: Any, method: Method) -> None:
        self._family = config.model_type
        self._config = config.get_text_config()  # where a model reads more than text, that is the part of it that decodes
        self._method = method
        self.seen: list[AttachedLayer] = []  # those that have run
        self._of_module: WeakKeyDictionary[Any, AttachedLayer] = WeakKeyDictionary()  # the model is not ours to keep alive

    def attend(self, module: Any, operands: Operands, mask: Any, *, causal: bool) -> Any:
        """What the attention module computes from its operands, [windows, queries, heads, head_dim].

        Args:
            mask: what the module was given: ours, a tensor, or None.
            causal: whether the module hides the future by itself where it is given no mask.
        Raises:
            ModelError: the mask is none that can be followed.
        """
        if module not in self._of_module:
            self._of_module[module] = AttachedLayer(len(self.seen), self._method)
            self.seen.append(self._of_module[module])
        windows, queries, keys = operands.q.shape[0], operands.q.shape[2], operands.k.shape[2]
        if mask is None and causal:
            raise self.refuse("an attention layer is causal and was given no mask")
        if mask is None:
            mask = full_mask(windows, queries, keys, operands.q.device)
        elif not isinstance(mask, AttachedMask):
            mask = given_mask(mask, windows)
        if (mask.queries, mask.keys) != (queries, keys):
            raise self.refuse(f"a mask of {mask.queries} × {mask.keys} pairs was given to {queries} queries and {keys} keys")
        return self._of_module[module].attend(operands, mask)

    def check_all_seen(self) -> None:
        """After a forward pass.

        Raises:
            ModelError: not every layer of the model has run under the method.
        """
        if len(self.seen) != self._config.num_hidden_layers:
            raise self.refuse(layers_seen(self._config, len(self.seen)))

    def refuse(self, reason: str) -> ModelError:
        """The error for a family whose attention cannot be replaced."""
        return ModelError(f"{self._family}: no method can be attached to this model family, {reason}; {VERIFIED}")
