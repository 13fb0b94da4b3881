"""Linear layers that hold packed weights: what stands in a model where nn.Linear stood."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

import torch

from xmsim.reference.formats import DenseTiles, SparseBitmap
from xmsim.reference.formats.tile_order import Element
from xmsim.reference.kernels.linear import Packed
from xmsim.reference.kernels.linear_ops import PackedTensors, packed_linear, packed_of, tensors_of
from xmsim.reference.kernels.packed_buffers import PackedBuffers, own_copy

_PARTS = PackedTensors._fields[:5]


class PackedLinear(PackedBuffers):
    """y = x wᵀ + b for inference: gradients reach x and the bias, never the weights."""

    _form: ClassVar[type[DenseTiles] | type[SparseBitmap]]
    _element: ClassVar[Element | None] = None  # None: that of the given weights

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, device: Any = None, dtype: torch.dtype | None = None
    ) -> None:
        """As nn.Linear, whose initial weights it packs; usually from_linear is what you want.

        Args:
            device: the CPU, where these kernels run.
            dtype: of x, y and the bias: torch.float32, torch.bfloat16 or torch.float16.
        """
        super().__init__()
        linear = torch.nn.Linear(in_features, out_features, bias, device=device, dtype=dtype)
        self._take(linear.weight, linear.bias)

    @classmethod
    def from_linear(cls, linear: torch.nn.Linear) -> Self:
        """Pack the weights of a layer; its bias is shared.

        Raises:
            TypeError, ValueError: the weights are not float32, bfloat16 or float16 on the CPU, or have a NaN.
        """
        return cls.from_weight(linear.weight, linear.bias)

    @classmethod
    def from_weight(cls, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Self:
        """Pack a matrix [out_features, in_features]; bias: [out_features]. Errors are those of from_linear."""
        module = cls.__new__(cls)
        torch.nn.Module.__init__(module)
        module._take(weight, bias)
        return module

    @classmethod
    def from_packed(cls, packed: Packed, bias: torch.Tensor | None = None) -> Self:
        """Take weights that are packed already, copied to where kernels read them best; bias: [out_features].

        Raises:
            TypeError: packed in another form than this layer's.
        """
        if not isinstance(packed, cls._form) or (packed.order.element == "int8") != (cls._element == "int8"):
            raise TypeError(f"packed: {type(packed).__name__} of {packed.order.element} is not what {cls.__name__} reads")
        module = cls.__new__(cls)
        torch.nn.Module.__init__(module)
        tensors = tensors_of(packed)
        module._take_packed(
            tensors._replace(**{name: own_copy(part) for name in _PARTS if (part := getattr(tensors, name)) is not None}), bias
        )
        return module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return packed_linear(x, self._tensors(), self.bias)

    def to_dense(self) -> torch.Tensor:
        """The weights as a matrix [out_features, in_features]; of int8 what they stand for, as float32."""
        return self.packed().to_dense()

    def packed(self) -> Packed:
        """The weights in their format, in the same memory."""
        return packed_of(self._tensors())

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weights."""
        return self.packed().nbytes

    def extra_repr(self) -> str:
        kept = self.values.numel() - 64 // self.values.element_size() if self.bitmap is not None else self.out_features * self.in_features
        sparsity = 1 - kept / (self.out_features * self.in_features)
        names = f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        return f"{names}, dtype={self.values.dtype}, sparsity={sparsity:.3f}"

    def _take(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._take_packed(tensors_of(self._form.from_dense(weight, dtype=self._element)), bias)

    def _take_packed(self, tensors: PackedTensors, bias: torch.Tensor | None) -> None:
        self._hold(tensors)
        self._say_sizes()
        if bias is not None and not isinstance(bias, torch.nn.Parameter):
            bias = torch.nn.Parameter(bias)
        self.register_parameter("bias", bias)

    def _hold(self, tensors: PackedTensors) -> None:
        self.out_features, self.in_features = tensors.out_features, tensors.in_features
        for name in _PARTS:
            self.register_buffer(name, getattr(tensors, name))

    def _tensors(self) -> PackedTensors:
        parts = self._buffers  # attributes of a module are found slowly, and this is asked for every token
        bitmap, values, offsets, scales, column_sums = (parts[name] for name in _PARTS)
        return PackedTensors(bitmap, values, offsets, scales, column_sums, self.out_features, self.in_features)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """Module.to and its kin: the bias may change its type, packed weights stay as and where they are."""
        stands_for = self.values.dtype if self.values.is_floating_point() else torch.float32
        moved = fn(torch.empty(0, dtype=stands_for))
        if moved.device.type != "cpu":
            raise ValueError(
                f"{type(self).__name__}: packed weights are read on the CPU; move the model to {moved.device} before it is packed"
            )
        if self.values.is_floating_point() and moved.dtype != stands_for:
            raise TypeError(
                f"{type(self).__name__}: weights packed as {stands_for} stay that; convert to {moved.dtype} before they are packed"
            )
        return self._apply_to_bias(fn)

    def _part_names(self) -> tuple[str, ...]:
        return tuple(name for name in _PARTS if getattr(self, name) is not None)

    def _replace_parts(self, parts: Mapping[str, torch.Tensor]) -> None:
        loaded = self._tensors()._replace(**{name: own_copy(part) for name, part in parts.items()})
        packed_of(loaded)
        self._hold(loaded)


class DenseLinear(PackedLinear):
    """All weights, in the kernels' order: what the sparse layers are compared with."""

    _form = DenseTiles


class SparseLinear(PackedLinear):
    """Weights as bitmap and values (SparseBitmap), in the type they had."""

    _form = SparseBitmap


class Int8SparseLinear(PackedLinear):
    """Weights as bitmap and int8 values with a scale for each output; each token is quantised when it comes."""

    _form = SparseBitmap
    _element = "int8"
