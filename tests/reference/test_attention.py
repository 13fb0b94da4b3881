"""Attention on kept pairs, against the plainest code there is."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from tests.reference.kinds import Kind

from xmsim.reference.attention import attention, sparse_attention


@pytest.fixture
def operands() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    q = rng.standard_normal((2, 4, 11, 16), dtype=np.float32)
    k, v = (rng.standard_normal((2, 2, 13, 16), dtype=np.float32) for _ in range(2))
    return q, k, v


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


def test_sparse_attention_is_the_softmax_over_kept_pairs(kind: Kind, operands: tuple[np.ndarray, ...]) -> None:
    q, k, v = operands
    rng = np.random.default_rng(4)
    keep = rng.random((4, 11, 13)) < 0.3
    keep[1, 5] = False
    bias = rng.standard_normal((11, 13))
    out = kind.map(partial(sparse_attention, scale=0.3, bias=kind.of(bias)), q, k, v, keep)
    assert out.dtype == q.dtype and not out[:, 1, 5].any()
    np.testing.assert_allclose(out, plain_attention(q, k, v, keep, 0.3, bias), atol=1e-6)
    default = kind.map(sparse_attention, q, k, v, keep)
    np.testing.assert_array_equal(default, kind.map(sparse_attention, q, k, v, keep, scale=0.25, bias=kind.of(np.zeros((11, 13)))))


def test_arrays_and_tensors_agree_to_the_rounding_of_float64(kind: Kind, operands: tuple[np.ndarray, ...]) -> None:
    q, k, v = (x.astype(np.float64) * 3 for x in operands)
    keep = np.random.default_rng(5).random((4, 11, 13)) < 0.4
    np.testing.assert_allclose(kind.map(sparse_attention, q, k, v, keep), sparse_attention(q, k, v, keep), rtol=1e-13, atol=1e-14)


def test_a_bias_of_minus_infinity_takes_a_pair_out(kind: Kind, operands: tuple[np.ndarray, ...]) -> None:
    q, k, v = operands
    keep = np.random.default_rng(6).random((11, 13)) < 0.5
    bias = kind.of(np.where(keep, 0.0, -np.inf))
    everything = kind.map(partial(sparse_attention, bias=bias), q, k, v, np.ones((1, 1), bool))
    np.testing.assert_array_equal(everything, kind.map(sparse_attention, q, k, v, keep))


def test_queries_are_computed_a_few_at_a_time(kind: Kind, operands: tuple[np.ndarray, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = operands
    keep = np.random.default_rng(7).random((4, 11, 13)) < 0.5
    whole = kind.map(sparse_attention, q, k, v, keep)
    monkeypatch.setattr(attention, "_CHUNK_ENTRIES", 2 * 13)
    np.testing.assert_allclose(kind.map(sparse_attention, q, k, v, keep), whole, rtol=1e-6)


def test_no_keys_and_no_queries_are_no_error(kind: Kind) -> None:
    q, k = np.ones((2, 3, 4)), np.ones((2, 0, 4))
    assert not kind.map(sparse_attention, q, k, k, np.ones((3, 0), bool)).any()
    assert kind.map(sparse_attention, q[:, :0], q, q, np.ones((1, 1), bool)).shape == (2, 0, 4)


def test_attention_of_tensors_is_a_tensor_of_that_number_format(operands: tuple[np.ndarray, ...]) -> None:
    torch = pytest.importorskip("torch")
    q, k, v = (torch.from_numpy(x).bfloat16().requires_grad_() for x in operands)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = sparse_attention(q, k, v, torch.ones(11, 13, dtype=torch.bool))
    assert out.dtype == torch.bfloat16 and not out.requires_grad
    plain = sparse_attention(*(x.detach().double().numpy() for x in (q, k, v)), np.ones((11, 13), dtype=bool))
    assert torch.equal(out, torch.from_numpy(plain).bfloat16())


@pytest.mark.parametrize(
    "name, shape", [("q", (2, 3, 11, 16)), ("k", (2, 2, 13, 8)), ("v", (2, 2, 12, 16)), ("keep", (3, 11, 13)), ("bias", (12, 13))]
)
def test_shapes_that_do_not_fit_are_refused_by_name(kind: Kind, name: str, shape: tuple[int, ...]) -> None:
    arguments = {"q": np.ones((2, 4, 11, 16)), "k": np.ones((2, 2, 13, 16)), "v": np.ones((2, 2, 13, 16)), "keep": np.ones((11, 13), bool)}
    arguments[name] = np.ones(shape, bool if name == "keep" else float)
    with pytest.raises(ValueError, match=f"^{name}: "):
        sparse_attention(**{each: kind.of(array) for each, array in arguments.items()})


def test_a_mask_of_numbers_is_refused(kind: Kind) -> None:
    operand = kind.of(np.ones((1, 2, 4)))
    with pytest.raises(ValueError, match=r"^keep: bool is needed, got float64"):
        sparse_attention(operand, operand, operand, kind.of(np.zeros((2, 2))))
