"""Linear layers for models on a GPU: what stands where nn.Linear stood, in bfloat16 or float16, for inference.

Decoding is the kernels'; products of many tokens are torch's, on weights that are unpacked for them part by part. Weights are buffers: they
move with `.to`, and a state dict holds them. They are packed where they lie, which may be the CPU; there they cannot be multiplied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, ClassVar, Self, cast

import torch

from xmsim.reference.kernels.cuda import linear, ops
from xmsim.reference.kernels.cuda.unpack import unpacked
from xmsim.reference.kernels.cuda.weight_checks import check_column_bitmap, check_tca_bme
from xmsim.reference.kernels.cuda.weights import ELEMENTS, GpuColumnBitmap, GpuTcaBme
from xmsim.reference.kernels.packed_buffers import PackedBuffers

_STEP = 8  # numbers of 16 bytes: inputs of a layer come in so many


class GpuLinear(PackedBuffers):
    """y = x wᵀ + b. Gradients reach x and the bias through the whole matrix, never the weights."""

    parts: ClassVar[tuple[str, ...]]  # names of the buffers; values is one
    form: ClassVar[type[GpuTcaBme] | type[GpuColumnBitmap] | None] = None  # what holds them outside of a layer

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, device: Any = None, dtype: torch.dtype | None = None
    ) -> None:
        """As nn.Linear, whose initial weights it packs; usually from_linear is what you want."""
        super().__init__()
        plain = torch.nn.Linear(in_features, out_features, bias, device=device, dtype=torch.bfloat16 if dtype is None else dtype)
        self._pack(plain.weight.detach(), plain.bias)

    @classmethod
    def from_linear(cls, layer: torch.nn.Linear) -> Self:
        """Pack the weights of a layer where they lie; its bias is shared.

        Raises:
            ValueError: weights that are neither bfloat16 nor float16, take inputs that are no multiple of 8, or are not what the format
                holds.
        """
        module = cls._empty()
        module._pack(layer.weight.detach(), layer.bias)
        return module

    @classmethod
    def from_packed(cls, packed: GpuTcaBme | GpuColumnBitmap, bias: torch.Tensor | None = None) -> Self:
        """Take weights that are packed already, in the same memory; bias: [out_features].

        Raises:
            TypeError: packed in another format than this layer's.
            ValueError: they do not fit together.
        """
        if cls.form is None or not isinstance(packed, cls.form):
            raise TypeError(f"packed: {type(packed).__name__} is not what {cls.__name__} reads")
        module = cls._empty()
        module._take(packed.shape, cls._parts_of(packed), bias)
        module._check_parts()
        return module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wanted = x.requires_grad or (self.bias is not None and self.bias.requires_grad)
        if torch.is_grad_enabled() and wanted:
            return torch.nn.functional.linear(self._kept(x), self.to_dense(), self.bias)
        return self._product(x)

    def _product(self, x: torch.Tensor) -> torch.Tensor:
        """x wᵀ + b without a gradient."""
        raise NotImplementedError

    def to_dense(self) -> torch.Tensor:
        """The weights as a matrix [out_features, in_features], on a GPU."""
        raise NotImplementedError

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weights."""
        return sum(part.nbytes for part in self._held())

    def extra_repr(self) -> str:
        names = f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        return f"{names}, dtype={self.dtype}, bytes={self.nbytes}"

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, and so of x, y and the bias."""
        return self.values.dtype

    @classmethod
    def _empty(cls) -> Self:
        module = cls.__new__(cls)
        torch.nn.Module.__init__(module)
        return module

    def _pack(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        if weight.dim() != 2 or weight.dtype not in ELEMENTS:
            raise ValueError(f"weight: {weight.dtype} {list(weight.shape)}; a GPU's layers are matrices of bfloat16 or float16")
        if weight.shape[1] % _STEP:
            raise ValueError(f"weight: {weight.shape[1]} inputs; a multiple of {_STEP} is needed, fill up with zeros")
        self._take(tuple(weight.shape), self._packed_parts(weight), bias)

    @classmethod
    def _packed_parts(cls, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The buffers of a matrix."""
        assert cls.form is not None
        return cls._parts_of(cls.form.from_dense(weight))

    @classmethod
    def _parts_of(cls, packed: GpuTcaBme | GpuColumnBitmap) -> tuple[torch.Tensor, ...]:
        return tuple(getattr(packed, name) for name in cls.parts)

    def _take(self, shape: tuple[int, ...], parts: tuple[torch.Tensor, ...], bias: torch.Tensor | None) -> None:
        self.out_features, self.in_features = shape
        self._hold(parts)
        self._say_sizes()
        if bias is not None and not isinstance(bias, torch.nn.Parameter):
            bias = torch.nn.Parameter(bias, requires_grad=False)
        self.register_parameter("bias", bias)

    def _hold(self, parts: tuple[torch.Tensor, ...]) -> None:
        for name, part in zip(self.parts, parts, strict=True):
            self.register_buffer(name, part)

    def _held(self) -> tuple[torch.Tensor, ...]:
        return tuple(cast(torch.Tensor, self._buffers[name]) for name in self.parts)  # attributes of a module are found slowly

    def _check_parts(self) -> None:
        """Raise ValueError where the buffers do not fit each other."""

    def _kept(self, x: torch.Tensor) -> torch.Tensor:
        """The inputs that take part."""
        return x

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """Module.to and its kin: between devices, and between the two types of 16 bits."""
        if (dtype := fn(torch.empty(0, dtype=self.dtype)).dtype) not in ELEMENTS:
            raise TypeError(f"{type(self).__name__}: packed weights stay bfloat16 or float16, {dtype} is asked for; convert before packing")
        return super()._apply(fn, recurse)

    def _part_names(self) -> tuple[str, ...]:
        return self.parts

    def _replace_parts(self, parts: Mapping[str, torch.Tensor]) -> None:
        before = self._held()
        self._hold(tuple(parts[name].to(self.values.device).clone() for name in self.parts))
        try:
            self._check_parts()
        except ValueError:
            self._hold(before)
            raise


class GpuTcaBmeLinear(GpuLinear):
    """Weights in TCA-BME, SpInfer's tiles: up to 16 tokens on tensor cores, straight from the bitmaps."""

    parts = ("values", "lane_bitmap", "group_offsets", "stripe_offsets")
    form = GpuTcaBme

    def packed(self) -> GpuTcaBme:
        """The weights in their format, in the same memory."""
        return GpuTcaBme((self.out_features, self.in_features), *self._held())

    def to_dense(self) -> torch.Tensor:
        return unpacked(self.packed())

    def _product(self, x: torch.Tensor) -> torch.Tensor:
        if torch.compiler.is_compiling():
            return cast(torch.Tensor, torch.ops.xmsim.tca_bme_linear(x, *self._held(), self.out_features, self.in_features, self.bias))
        return ops.any_tokens(x, self.packed(), self.bias)

    def _check_parts(self) -> None:
        check_tca_bme(self.packed())


class _ThresholdLinear(GpuLinear):
    """Where one token of each sequence comes (decode), inputs of a magnitude at or below `threshold` count as zero.

    Where more come (prefill), no input is left out.
    """

    threshold: float | torch.Tensor = 0.0  # of TEAL; 0 skips zeros alone; a tensor [in_features] has one for each input

    def _product(self, x: torch.Tensor) -> torch.Tensor:
        if x.dim() > 1 and x.shape[-2] > 1:
            return self._whole_product(x)
        if x.numel() > linear.MOST_TOKENS * self.in_features:  # a column that many vectors read is worth one read of all
            return self._whole_product(self._kept(x))
        if isinstance(self.threshold, torch.Tensor):
            return self._sparse_product(self._kept(x), 0.0)
        return self._sparse_product(x, _rounded(self.threshold, x.dtype))

    def _kept(self, x: torch.Tensor) -> torch.Tensor:
        if x.dim() > 1 and x.shape[-2] > 1:
            return x
        if isinstance(self.threshold, torch.Tensor):
            self.threshold = self.threshold.to(x.device)
        return x.masked_fill(x.abs() <= self.threshold, 0)

    def _whole_product(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, self.to_dense(), self.bias)

    def _sparse_product(self, x: torch.Tensor, threshold: float) -> torch.Tensor:
        """x wᵀ + b of the inputs above a threshold."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        shown = "by input" if isinstance(self.threshold, torch.Tensor) else f"{self.threshold:g}"
        return f"{super().extra_repr()}, threshold={shown}"


@cache
def _rounded(threshold: float, dtype: torch.dtype) -> float:
    """As torch rounds a number before it compares; a negative one, which a skewed histogram gives, keeps everything."""
    return max(0.0, float(torch.tensor(threshold, dtype=dtype)))


class GpuSpdpLinear(_ThresholdLinear):
    """Weights as a bitmap by columns: decoding reads neither zeros nor what a small input would be multiplied with (SPDP)."""

    parts = ("values", "bitmap", "group_offsets", "column_offsets")
    form = GpuColumnBitmap

    def packed(self) -> GpuColumnBitmap:
        """The weights in their format, in the same memory."""
        return GpuColumnBitmap((self.out_features, self.in_features), *self._held())

    def to_dense(self) -> torch.Tensor:
        return cast(torch.Tensor, torch.ops.xmsim.unpacked_columns(*self._held(), self.out_features, self.in_features))

    def _whole_product(self, x: torch.Tensor) -> torch.Tensor:
        if torch.compiler.is_compiling():
            return super()._whole_product(x)
        return ops.any_tokens(x, self.packed(), self.bias)

    def _sparse_product(self, x: torch.Tensor, threshold: float) -> torch.Tensor:
        sizes = (self.out_features, self.in_features, threshold)
        return cast(torch.Tensor, torch.ops.xmsim.spdp_linear(x, *self._held(), *sizes, self.bias))

    def _check_parts(self) -> None:
        check_column_bitmap(self.packed())


class GpuTealLinear(_ThresholdLinear):
    """Dense weights stored column by column: decoding reads no column whose input is small (TEAL)."""

    parts = ("values",)  # [in_features, out_features and zeros up to a multiple of 8]

    def to_dense(self) -> torch.Tensor:
        (columns,) = self._held()
        return columns.t()[: self.out_features]

    def _sparse_product(self, x: torch.Tensor, threshold: float) -> torch.Tensor:
        (columns,) = self._held()
        bias = self.bias if self.bias is None else torch.nn.functional.pad(self.bias, (0, columns.shape[1] - self.out_features))
        return cast(torch.Tensor, torch.ops.xmsim.teal_linear(x, columns, threshold, bias))[..., : self.out_features]

    @classmethod
    def _packed_parts(cls, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (torch.nn.functional.pad(weight.t(), (0, -weight.shape[0] % _STEP)).contiguous(),)

    def _check_parts(self) -> None:
        (columns,) = self._held()
        wanted = [self.in_features, self.out_features + -self.out_features % _STEP]
        if list(columns.shape) != wanted or columns.dtype not in ELEMENTS:
            raise ValueError(f"values: {columns.dtype} {list(columns.shape)} where 16 bits {wanted} belong; pack the model again")


class GpuTwoFourLinear(torch.nn.Linear):
    """2:4 weights by torch's own format and its library's kernels; there is none of ours."""

    @classmethod
    def from_linear(cls, layer: torch.nn.Linear) -> Self:
        """Compress the weights of a layer on a GPU; its bias is shared.

        Raises:
            ValueError: on the CPU, not 2:4, or a type or shape that the library does not take.
        """
        weight = layer.weight.detach()
        if not weight.is_cuda:
            raise ValueError(f"weight: lies on {weight.device}; torch compresses 2:4 weights on a GPU, move the model first")
        if weight.shape[1] % 4 or int((weight.view(len(weight), -1, 4) != 0).sum(2).max()) > 2:
            raise ValueError("weight: more than two of four neighbours are not zero; prune it 2:4 first")
        module = cls(layer.in_features, layer.out_features, bias=False, device="meta", dtype=weight.dtype)
        try:
            compressed = torch.sparse.to_sparse_semi_structured(weight.contiguous())
        except RuntimeError as error:
            raise ValueError(f"weight: {str(error).splitlines()[0]}") from error
        module.weight = torch.nn.Parameter(compressed, requires_grad=False)
        module.bias = layer.bias
        return module

    def to_dense(self) -> torch.Tensor:
        """The weights as a matrix [out_features, in_features]."""
        return self.weight.detach().to_dense()

    @property
    def nbytes(self) -> int:
        """Bytes of the compressed weights: half of them, and 2 bits for each to say where it was."""
        kept = self.in_features * self.out_features // 2
        return kept * self.weight.element_size() + kept // 4

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, and so of x, y and the bias."""
        return self.weight.dtype
