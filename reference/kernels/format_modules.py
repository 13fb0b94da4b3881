"""Layers on weights in published formats: what stands in a model where nn.Linear stood."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, ClassVar, Self

import numpy as np
import torch

from xmsim.reference.activations.keep import sparsified, threshold_keep
from xmsim.reference.formats.column_bitmap import ColumnBitmap
from xmsim.reference.formats.tca_bme import TcaBme
from xmsim.reference.formats.two_four import TwoFour
from xmsim.reference.kernels.format_kernels import PublishedFormat, addresses_of, format_linear, in_huge_pages, sparse_vector_linear
from xmsim.reference.kernels.linear_ops import run_tensors
from xmsim.reference.kernels.packed_buffers import PackedBuffers, own_copy

_Parts = dict[str, type[np.generic] | None]  # {name of a part: what it holds; None: weights}


class FormatLinear(PackedBuffers):
    """y = x wᵀ + b for inference, from weights [out_features, in_features] in their format.

    Gradients reach x and the bias through the whole matrix, unpacked for the occasion. torch.compile leaves the layer to Python.
    """

    form: ClassVar[type[PublishedFormat]]
    _parts: ClassVar[_Parts]

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
        self._hold(in_huge_pages(packed))
        self._say_sizes()
        if bias is not None and not isinstance(bias, torch.nn.Parameter):
            bias = torch.nn.Parameter(bias, requires_grad=False)
        self.register_parameter("bias", bias)

    def _hold(self, packed: PublishedFormat) -> None:
        self.out_features, self.in_features = packed.shape
        self._element = packed.element
        for name, kind in self._parts.items():
            self.register_buffer(name, _tensor_of(getattr(packed, name), packed.element if kind is None else None))
        self._packed, self._packed_from = packed, self._state()
        self._addresses = addresses_of(packed)

    def _part_names(self) -> tuple[str, ...]:
        return tuple(self._parts)

    def _replace_parts(self, parts: Mapping[str, torch.Tensor]) -> None:
        self._hold(self._built({name: own_copy(part) for name, part in parts.items()}))

    def _built(self, parts: Mapping[str, torch.Tensor]) -> PublishedFormat:
        arrays: Any = {name: _array_of(name, parts[name], kind) for name, kind in self._parts.items()}
        return self.form(shape=(self.out_features, self.in_features), element=self._element, as_tensor=True, **arrays)

    def _state(self) -> tuple[tuple[int, int], ...]:
        """What differs if a buffer was exchanged or written to; a tensor made in inference mode counts no changes."""
        parts = (self._buffers[name] for name in self._parts)
        return tuple((part.data_ptr(), 0 if part.is_inference() else part._version) for part in parts if part is not None)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_packed": None, "_packed_from": None}  # a copy makes its own, of its own buffers

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.compiler.is_compiling():
            return self._outside_graphs(x)
        profiled = torch.autograd._profiler_enabled()
        with torch.profiler.record_function(f"xmsim::{type(self).__name__}") if profiled else nullcontext():
            return self.product(x)

    @torch.compiler.disable
    def _outside_graphs(self, x: torch.Tensor) -> torch.Tensor:
        return self.product(x)

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """x wᵀ + b, of all inputs."""
        if self._on_kernels(x):
            packed = self.packed()
            return run_tensors(x, self._addresses, self.bias, lambda: format_linear(x, packed, self.bias))
        return torch.nn.functional.linear(x, self.to_dense().to(x.dtype), self.bias)

    def _on_kernels(self, x: torch.Tensor) -> bool:
        """Not where a gradient is asked for, nor for x of another format."""
        wanted = x.requires_grad or (self.bias is not None and self.bias.requires_grad)
        return str(x.dtype) == f"torch.{self._element}" and not (torch.is_grad_enabled() and wanted)

    def to_dense(self) -> torch.Tensor:
        """The weights as a matrix [out_features, in_features]."""
        dense = self.packed().to_dense()
        return dense if isinstance(dense, torch.Tensor) else torch.from_numpy(dense)

    def packed(self) -> PublishedFormat:
        """The weights in their format, in the same memory.

        Raises:
            ValueError: the buffers were written to, and do not fit each other.
        """
        if self._packed is None or self._packed_from != self._state():
            self._packed = self._built({name: getattr(self, name) for name in self._parts})
            self._packed_from, self._addresses = self._state(), addresses_of(self._packed)
        return self._packed

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weights."""
        return self.packed().nbytes

    def extra_repr(self) -> str:
        names = f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        return f"{names}, dtype={self._element}, bytes={self.nbytes}"

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """Module.to and its kin: the bias may change its type, packed weights stay as and where they are."""
        if (device := fn(torch.empty(0)).device).type != "cpu":
            raise ValueError(f"{type(self).__name__}: packed weights are read on the CPU; move the model to {device} before it is packed")
        return self._apply_to_bias(fn)


def _tensor_of(array: np.ndarray, element: str | None) -> torch.Tensor:
    """The same memory: of weights in their type, else unsigned integers of several bytes, which torch hardly knows, as bytes."""
    if element is not None:
        tensor = torch.from_numpy(array)
        return tensor.view(torch.bfloat16) if element == "bfloat16" else tensor
    return torch.from_numpy(array if array.dtype == np.int32 else array.view(np.uint8))


def _array_of(name: str, part: torch.Tensor, kind: type[np.generic] | None) -> np.ndarray:
    if part.device.type != "cpu":
        raise ValueError(f"{name}: packed weights are read on the CPU, this part is on {part.device}; move it there")
    plain = part.detach().contiguous()
    if kind is None:
        array: np.ndarray = (plain.view(torch.uint16) if plain.dtype == torch.bfloat16 else plain).numpy()
        return array
    if plain.dtype != (torch.int32 if kind is np.int32 else torch.uint8):
        raise TypeError(f"{name}: {plain.dtype} holds no {kind.__name__}; these weights are damaged, pack them again")
    return plain.numpy().view(kind)


class TcaBmeLinear(FormatLinear):
    """Weights in TCA-BME, SpInfer's tiles of 8 × 8 bitmaps."""

    form = TcaBme
    _parts: ClassVar[_Parts] = {"values": None, "bitmap": np.uint64, "group_offsets": np.int32, "stripe_offsets": np.int32}


class TwoFourLinear(FormatLinear):
    """2:4 weights: two of each four neighbours along in_features, and where they are."""

    form = TwoFour
    _parts: ClassVar[_Parts] = {"values": None, "places": np.uint8}


class SpdpLinear(FormatLinear):
    """Weights as a bitmap by columns, which serve prefill and decode (SPDP).

    Where one token of each sequence comes (decode), inputs of a magnitude at or below `threshold` count as zero, and their columns' values
    are not read. Where more come (prefill), no input is left out, as in SPDP.
    """

    form = ColumnBitmap
    _parts: ClassVar[_Parts] = {"values": None, "bitmap": np.uint64, "group_offsets": np.int32, "column_offsets": np.uint16}
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
        packed = self.packed()
        assert isinstance(packed, ColumnBitmap)
        y: torch.Tensor = sparse_vector_linear(x, packed, self.bias, threshold=threshold)
        return y

    def extra_repr(self) -> str:
        shown = "by input" if isinstance(self.threshold, torch.Tensor) else f"{self.threshold:g}"
        return f"{super().extra_repr()}, threshold={shown}"
