"""Low-bit prediction and attention on kept pairs, against the plainest code there is."""

from __future__ import annotations

import numpy as np
import pytest

from xmsim.reference.attention import predict_integer_scores, predict_scores, sparse_attention


@pytest.fixture
def operands() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    q = rng.standard_normal((2, 4, 11, 16), dtype=np.float32)
    k, v = (rng.standard_normal((2, 2, 13, 16), dtype=np.float32) for _ in range(2))
    return q, k, v


def test_predicted_scores_are_the_integer_scores_times_the_factor(operands: tuple[np.ndarray, ...]) -> None:
    q, k, _ = operands
    q_int, k_int, scores, factor = predict_integer_scores(q, k, group=2, bits=4, scale=0.25)
    assert (q_int.dtype, k_int.dtype, scores.dtype) == (np.int8, np.int8, np.int32)
    for head in range(4):
        np.testing.assert_array_equal(scores[:, head], q_int[:, head].astype(int) @ k_int[:, head // 2].astype(int).swapaxes(-1, -2))
    predicted = predict_scores(q, k, group=2, bits=4, scale=0.25)
    assert predicted.dtype == np.float32
    np.testing.assert_array_equal(predicted, scores.astype(np.float32) * np.float32(factor))


def test_of_equal_channels_the_lowest_is_kept_and_halves_go_to_the_even_integer() -> None:
    q = np.array([[[7.0, -7.0, 2.5, 2.5, -1.0, -3.5]]])
    q_int, *_ = predict_integer_scores(q, np.ones((1, 1, 6)), group=2, bits=4, scale=1.0)
    np.testing.assert_array_equal(q_int[0, 0], [7, 0, 2, 0, 0, -4])


def test_the_layers_maxima_make_a_part_equal_its_slice_and_clamp_what_lies_beyond(operands: tuple[np.ndarray, ...]) -> None:
    q, k, _ = operands
    maxima = {"q_max": float(np.abs(q).max()), "k_max": float(np.abs(k).max())}
    whole = predict_scores(q, k, group=4, bits=6, scale=0.25)
    part = predict_scores(q[:1, 2:3, 4:7], k[:1, 1:, :9], group=4, bits=6, scale=0.25, **maxima)
    np.testing.assert_array_equal(part, whole[:1, 2:3, 4:7, :9])
    q_int, *_ = predict_integer_scores(q, k, group=1, bits=4, scale=0.25, q_max=0.5, k_max=0.5)
    assert np.abs(q_int).max() == 7


def test_eight_bits_and_a_wide_head_stay_exact() -> None:
    q, k = np.ones((1, 1, 2048)), np.ones((1, 2, 2048))
    k[0, 0, 0] = 0
    scores = predict_integer_scores(q, k, group=1, bits=8, scale=1.0)[2]
    np.testing.assert_array_equal(scores[0, 0], [127 * 127 * 2047, 127 * 127 * 2048])  # odd beyond 2^24: float32 has no such number


def test_all_zero_operands_predict_zeros() -> None:
    np.testing.assert_array_equal(predict_scores(np.zeros((1, 2, 4)), np.zeros((1, 3, 4)), group=2, bits=4, scale=1.0), np.zeros((1, 2, 3)))


@pytest.mark.parametrize(
    "change, argument",
    [
        ({"bits": 1}, "bits"),
        ({"q_max": -1.0}, "q_max"),
        ({"k_max": np.nan}, "k_max"),
        ({"group": 3}, "group"),
        ({"q": np.full((1, 2, 4), np.nan)}, "q"),
        ({"k": np.full((1, 3, 4), np.inf)}, "k"),
    ],
)
def test_prediction_refuses_bad_arguments_by_name(change: dict, argument: str) -> None:
    arguments = {"q": np.ones((1, 2, 4)), "k": np.ones((1, 3, 4)), "group": 2, "bits": 4, "scale": 1.0} | change
    with pytest.raises(ValueError, match=f"^{argument}: "):
        predict_scores(**arguments)


def plain_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, keep: np.ndarray, scale: float, bias: np.ndarray) -> np.ndarray:
    """One pair at a time."""
    out = np.zeros(q.shape)
    for batch, head, query in np.ndindex(q.shape[:3]):
        kv_head = head // (q.shape[1] // k.shape[1])
        kept = np.flatnonzero(keep[head, query])
        if len(kept):
            scores = [float(q[batch, head, query].astype(float) @ k[batch, kv_head, j]) * scale + bias[query, j] for j in kept]
            weights = np.exp(np.array(scores) - max(scores))
            out[batch, head, query] = weights @ v[batch, kv_head, kept] / weights.sum()
    return out


def test_sparse_attention_is_the_softmax_over_kept_pairs(operands: tuple[np.ndarray, ...]) -> None:
    q, k, v = operands
    rng = np.random.default_rng(4)
    keep = rng.random((4, 11, 13)) < 0.3
    keep[1, 5] = False
    bias = rng.standard_normal((11, 13))
    out = sparse_attention(q, k, v, keep, scale=0.3, bias=bias)
    assert out.dtype == q.dtype and not out[:, 1, 5].any()
    np.testing.assert_allclose(out, plain_attention(q, k, v, keep, 0.3, bias), atol=1e-6)
    default = sparse_attention(q, k, v, keep)
    np.testing.assert_array_equal(default, sparse_attention(q, k, v, keep, scale=0.25, bias=np.zeros((11, 13))))


def test_a_bias_of_minus_infinity_takes_a_pair_out(operands: tuple[np.ndarray, ...]) -> None:
    q, k, v = operands
    keep = np.random.default_rng(6).random((11, 13)) < 0.5
    bias = np.where(keep, 0.0, -np.inf)
    np.testing.assert_array_equal(sparse_attention(q, k, v, np.True_, bias=bias), sparse_attention(q, k, v, keep))


def test_attention_of_tensors_is_a_tensor_of_that_number_format(operands: tuple[np.ndarray, ...]) -> None:
    torch = pytest.importorskip("torch")
    q, k, v = (torch.from_numpy(x).bfloat16() for x in operands)
    out = sparse_attention(q, k, v, torch.ones(11, 13, dtype=torch.bool))
    assert isinstance(out, torch.Tensor) and out.dtype == torch.bfloat16
    plain = sparse_attention(*(x.double().numpy() for x in (q, k, v)), np.ones((11, 13), dtype=bool))
    assert torch.equal(out, torch.from_numpy(plain).bfloat16())


@pytest.mark.parametrize("name, shape", [("q", (2, 3, 11, 16)), ("k", (2, 2, 13, 8)), ("v", (2, 2, 12, 16)), ("keep", (3, 11, 13))])
def test_shapes_that_do_not_fit_are_refused_by_name(name: str, shape: tuple[int, ...]) -> None:
    arguments = {"q": np.ones((2, 4, 11, 16)), "k": np.ones((2, 2, 13, 16)), "v": np.ones((2, 2, 13, 16)), "keep": np.ones((11, 13), bool)}
    with pytest.raises(ValueError, match=f"^{name}: "):
        sparse_attention(**arguments | {name: np.ones(shape, bool if name == "keep" else float)})
