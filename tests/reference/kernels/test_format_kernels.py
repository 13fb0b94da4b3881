"""Kernels on weights in published formats, on every instruction set of this host, against float64."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from xmsim.reference.formats import ColumnBitmap, TcaBme, TwoFour
from xmsim.reference.formats.bfloat16 import bfloat16_bits, bfloat16_values
from xmsim.reference.kernels import format_kernels, native
from xmsim.reference.kernels.format_kernels import format_linear, sparse_vector_linear
from xmsim.reference.kernels.linear import plain_product
from xmsim.reference.weights import magnitude_keep

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "tcabme_convert.npz")
FORMS = (TcaBme, ColumnBitmap, TwoFour)
ELEMENTS = ("float32", "bfloat16", "float16")
EPS = {"float32": np.finfo(np.float32).eps, "bfloat16": 2.0**-8, "float16": 2.0**-11}
SIZES = ((64, 64), (1, 4), (3, 8), (33, 20), (70, 516), (130, 260))  # (out, in): whole GroupTiles, and what is left of them


@pytest.fixture(params=[*get_args(native.Isa), "no compiler"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "no compiler":
        monkeypatch.setattr(format_kernels, "native_linear", lambda: None)
        monkeypatch.setattr(format_kernels, "kernel", lambda *signature: None)
        yield request.param
        return
    offered = native.offered_isa()
    if offered is None:
        pytest.skip("no compiled kernels")
    if get_args(native.Isa).index(request.param) > get_args(native.Isa).index(offered):
        pytest.skip(f"this host offers {offered}")
    with native.limited_isa(request.param):
        yield request.param


def rounded(values: np.ndarray, element: str) -> np.ndarray:
    return bfloat16_bits(values) if element == "bfloat16" else values.astype(element)


def as_float64(array: np.ndarray) -> np.ndarray:
    return (bfloat16_values(array) if array.dtype == np.uint16 else array).astype(np.float64)


def random_case(tokens: int, sizes: tuple[int, int], element: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, 2:4 weights and bias, in the element type."""
    rng = np.random.default_rng([tokens, *sizes])
    weights = rng.standard_normal(sizes, np.float32)
    weights *= magnitude_keep(weights, kept=2, block=4)
    weights[sizes[0] // 2] = 0
    x, bias = rng.standard_normal((tokens, sizes[1]), np.float32), rng.standard_normal(sizes[0], np.float32)
    return rounded(x, element), rounded(weights, element), rounded(bias, element)


def assert_error_is_that_of_the_precision(y: np.ndarray, x: np.ndarray, weights: np.ndarray, bias: np.ndarray, element: str) -> None:
    exact = as_float64(x) @ as_float64(weights).T + as_float64(bias)
    plain_error = np.abs(as_float64(plain_product(x, weights, bias)) - exact).max()
    assert y.shape == exact.shape and y.dtype == x.dtype
    assert np.abs(as_float64(y) - exact).max() <= 2 * plain_error + EPS[element] * np.abs(exact).max()


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("form", FORMS)
def test_the_error_is_that_of_the_precision_for_one_token_and_for_many(path: str, form: Any, sizes: tuple[int, int], element: str):
    for tokens in (1, 2, 3, 5, 8, 13, 16, 97):
        x, weights, bias = random_case(tokens, sizes, element)
        assert_error_is_that_of_the_precision(format_linear(x, form.from_dense(weights), bias), x, weights, bias, element)


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("density", [0.0, 0.02, 1.0])
@pytest.mark.parametrize("form", [TcaBme, ColumnBitmap])
def test_any_density_is_read_right(path: str, form: Any, density: float, element: str):
    rng = np.random.default_rng(3)
    weights = rounded(rng.standard_normal((130, 200), np.float32) * (rng.random((130, 200)) < density), element)
    x, bias = rounded(rng.standard_normal((2, 200), np.float32), element), rounded(np.ones(130, np.float32), element)
    packed = form.from_dense(weights)
    assert_error_is_that_of_the_precision(format_linear(x, packed, bias), x, weights, bias, element)
    if form is ColumnBitmap:
        assert_error_is_that_of_the_precision(sparse_vector_linear(x, packed, bias), x, weights, bias, element)


@pytest.mark.parametrize("case", "abcd")
def test_the_authors_arrays_multiply_to_the_authors_product(path: str, case: str):
    dense = GOLDEN[f"{case}_A"]
    parts = [GOLDEN[f"{case}_{name}"] for name in ("values", "bitmap", "global_offsets", "median_offsets")]
    packed = TcaBme(dense.shape, "float16", *parts)
    y = format_linear(np.ascontiguousarray(GOLDEN[f"{case}_X"].T.astype(np.float16)), packed)
    np.testing.assert_allclose(y.T.astype(np.float32), GOLDEN[f"{case}_Y_f32"], rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tokens", [1, 3, 30])
def test_a_token_that_is_not_finite_spoils_no_other(path: str, form: Any, tokens: int):
    x, weights, bias = random_case(tokens, (20, 40), "float32")
    packed = form.from_dense(weights)
    clean = format_linear(x, packed, bias)
    x[0, 5] = np.nan
    spoilt = format_linear(x, packed, bias)
    assert np.isnan(spoilt[0]).any()
    np.testing.assert_array_equal(spoilt[1:], clean[1:])


@pytest.mark.parametrize("element", ELEMENTS)
def test_columns_of_small_inputs_are_left_out_and_others_are_not(path: str, element: str):
    for vectors, sizes in ((1, (70, 516)), (3, (130, 60)), (2, (64, 64))):
        x, weights, bias = random_case(vectors, sizes, element)
        packed = ColumnBitmap.from_dense(weights)
        threshold = 0.5
        x[0, :4] = rounded(np.float32([0.5, -0.5, 0.50390625, -0.50390625]), element)  # the next bfloat16 after a half
        kept = x.copy()
        kept[np.abs(as_float64(x)) <= threshold] = 0
        y = sparse_vector_linear(x, packed, bias, threshold=threshold)
        assert_error_is_that_of_the_precision(y, kept, weights, bias, element)


def test_the_values_of_a_column_that_is_skipped_are_not_read(path: str):
    weights = np.float32([[1, np.inf], [2, np.inf]])  # infinity times zero would be NaN
    y = sparse_vector_linear(np.float32([[3, 0], [3, 0.25]]), ColumnBitmap.from_dense(weights), threshold=0.25)
    np.testing.assert_array_equal(y, [[3, 6], [3, 6]])
    assert np.isnan(sparse_vector_linear(np.float32([[np.nan, 0]]), ColumnBitmap.from_dense(weights), threshold=0.25)).all()


def test_the_threshold_is_compared_in_the_type_of_the_inputs_as_torch_does(path: str):
    torch = pytest.importorskip("torch")
    x = torch.tensor([[0.703125]], dtype=torch.bfloat16)  # 0.7019 is that, rounded
    packed = ColumnBitmap.from_dense(torch.ones(1, 1, dtype=torch.bfloat16))
    assert not (x.abs() > 0.7019).any()
    assert sparse_vector_linear(x, packed, threshold=0.7019).item() == 0
    assert sparse_vector_linear(x, packed, threshold=0.69).item() == 0.703125


@pytest.mark.parametrize("form", FORMS)
def test_results_do_not_depend_on_threads(form: Any, monkeypatch: pytest.MonkeyPatch):
    from xmsim.reference.kernels import linear

    x, weights, bias = random_case(2, (300, 200), "bfloat16")
    packed = form.from_dense(weights)
    results = set()
    for threads in (1, 2, 5):
        for module in (linear, format_kernels):
            monkeypatch.setattr(module, "default_threads", lambda threads=threads: threads)
        results.add(format_linear(x, packed, bias).tobytes())
        if form is ColumnBitmap:
            results.add(sparse_vector_linear(x, packed, bias, threshold=0.5).tobytes())
    assert len(results) == (2 if form is ColumnBitmap else 1)


@pytest.mark.parametrize("form", FORMS)
def test_no_tokens_give_no_outputs(form: Any, path: str):
    packed, none = form.from_dense(np.eye(3, 8, dtype=np.float32)), np.ones((2, 0, 8), np.float32)
    assert format_linear(none, packed).shape == (2, 0, 3)
    if form is ColumnBitmap:
        assert sparse_vector_linear(none, packed).shape == (2, 0, 3)


@pytest.mark.parametrize(
    ("x", "b", "error", "said"),
    [
        (np.ones((3, 7), np.float32), None, ValueError, "in_features"),
        (np.ones((3, 8), np.float16), None, TypeError, "x: float16 does not fit float32 weights"),
        (np.ones((3, 8), np.float32), np.ones(4, np.float32), ValueError, "b: "),
        (np.ones((3, 8), np.float32), np.ones(3, np.float16), ValueError, "b: "),
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_what_does_not_fit_is_refused(form: Any, x: np.ndarray, b: np.ndarray | None, error: type, said: str):
    packed = form.from_dense(np.eye(3, 8, dtype=np.float32))
    with pytest.raises(error, match=said):
        format_linear(x, packed, b)
    if form is ColumnBitmap and error is ValueError:  # its inputs may have another type than the weights
        with pytest.raises(error, match=said):
            sparse_vector_linear(x, packed, b)
