"""Bitmap and values: every weight comes back, whoever packed it, and damaged parts are refused."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from xmsim.reference.formats import DenseTiles, SparseBitmap, dense_tiles, sparse_bitmap, tile_order
from xmsim.reference.formats.bfloat16 import bfloat16_bits, bfloat16_values

ELEMENTS = ("float32", "bfloat16", "int8")
SIZES = ((1, 1), (2, 6), (32, 64), (33, 65), (100, 257))


def sparse_matrix(shape: tuple[int, int], element: str, sparsity: float = 0.5) -> np.ndarray:
    rng = np.random.default_rng([*shape, int(100 * sparsity)])
    values = rng.standard_normal(shape, dtype=np.float32)
    values[rng.random(shape) < sparsity] = 0
    if element == "bfloat16":
        return bfloat16_bits(values)
    return np.rint(40 * values).clip(-128, 127).astype(np.int8) if element == "int8" else values


def without_native_kernels(patch: pytest.MonkeyPatch) -> None:
    for module in (tile_order, dense_tiles, sparse_bitmap):
        patch.setattr(module, "kernel", lambda *_: None)


@pytest.fixture(params=["native", "numpy"])
def packer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "numpy":
        without_native_kernels(monkeypatch)


@pytest.mark.usefixtures("packer")
@pytest.mark.parametrize("form", [DenseTiles, SparseBitmap])
@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 1.0])
def test_every_weight_comes_back(form: Any, element: str, shape: tuple[int, int], sparsity: float) -> None:
    matrix = sparse_matrix(shape, element, sparsity)
    packed = form.from_dense(matrix)
    assert packed.order.element == element
    np.testing.assert_array_equal(packed.elements(), matrix)
    np.testing.assert_array_equal(packed.to_dense(), matrix)


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("form", [DenseTiles, SparseBitmap])
def test_numpy_and_native_packing_agree_to_the_byte(
    form: Any, element: str, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = sparse_matrix(shape, element)
    native = form.from_dense(matrix)
    without_native_kernels(monkeypatch)
    by_numpy = form.from_dense(matrix)
    for field in fields(form):
        one, other = getattr(native, field.name), getattr(by_numpy, field.name)
        assert (one.tobytes() == other.tobytes()) if isinstance(one, np.ndarray) else one == other


@pytest.mark.parametrize("element", ["float32", "bfloat16"])
def test_numpy_and_native_quantisation_agree(element: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = sparse_matrix((20, 333), element)
    rows[3] = 0
    rows[5, 7] = np.inf if element == "float32" else 0x7F80
    native = tile_order.quantized_rows(rows, element)
    without_native_kernels(monkeypatch)
    for one, other in zip(native, tile_order.quantized_rows(rows, element), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("threads", [2, 3])
def test_the_bytes_do_not_depend_on_threads(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = sparse_matrix((200, 300), "bfloat16")
    alone = SparseBitmap.from_dense(matrix)
    for module in (tile_order, sparse_bitmap):
        monkeypatch.setattr(module, "default_threads", lambda: threads)
    together = SparseBitmap.from_dense(matrix)
    assert alone.bitmap.tobytes() == together.bitmap.tobytes() and alone.values.tobytes() == together.values.tobytes()


@pytest.mark.usefixtures("packer")
def test_a_row_of_a_tile_holds_two_bfloat16_of_each_output() -> None:
    matrix = np.zeros((33, 70), np.float32)
    matrix[1, 4:6] = 2, 3  # row 2: inputs 4 and 5; output 1 has bits 2 and 3
    matrix[17, 33] = 4  # second K tile, right half, row 0, output 1 of the half
    matrix[32, 0] = 5  # second block
    packed = SparseBitmap.from_dense(matrix, dtype="bfloat16")
    assert packed.bitmap.shape == (2, 3, 2, 16) and packed.bitmap.dtype == np.uint32
    assert {place: packed.bitmap[place] for place in zip(*np.nonzero(packed.bitmap), strict=True)} == {
        (0, 0, 0, 2): 0b1100,
        (0, 1, 1, 0): 0b1000,
        (1, 0, 0, 0): 0b1,
    }
    assert packed.offsets.tolist() == [0, 3, 4]
    assert bfloat16_values(packed.values[:4]).tolist() == [2, 3, 4, 5]
    assert packed.values[4:].nbytes == 64 and not packed.values[4:].any()


@pytest.mark.parametrize("element, bytes_per_weight", [("float32", 2 + 1 / 8), ("bfloat16", 1 + 1 / 8), ("int8", 1 / 2 + 1 / 8)])
def test_half_of_the_weights_takes_half_of_the_bytes_and_a_bit_each(element: str, bytes_per_weight: float) -> None:
    matrix = np.ones((512, 1024), np.float32)
    matrix[:, ::2] = 0
    packed = SparseBitmap.from_dense(matrix, dtype=element)
    assert packed.sparsity == 0.5
    assert bytes_per_weight * matrix.size <= packed.nbytes <= 1.03 * bytes_per_weight * matrix.size


@pytest.mark.usefixtures("packer")
@pytest.mark.parametrize("element", ["float32", "bfloat16"])
def test_minus_zero_is_not_stored(element: str) -> None:
    packed = SparseBitmap.from_dense(np.array([[0.0, -0.0, 1.0]], np.float32), dtype=element)
    assert packed.nonzeros == 1


@pytest.mark.usefixtures("packer")
@pytest.mark.parametrize("form", [DenseTiles, SparseBitmap])
def test_int8_has_a_scale_for_each_output_and_is_within_half_a_step(form: Any) -> None:
    matrix = sparse_matrix((40, 96), "float32") * np.logspace(-6, 3, 40, dtype=np.float32)[:, None]
    packed = form.from_dense(matrix, dtype="int8")
    largest = np.abs(matrix).max(axis=1)
    np.testing.assert_allclose(packed.scales, largest / 127, rtol=1e-6)
    assert (np.abs(packed.to_dense() - matrix) <= 0.5001 * packed.scales[:, None]).all()
    np.testing.assert_array_equal(packed.column_sums, packed.elements().sum(axis=1, dtype=np.int32))


def test_int8_weights_may_bring_their_scales() -> None:
    packed = SparseBitmap.from_dense(np.array([[1, -2], [3, 0]], np.int8), scales=np.array([0.5, 2.0]))
    assert packed.to_dense().tolist() == [[0.5, -1.0], [6.0, 0.0]]


@pytest.mark.parametrize("form", [DenseTiles, SparseBitmap])
def test_a_tensor_comes_back_as_a_tensor(form: Any) -> None:
    torch = pytest.importorskip("torch")
    for dtype in (torch.float32, torch.bfloat16):
        weight = torch.randn(7, 50, requires_grad=True).to(dtype).T
        back = form.from_dense(weight).to_dense()
        assert back.dtype == dtype and torch.equal(back, weight)


@pytest.mark.usefixtures("packer")
@pytest.mark.parametrize("form", [DenseTiles, SparseBitmap])
@pytest.mark.parametrize(
    "array, options, error, said",
    [
        (np.ones((2, 3)), {}, TypeError, "float64"),
        (np.ones((2, 3), np.int16), {}, TypeError, "int16"),
        (np.array([[1, np.nan]], np.float16), {}, ValueError, "NaN"),
        (np.ones(3, np.float32), {}, ValueError, "out_features"),
        (np.ones((0, 3), np.float32), {}, ValueError, "out_features"),
        (np.array([[1, np.nan]], np.float32), {}, ValueError, "NaN"),
        (np.array([[1, np.nan]], np.float32), {"dtype": "bfloat16"}, ValueError, "NaN"),
        (np.array([[1, np.nan]], np.float32), {"dtype": "int8"}, ValueError, "NaN"),
        (np.array([[1, np.inf]], np.float32), {"dtype": "int8"}, ValueError, "infinite"),
        (np.ones((2, 3), np.float32), {"dtype": "float8"}, TypeError, "float8"),
        (np.ones((2, 3), np.int8), {"dtype": "float32"}, TypeError, "scales"),
        (np.ones((2, 3), np.float32), {"scales": np.ones(2)}, TypeError, "scales"),
        (np.ones((2, 3), np.int8), {"scales": np.ones(3)}, ValueError, "scales"),
        (np.ones((1, 200_000), np.int8), {}, ValueError, "overflow"),
    ],
)
def test_what_cannot_be_packed_is_refused(form: Any, array: np.ndarray, options: dict[str, Any], error: type, said: str) -> None:
    with pytest.raises(error, match=said):
        form.from_dense(array, **options)


def test_damaged_parts_are_refused() -> None:
    packed = SparseBitmap.from_dense(sparse_matrix((40, 40), "bfloat16"))
    one_more_bit = packed.bitmap.copy()
    one_more_bit[1, 1, 1, 15] |= 1 << 31
    damages = [
        {"bitmap": one_more_bit},
        {"bitmap": packed.bitmap[:1]},
        {"bitmap": packed.bitmap.view(np.int32)},
        {"values": packed.values[:-1]},
        {"values": packed.values[::-1]},
        {"offsets": packed.offsets[::-1].copy()},
        {"offsets": packed.offsets - 1},
        {"scales": np.ones(40, np.float32)},
    ]
    for damage in damages:
        with pytest.raises(ValueError, match=next(iter({"scales": "scales"}.get(name, "pack|contiguous") for name in damage))):
            replace(packed, **damage)
    with pytest.raises(ValueError, match="scales"):
        replace(SparseBitmap.from_dense(sparse_matrix((40, 40), "int8")), scales=None)
