"""Linear kernels on NumPy arrays, on every instruction set of this host, against float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, get_args

import numpy as np
import pytest

from xmsim.reference.formats import DenseTiles, SparseBitmap
from xmsim.reference.formats.bfloat16 import bfloat16_bits, bfloat16_values
from xmsim.reference.kernels import dense_linear, linear, native, sparse_linear
from xmsim.reference.kernels.linear import emulated_tiles_linear, plain_linear

FORMS = {DenseTiles: dense_linear, SparseBitmap: sparse_linear}
# (element of the weights, of x)
TYPES = (
    ("float32", "float32"),
    ("bfloat16", "bfloat16"),
    ("float16", "float16"),
    ("int8", "float32"),
    ("int8", "bfloat16"),
    ("int8", "float16"),
)
EPS = {"float32": np.finfo(np.float32).eps, "bfloat16": 2.0**-8, "float16": 2.0**-11}
SIZES = ((2, 6), (64, 128), (70, 515))
PATHS = (*get_args(native.Isa), "emulated tiles", "numpy")

needs_kernels = pytest.mark.skipif(native.library() is None, reason="no compiled kernels")


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "numpy":
        monkeypatch.setattr(linear, "native_linear", lambda: None)
        yield request.param
        return
    offered = native.offered_isa()
    if offered is None:
        pytest.skip("no compiled kernels")
    if request.param == "emulated tiles":
        yield request.param
        return
    if PATHS.index(request.param) > PATHS.index(offered):
        pytest.skip(f"this host offers {offered}")
    with native.limited_isa(request.param):
        yield request.param


def on_path(path: str, form: type) -> Callable[..., np.ndarray]:
    return emulated_tiles_linear if path == "emulated tiles" else FORMS[form]


def random_case(tokens: int, out_features: int, in_features: int, element: str, x_element: str, sparsity: float = 0.5) -> tuple[Any, ...]:
    """x, weights and bias, the weights as float32."""
    rng = np.random.default_rng([tokens, out_features, in_features])
    x, w = rng.standard_normal((tokens, in_features), np.float32), rng.standard_normal((out_features, in_features), np.float32)
    w[rng.random(w.shape) < sparsity] = 0
    b = rng.standard_normal(out_features, np.float32)
    if x_element == "bfloat16":
        x, b = bfloat16_bits(x), bfloat16_bits(b)
    elif x_element == "float16":
        x, b = x.astype(np.float16), b.astype(np.float16)
    rounded = {"bfloat16": lambda: bfloat16_values(bfloat16_bits(w)), "float16": lambda: w.astype(np.float16).astype(np.float32)}
    return x, rounded[element]() if element in rounded else w, b


def as_float64(array: np.ndarray) -> np.ndarray:
    return (bfloat16_values(array) if array.dtype == np.uint16 else array).astype(np.float64)


def assert_error_is_that_of_the_precision(path: str, form: Any, tokens: int, sizes: tuple[int, int], types: tuple[str, str]) -> None:
    element, x_element = types
    if path == "emulated tiles" and element in ("float32", "float16"):
        pytest.skip("tiles multiply bfloat16 and int8")
    x, w, b = random_case(tokens, *sizes, element, x_element)
    packed = form.from_dense(w, dtype=element)
    y = on_path(path, form)(x, packed, b)
    assert y.shape == (tokens, sizes[0]) and y.dtype == x.dtype
    exact = as_float64(x) @ w.astype(np.float64).T + as_float64(b)
    plain_error = np.abs(as_float64(plain_linear(x, packed, b)) - exact).max()
    assert np.abs(as_float64(y) - exact).max() <= 2 * plain_error + EPS[x_element] * np.abs(exact).max()


@pytest.mark.parametrize("types", TYPES, ids=lambda types: f"{types[0]}-{types[1]}")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("tokens", [1, 2, 3, 5, 7, 10, 17, 33])
def test_the_error_is_that_of_the_precision(path: str, form: Any, tokens: int, sizes: tuple[int, int], types: tuple[str, str]) -> None:
    assert_error_is_that_of_the_precision(path, form, tokens, sizes, types)


@pytest.mark.parametrize("types", TYPES, ids=lambda types: f"{types[0]}-{types[1]}")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tokens", [64, 65, 97, 150])
def test_many_tokens_are_served_in_passes(path: str, form: Any, tokens: int, types: tuple[str, str]) -> None:
    assert_error_is_that_of_the_precision(path, form, tokens, (40, 700), types)


@needs_kernels
@pytest.mark.parametrize("types", TYPES, ids=lambda types: f"{types[0]}-{types[1]}")
@pytest.mark.parametrize("tokens", [1, 6, 40])
def test_results_do_not_depend_on_threads(tokens: int, types: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    x, w, b = random_case(tokens, 300, 200, *types)
    packed = SparseBitmap.from_dense(w, dtype=types[0])
    results = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(linear, "default_threads", lambda threads=threads: threads)
        results.append(sparse_linear(x, packed, b).tobytes())
    assert len(set(results)) == 1


def test_stored_and_dropped_zeros_give_the_same(path: str) -> None:
    if path == "emulated tiles":
        pytest.skip("tiles multiply bfloat16 and int8")
    x, w, b = random_case(3, 50, 90, "float32", "float32", sparsity=0.9)
    np.testing.assert_array_equal(sparse_linear(x, SparseBitmap.from_dense(w), b), dense_linear(x, DenseTiles.from_dense(w), b))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tokens", [1, 5, 20])
def test_int8_sums_are_exact_up_to_the_most_inputs(path: str, form: Any, tokens: int) -> None:
    inputs = 130_000  # unsigned activations alone would pass 2^31
    w = np.full((2, inputs), 127, np.int8)
    w[1] = -128
    x = np.full((tokens, inputs), 127, np.float32)  # a step of 1
    y = on_path(path, form)(x, form.from_dense(w))
    np.testing.assert_array_equal(y, np.float32([[127 * 127 * inputs, -127 * 128 * inputs]] * tokens))


@pytest.mark.parametrize("types", TYPES[:4], ids=lambda types: types[0])
@pytest.mark.parametrize("tokens", [3, 30])
def test_a_token_that_is_not_finite_spoils_no_other(path: str, types: tuple[str, str], tokens: int) -> None:
    if path == "emulated tiles" and types[0] in ("float32", "float16"):
        pytest.skip("tiles multiply bfloat16 and int8")
    x, w, b = random_case(tokens, 20, 40, *types)
    packed = SparseBitmap.from_dense(w, dtype=types[0])
    clean = on_path(path, SparseBitmap)(x, packed, b)
    x[1, 5] = 0x7FC0 if x.dtype == np.uint16 else np.nan
    spoilt = on_path(path, SparseBitmap)(x, packed, b)
    assert np.isnan(as_float64(spoilt[1])).all()
    np.testing.assert_array_equal(np.delete(spoilt, 1, axis=0), np.delete(clean, 1, axis=0))


def tiles_in_numpy(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """TDPBF16PS over 32 inputs at a time, as its pseudo-code adds: float64 holds each product, and each sum before it is rounded."""
    sums = np.zeros((len(x), len(w)), np.float32)
    for first in range(0, x.shape[1], 32):
        pair = []
        for parity in (0, 1):
            partial = np.zeros_like(sums)
            for k in range(first + parity, min(first + 32, x.shape[1]), 2):
                partial = (partial + np.outer(x[:, k], w[:, k]).astype(np.float64)).astype(np.float32)
            pair.append(partial)
        sums = sums + (pair[0] + pair[1])
    return sums


@needs_kernels
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tokens", [1, 16, 19, 33])
def test_emulated_tiles_add_in_the_order_of_the_instruction(form: Any, tokens: int) -> None:
    x, w, _ = random_case(tokens, 45, 100, "bfloat16", "bfloat16")
    expected = bfloat16_bits(tiles_in_numpy(as_float64(x), w.astype(np.float64)))
    np.testing.assert_array_equal(emulated_tiles_linear(x, form.from_dense(w, dtype="bfloat16")), expected)


@needs_kernels
def test_emulated_tiles_flush_subnormal_numbers() -> None:
    tiny = bfloat16_bits(np.float32([[2.0**-70, 2.0**-130, 1.0]]))  # times itself: subnormal; subnormal already; 1
    w = np.float32([[2.0**-70, 1.0, 0.0], [0.0, 0.0, 2.0**-130]])
    assert not emulated_tiles_linear(tiny, DenseTiles.from_dense(w, dtype="bfloat16")).any()


@needs_kernels
@pytest.mark.parametrize("tokens", [4, 33])
def test_native_tiles_equal_the_emulated_bit_for_bit(tokens: int) -> None:
    if native.offered_isa() != "amx":
        pytest.skip("this host has no AMX")
    for element in ("bfloat16", "int8"):
        x, w, b = random_case(tokens, 70, 515, element, "bfloat16")
        packed = SparseBitmap.from_dense(w, dtype=element)
        np.testing.assert_array_equal(sparse_linear(x, packed, b), emulated_tiles_linear(x, packed, b))


def test_every_float16_number_passes_through_as_it_is(path: str) -> None:
    if path == "emulated tiles":
        pytest.skip("tiles multiply bfloat16 and int8")
    numbers = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    numbers = numbers[~np.isnan(numbers)]
    by_weight = dense_linear(np.ones((1, 1), np.float16), DenseTiles.from_dense(numbers[:, None]))[0]
    by_input = dense_linear(numbers[:, None], DenseTiles.from_dense(np.ones((1, 1), np.float16)))[:, 0]
    for passed in (by_weight, by_input):
        np.testing.assert_array_equal(passed, numbers)


def test_a_sum_beyond_float16_is_infinite_and_one_between_two_numbers_goes_to_the_even_one(path: str) -> None:
    if path == "emulated tiles":
        pytest.skip("tiles multiply bfloat16 and int8")
    x = np.float16([[65504, 16], [65504, 15.99], [2048, 1], [2048, 3], [2**-24, 0], [2**-24 * 1023, 2**-24]])
    y = dense_linear(x, np.ones((1, 2), np.float16))[:, 0]
    np.testing.assert_array_equal(y, np.float16([np.inf, 65504, 2048, 2052, 2**-24, 2**-14]))


@pytest.mark.parametrize("function, form", [(dense_linear, DenseTiles), (sparse_linear, SparseBitmap)])
def test_a_plain_matrix_is_packed_on_the_way(function: Any, form: Any) -> None:
    x, w, b = random_case(3, 2, 6, "float32", "float32")
    np.testing.assert_array_equal(function(x, w, b), function(x, form.from_dense(w), b))


def test_x_may_have_any_dimensions_and_strides() -> None:
    x, w, b = random_case(12, 9, 20, "float32", "float32")
    y = sparse_linear(x, w, b)
    np.testing.assert_array_equal(sparse_linear(x.reshape(3, 4, 20), w, b), y.reshape(3, 4, 9))
    np.testing.assert_array_equal(sparse_linear(x[0], w, b), sparse_linear(x[:1], w, b)[0])
    np.testing.assert_array_equal(sparse_linear(np.repeat(np.asfortranarray(x), 2, axis=0)[::2], w, b), y)
    misaligned = np.frombuffer(b"." + x.tobytes(), np.float32, offset=1).reshape(x.shape)
    assert not misaligned.flags.aligned
    np.testing.assert_array_equal(sparse_linear(misaligned, w, b), y)


@pytest.mark.parametrize("shape", [(0, 20), (2, 0, 20)])
@pytest.mark.parametrize("element", ["float32", "int8"])
def test_no_tokens_give_no_outputs(path: str, shape: tuple[int, ...], element: str) -> None:
    if path == "emulated tiles":
        pytest.skip("the same call as on the other paths")
    w = np.ones((9, 20), np.float32)
    for function, form in ((dense_linear, DenseTiles), (sparse_linear, SparseBitmap)):
        y = function(np.ones(shape, np.float32), form.from_dense(w, dtype=element), np.ones(9, np.float32))
        assert y.shape == (*shape[:-1], 9) and y.dtype == np.float32


@pytest.mark.parametrize(
    "x, w, b, error, said",
    [
        (np.ones((3, 5), np.float32), np.ones((2, 6), np.float32), None, ValueError, "in_features"),
        (np.float32(1), np.ones((2, 6), np.float32), None, ValueError, "in_features"),
        (np.ones((3, 6)), np.ones((2, 6), np.float32), None, TypeError, "x: float64 .* float32; convert x$"),
        (np.ones((3, 6), np.uint16), np.ones((2, 6), np.float32), None, TypeError, "bfloat16"),
        (np.ones((3, 6), np.float32), np.ones((2, 6), np.float32), np.ones(3, np.float32), ValueError, "b: "),
        (np.ones((3, 6), np.float32), np.ones((2, 6), np.float32), np.ones(2), ValueError, "b: "),
        (np.ones((3, 6), np.float32), np.ones((2, 6)), None, TypeError, "float64"),
        (np.ones((3, 6), np.float32), np.full((2, 6), np.nan, np.float32), None, ValueError, "NaN"),
    ],
)
def test_what_does_not_fit_is_refused(x: Any, w: np.ndarray, b: np.ndarray | None, error: type, said: str) -> None:
    for function in (dense_linear, sparse_linear):
        with pytest.raises(error, match=said):
            function(x, w, b)


def test_each_function_reads_its_own_format() -> None:
    w = np.ones((2, 6), np.float32)
    with pytest.raises(TypeError, match="SparseBitmap"):
        dense_linear(np.ones((3, 6), np.float32), SparseBitmap.from_dense(w))
    with pytest.raises(TypeError, match="DenseTiles"):
        sparse_linear(np.ones((3, 6), np.float32), DenseTiles.from_dense(w))
