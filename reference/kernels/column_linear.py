"""A linear layer from a bitmap by columns (SPDP): where one token comes, columns whose input is small are not read. Any CPU, by numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch

from xmsim.reference.activations.keep import sparsified, threshold_keep
from xmsim.reference.activations.spmspv import spmspv
from xmsim.reference.formats.column_bitmap import ColumnBitmap


class SpdpLinear(torch.nn.Module):
    """y = x wᵀ + b for inference, from weights [out_features, in_features] that are stored once for prefill and decode.

    Where one token of each sequence comes (decode), inputs of a magnitude at or below `threshold` count as zero, and their columns' values
    are not read. Where more come (prefill), the weights are unpacked and multiplied whole, with no input left out, as SPDP does.
    """

    def __init__(self, packed: ColumnBitmap, bias: torch.Tensor | None = None, *, threshold: float = 0.0) -> None:
        """Args:
        packed: of float32, bfloat16 or float16; x may have another format, sums are in float32.
        bias: [out_features], shared.
        threshold: of TEAL; 0 skips zeros alone.
        """
        super().__init__()
        self._packed = packed
        self.out_features, self.in_features = packed.shape
        self.threshold = threshold
        if bias is not None and not isinstance(bias, torch.nn.Parameter):
            bias = torch.nn.Parameter(bias, requires_grad=False)
        self.register_parameter("bias", bias)

    @classmethod
    def from_linear(cls, linear: torch.nn.Linear) -> Self:
        """Pack the weights of a layer on the CPU; its bias is shared.

        Raises:
            ValueError: a number format that is not stored, or a NaN.
        """
        return cls(ColumnBitmap.from_dense(linear.weight.detach()), linear.bias)

    @classmethod
    def from_packed(cls, packed: ColumnBitmap, bias: torch.Tensor | None = None) -> Self:
        """Take weights that are packed already; bias: [out_features], shared."""
        return cls(packed, bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dim() > 1 and x.shape[-2] > 1:
            return torch.nn.functional.linear(x, self.to_dense().to(x.dtype), self.bias)
        x = x.detach()
        y: torch.Tensor = spmspv(self._packed, sparsified(x, threshold_keep(x, threshold=self.threshold)))
        return y if self.bias is None else y + self.bias

    def to_dense(self) -> torch.Tensor:
        """The weights as a matrix [out_features, in_features]."""
        dense = self._packed.to_dense()
        return dense if isinstance(dense, torch.Tensor) else torch.from_numpy(dense)

    def packed(self) -> ColumnBitmap:
        """The weights in their format, in the same memory."""
        return self._packed

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weights."""
        return self._packed.nbytes

    def extra_repr(self) -> str:
        sparsity = 1 - self._packed.nonzeros / (self.out_features * self.in_features)
        names = f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        return f"{names}, dtype={self._packed.element}, sparsity={sparsity:.3f}, threshold={self.threshold:g}"

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """Module.to and its kin: the bias may change its type, packed weights stay as and where they are."""
        if (device := fn(torch.empty(0)).device).type != "cpu":
            raise ValueError(f"SpdpLinear: packed weights are read on the CPU; move the model to {device} before it is packed")
        return super()._apply(fn, recurse)
