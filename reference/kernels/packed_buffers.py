"""Modules that hold packed weights as buffers: moved, copied, saved and loaded like any module, and never out of step with their sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
import torch

from xmsim.reference.kernels.native import huge_empty

FORMAT_VERSION = 1  # of the buffers in a state dict
_PACKED_AS = "packed_as"  # version, out_features, in_features: the parts alone do not tell sizes within a tile


class PackedBuffers(torch.nn.Module):
    """What a layer on packed weights has in common with others, whatever the weights are packed as."""

    in_features: int
    out_features: int
    bias: torch.nn.Parameter | None
    values: torch.Tensor

    def _part_names(self) -> tuple[str, ...]:
        """Names of the buffers that the weights are in; `values` is one."""
        raise NotImplementedError

    def _replace_parts(self, parts: Mapping[str, torch.Tensor]) -> None:
        """Take these in the place of the buffers, once they have been looked at.

        Raises:
            TypeError, ValueError: they do not fit each other or the layer; nothing is changed.
        """
        raise NotImplementedError

    def _say_sizes(self) -> None:
        self.register_buffer(_PACKED_AS, torch.tensor([FORMAT_VERSION, self.out_features, self.in_features]))

    def _apply_to_bias(self, fn: Callable[[torch.Tensor], torch.Tensor]) -> Self:
        """All that Module.to and its kin may change here: packed weights stay as and where they are."""
        if self.bias is not None:
            with torch.no_grad():
                self.bias.data = fn(self.bias.data)
        return self

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        metadata: Any,
        strict: bool,
        missing: list[str],
        unexpected: list[str],
        errors: list[str],
    ) -> None:
        """Packed parts are as long as there are nonzeros, so they replace what is here, once they have been looked at."""
        expected = [_PACKED_AS, *self._part_names()]
        given = {name: state_dict[prefix + name] for name in expected if prefix + name in state_dict}
        rest = {key: value for key, value in state_dict.items() if key.startswith(prefix) and key[len(prefix) :] not in given}
        missing_here: list[str] = []
        super()._load_from_state_dict(rest, prefix, metadata, strict, missing_here, unexpected, errors)
        missing.extend(key for key in missing_here if key[len(prefix) :] not in given)
        if len(given) < len(expected):
            return
        version, *sizes = given.pop(_PACKED_AS).tolist()
        if version != FORMAT_VERSION:
            errors.append(
                f"{prefix}{_PACKED_AS}: version {version}, this xmsim reads {FORMAT_VERSION}; pack the model again, from dense weights"
            )
            return
        if sizes != [self.out_features, self.in_features]:
            errors.append(f"{prefix}{_PACKED_AS}: {sizes} outputs and inputs into a layer of {self.out_features} and {self.in_features}")
            return
        if given["values"].dtype != self.values.dtype:
            errors.append(f"{prefix}values: {given['values'].dtype} into a layer of {self.values.dtype}; make the layer with that dtype")
            return
        try:
            self._replace_parts(given)
        except (TypeError, ValueError) as wrong:
            errors.append(f"{prefix}{wrong}")


def own_copy(part: torch.Tensor) -> torch.Tensor:
    """A copy in memory of ours, in huge pages if it is large."""
    copy = torch.from_numpy(huge_empty((part.numel() * part.element_size(),), np.uint8)).view(part.dtype).view(part.shape)
    return copy.copy_(part)
