"""Low-bit prediction: integers and their product against the plainest code there is, equal bit for bit from arrays and tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference.kinds import Kind, kinds

from xmsim.reference.attention import predict_integer_scores, predict_scores

Operands = tuple[np.ndarray, np.ndarray]


@pytest.fixture
def operands() -> Operands:
    rng = np.random.default_rng(3)
    return rng.standard_normal((2, 4, 11, 16), dtype=np.float32), rng.standard_normal((2, 2, 13, 16), dtype=np.float32)


def integer_scores(kind: Kind, q: np.ndarray, k: np.ndarray, **options: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, Any]:
    *integers, factor = predict_integer_scores(kind.of(q), kind.of(k), **options)
    q_int, k_int, scores = (kind.array(array) for array in integers)
    return q_int, k_int, scores, factor


def test_predicted_scores_are_the_integer_scores_times_the_factor(kind: Kind, operands: Operands) -> None:
    q, k = operands
    q_int, k_int, scores, factor = integer_scores(kind, q, k, group=2, bits=4, scale=0.25)
    assert (q_int.dtype, k_int.dtype, scores.dtype, type(factor)) == (np.int8, np.int8, np.int32, float)
    for head in range(4):
        np.testing.assert_array_equal(scores[:, head], q_int[:, head].astype(int) @ k_int[:, head // 2].astype(int).swapaxes(-1, -2))
    predicted = kind.map(predict_scores, q, k, group=2, bits=4, scale=0.25)
    assert predicted.dtype == np.float32
    np.testing.assert_array_equal(predicted, scores.astype(np.float32) * np.float32(factor))


def test_of_equal_channels_the_lowest_is_kept_and_halves_go_to_the_even_integer(kind: Kind) -> None:
    q = np.array([[[7.0, -7.0, 2.5, 2.5, -1.0, -3.5]]])
    q_int, *_ = integer_scores(kind, q, np.ones((1, 1, 6)), group=2, bits=4, scale=1.0)
    np.testing.assert_array_equal(q_int[0, 0], [7, 0, 2, 0, 0, -4])


def test_the_layers_maxima_make_a_part_equal_its_slice_and_clamp_what_lies_beyond(kind: Kind, operands: Operands) -> None:
    q, k = operands
    maxima = {"q_max": float(np.abs(q).max()), "k_max": float(np.abs(k).max())}
    whole = kind.map(predict_scores, q, k, group=4, bits=6, scale=0.25)
    part = kind.map(predict_scores, q[:1, 2:3, 4:7], k[:1, 1:, :9], group=4, bits=6, scale=0.25, **maxima)
    np.testing.assert_array_equal(part, whole[:1, 2:3, 4:7, :9])
    q_int, *_ = integer_scores(kind, q, k, group=1, bits=4, scale=0.25, q_max=0.5, k_max=0.5)
    np.testing.assert_array_equal(q_int, np.rint(np.clip(q, -0.5, 0.5) * np.float32(14)))


def test_a_scale_per_head_quantises_each_head_as_if_it_were_alone(kind: Kind, operands: Operands) -> None:
    q, k = operands[0] * np.float32([1, 2, 3, 4])[:, None, None], operands[1] * np.float32([1, 5])[:, None, None]
    q_max, k_max = (np.abs(x).max(axis=(0, 2, 3)) for x in (q, k))
    whole = kind.map(predict_scores, q, k, group=2, bits=4, scale=0.25, q_max=q_max, k_max=k_max)
    for head in range(4):
        alone = predict_scores(q[:, [head]], k[:, [head // 2]], group=2, bits=4, scale=0.25)
        np.testing.assert_array_equal(whole[:, [head]], alone)
    rows = kind.map(predict_scores, q[:, 2:, 3:5], k[:, 1:], group=2, bits=4, scale=0.25, q_max=q_max[2:], k_max=k_max[1:])
    np.testing.assert_array_equal(rows, whole[:, 2:, 3:5])


def test_the_factor_of_a_scale_per_head_is_one_for_each_query_head(kind: Kind, operands: Operands) -> None:
    q, k = operands
    options = {"group": 2, "bits": 4, "scale": 0.25}
    both = integer_scores(kind, q, k, q_max=kind.of(np.arange(1.0, 5.0)), k_max=kind.of(np.array([1.0, 10.0])), **options)[-1]
    np.testing.assert_allclose(kind.array(both), 0.25 / 49 * np.array([1, 2, 30, 40]), rtol=1e-6)
    only_k = integer_scores(kind, q, k, q_max=2.0, k_max=kind.of(np.array([1.0, 10.0])), **options)[-1]
    np.testing.assert_allclose(kind.array(only_k), 0.25 / 49 * np.array([2, 2, 20, 20]), rtol=1e-6)


def test_eight_bits_and_a_wide_head_stay_exact(kind: Kind) -> None:
    q, k = np.ones((1, 1, 2048)), np.ones((1, 2, 2048))
    k[0, 0, 0] = 0
    scores = integer_scores(kind, q, k, group=1, bits=8, scale=1.0)[2]
    np.testing.assert_array_equal(scores[0, 0], [127 * 127 * 2047, 127 * 127 * 2048])  # odd beyond 2^24: float32 has no such number


@pytest.mark.parametrize("magnitude", [0.0, 1e-44, 1e-38])
def test_operands_that_are_zero_or_next_to_it_predict_zeros(kind: Kind, magnitude: float) -> None:
    q, k = np.full((1, 2, 4), magnitude, np.float32), np.full((1, 3, 4), magnitude, np.float32)
    np.testing.assert_array_equal(kind.map(predict_scores, q, k, group=2, bits=4, scale=1.0), np.zeros((1, 2, 3)))


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 9), st.integers(1, 70)),
    group=st.sampled_from([1, 2, 4]),
    bits=st.integers(2, 8),
    grid=st.sampled_from([0.0, 0.5, 1.0]),
    per_head=st.booleans(),
)
def test_tensors_predict_what_arrays_do_bit_for_bit(
    seed: int, sizes: tuple[int, int, int, int], group: int, bits: int, grid: float, per_head: bool
) -> None:
    rng = np.random.default_rng(seed)
    kv_heads, sharing, queries, keys = sizes
    q = rng.standard_normal((kv_heads * sharing, queries, 8), dtype=np.float32) * 3
    k = rng.standard_normal((kv_heads, keys, 8), dtype=np.float32)
    if grid:  # ties between channels, and halves to round
        q, k = np.round(q / grid) * np.float32(grid), np.round(k / grid) * np.float32(grid)
    maxima: dict[str, Any] = {"q_max": rng.uniform(0, 4, len(q)), "k_max": rng.uniform(0, 4, len(k))} if per_head else {}
    options = {"group": group, "bits": bits, "scale": 0.3, **maxima}
    expected, predicted = predict_integer_scores(q, k, **options), predict_scores(q, k, **options)
    for kind in kinds()[1:]:
        for tensor, array in zip(integer_scores(kind, q, k, **options)[:3], expected, strict=False):
            np.testing.assert_array_equal(tensor, array)
        np.testing.assert_array_equal(kind.map(predict_scores, q, k, **options), predicted)


def test_what_the_caller_set_changes_no_prediction(operands: Operands) -> None:
    torch = pytest.importorskip("torch")
    q, k = operands
    expected = predict_scores(q, k, group=1, bits=6, scale=0.25)  # sums beyond the 8 bits of bfloat16
    for kind in kinds()[1:]:
        with torch.autocast(kind.device, dtype=torch.bfloat16):
            predicted = predict_scores(kind.of(q).requires_grad_(), kind.of(k).requires_grad_(), group=1, bits=6, scale=0.25)
        assert not predicted.requires_grad
        np.testing.assert_array_equal(kind.array(predicted), expected)
        halves = (kind.of(x).bfloat16() for x in operands)
        assert predict_scores(*halves, group=1, bits=6, scale=0.25).dtype == torch.float32


@pytest.mark.parametrize(
    "change, message",
    [
        ({"bits": 1}, "bits: 1 must"),
        ({"q_max": -1.0}, "q_max: -1.0 must"),
        ({"k_max": np.nan}, "k_max: nan must"),
        ({"k_max": 1e300}, r"k_max: 1e\+300 must"),
        ({"q_max": np.ones(2)}, r"q_max: shape \[2\] is neither"),
        ({"group": 3}, "group: 3 must divide"),
        ({"q": np.full((1, 2, 4), np.nan)}, "q: NaN or infinity"),
        ({"k": np.full((1, 3, 4), np.inf)}, "k: NaN or infinity"),
        ({"k": np.ones((1, 3, 5))}, r"k: shape \[1, 3, 5\] does not fit q's \[1, 2, 4\]"),
    ],
)
def test_prediction_refuses_bad_arguments_by_name_value_and_rule(kind: Kind, change: dict, message: str) -> None:
    arguments = {"q": np.ones((1, 2, 4)), "k": np.ones((1, 3, 4)), "group": 2, "bits": 4, "scale": 1.0} | change
    q, k = kind.of(arguments.pop("q")), kind.of(arguments.pop("k"))
    with pytest.raises(ValueError, match=f"^{message}"):
        predict_scores(q, k, **arguments)
