"""Layers on weights in published formats: what stands in a model where nn.Linear stood."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, ClassVar, Self

import torch

from xmsim.reference.activations.keep import sparsified, threshold_keep
from xmsim.reference.formats.column_bitmap import ColumnBitmap
from xmsim.reference.formats.tca_bme import TcaBme
from xmsim.reference.formats.two_four import TwoFour
from xmsim.reference.kernels.format_kernels import PublishedFormat, format_linear, in_huge_pages, sparse_vector_linear


class FormatLinear(torch.nn.Module):
    """y = x wᵀ + b for inference, from weights [out_features, in_features] in their format.

    Gradients reach x and the bias through the whole matrix, unpacked for the occasion. A state dict holds the bias alone: packed weights
    are kept by `xmsim convert`, or `reference.formats.write_format`.
    """

    form: ClassVar[type[PublishedFormat]]

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, device: Any = None, dtype: torch.dtype | None = None
    ) -> None:
        """As nn.Linear, whose initial weights it packs; usually from_dense or from_packed is what you want.

        Args:
            device: the CPU, where these kernels run.
            dtype: torch.float32, torch.bfloat16 or torch.float16.
        """
        super().__init__()
        linear = torch.nn.Linear(in_features, out_features, bias, device=device, dtype=dtype)
        self._take(self.form.from_dense(linear.weight.detach()), linear.bias)

    @classmethod
    def from_linear(cls, linear: torch.nn.Linear) -> Self:
        """Pack the weights of a layer on the CPU; its bias is shared.

        Raises:
            TypeError, ValueError: weights that the format does not hold, or a NaN.
        """
        return cls.from_dense(linear.weight, linear.bias)

    @classmethod
    def from_dense(cls, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Self:
        """Pack a matrix [out_features, in_features]; bias: [out_features]. Errors are those of from_linear."""
        return cls.from_packed(cls.form.from_dense(weight.detach()), bias)

    @classmethod
    def from_packed(cls, packed: PublishedFormat, bias: torch.Tensor | None = None) -> Self:
        """Take weights that are packed already, copied to where kernels read them best; bias: [out_features].

        Raises:
            TypeError: packed in another format than this layer's.
        """
        if not isinstance(packed, cls.form):
            raise TypeError(f"packed: {type(packed).__name__} is not what {cls.__name__} reads, which is {cls.form.__name__}")
        module = cls.__new__(cls)
        torch.nn.Module.__init__(module)
        module._take(packed, bias)
        return module

    def _take(self, packed: PublishedFormat, bias: torch.Tensor | None) -> None:
        self._packed = in_huge_pages(packed)
        self.out_features, self.in_features = packed.shape
        if bias is not None and not isinstance(bias, torch.nn.Parameter):
            bias = torch.nn.Parameter(bias, requires_grad=False)
        self.register_parameter("bias", bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        profiled = torch.autograd._profiler_enabled()
        with torch.profiler.record_function(f"xmsim::{type(self).__name__}") if profiled else nullcontext():
            return self.product(x)

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """x wᵀ + b, of all inputs."""
        if self._on_kernels(x):
            y: torch.Tensor = format_linear(x, self._packed, self.bias)
            return y
        return torch.nn.functional.linear(x, self.to_dense().to(x.dtype), self.bias)

    def _on_kernels(self, x: torch.Tensor) -> bool:
        """Not where a gradient is asked for, nor for x of another format."""
        wanted = x.requires_grad or (self.bias is not None and self.bias.requires_grad)
        return str(x.dtype) == f"torch.{self._packed.element}" and not (torch.is_grad_enabled() and wanted)

    def to_dense(self) -> torch.Tensor:
        """The weights as a matrix [out_features, in_features]."""
        dense = self._packed.to_dense()
        return dense if isinstance(dense, torch.Tensor) else torch.from_numpy(dense)

    def packed(self) -> PublishedFormat:
        """The weights in their format, in the same memory."""
        return self._packed

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weights."""
        return self._packed.nbytes

    def extra_repr(self) -> str:
        names = f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        return f"{names}, dtype={self._packed.element}, bytes={self.nbytes}"

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """Module.to and its kin: the bias may change its type, packed weights stay as and where they are."""
        if (device := fn(torch.empty(0)).device).type != "cpu":
            raise ValueError(f"{type(self).__name__}: packed weights are read on the CPU; move the model to {device} before it is packed")
        return super()._apply(fn, recurse)


class TcaBmeLinear(FormatLinear):
    """Weights in TCA-BME, SpInfer's tiles of 8 × 8 bitmaps."""

    form = TcaBme


class TwoFourLinear(FormatLinear):
    """2:4 weights: two of each four neighbours along in_features, and where they are."""

    form = TwoFour


class SpdpLinear(FormatLinear):
    """Weights as a bitmap by columns, which serve prefill and decode (SPDP).

    Where one token of each sequence comes (decode), inputs of a magnitude at or below `threshold` count as zero, and their columns' values
    are not read. Where more come (prefill), no input is left out, as in SPDP.
    """

    form = ColumnBitmap
    threshold: float | torch.Tensor = 0.0  # of TEAL; 0 skips zeros alone; a tensor [in_features] has one for each input

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """x wᵀ + b, in decode without the small inputs."""
        if x.dim() > 1 and x.shape[-2] > 1:
            return super().product(x)
        wanted = x.requires_grad or (self.bias is not None and self.bias.requires_grad)
        if torch.is_grad_enabled() and wanted:
            return super().product(sparsified(x, threshold_keep(x, threshold=self.threshold)))
        threshold = self.threshold
        if isinstance(threshold, torch.Tensor):
            x, threshold = sparsified(x, threshold_keep(x, threshold=threshold)), 0.0
        assert isinstance(self._packed, ColumnBitmap)
        y: torch.Tensor = sparse_vector_linear(x, self._packed, self.bias, threshold=threshold)
        return y

    def extra_repr(self) -> str:
        shown = "by input" if isinstance(self.threshold, torch.Tensor) else f"{self.threshold:g}"
        return f"{super().extra_repr()}, threshold={shown}"
