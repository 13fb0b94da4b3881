"""Masks, integer scores and outputs equal those of the DynaX authors' code (tests/golden/README.md says how they were made)."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from xmsim.reference.attention import nm_keep, predict_integer_scores, predict_scores, sanger_keep, sparse_attention, topk_keep, xm_keep

GOLDEN = Path(__file__).parents[1] / "golden"
KINDS = {"n1": 0, "n3": 1, "t3": 2, "llm": 3}
METHODS = {
    "xm_t1.0_0.1": lambda s: xm_keep(s, threshold_high=1.0, threshold_low=0.1),
    "xm_t1.5_0.2": lambda s: xm_keep(s, threshold_high=1.5, threshold_low=0.2),
    "nm_16_64": lambda s: nm_keep(s, kept=16, block=64),
    "nm_2_4": lambda s: nm_keep(s, kept=2, block=4),
    "sanger_1e-4": lambda s: sanger_keep(s, threshold=1e-4),
    "sanger_2e-3": lambda s: sanger_keep(s, threshold=2e-3),
    "topk_32": lambda s: topk_keep(s, kept=32),
}


def causal_scores(kind: str, tokens: int) -> np.ndarray:
    """The score recipe of the golden masks, with -inf above the diagonal."""
    rng = np.random.default_rng(1000 * tokens + KINDS[kind])
    normal = rng.standard_normal((1, 2, tokens, tokens), dtype=np.float32)
    if kind == "n3":
        normal = normal * np.float32(3)
    elif kind == "t3":
        normal = (rng.standard_t(3.0, size=normal.shape) * 1.5).astype(np.float32)
    elif kind == "llm":
        i, j = np.arange(tokens)[:, None], np.arange(tokens)
        near = (4 * np.exp(-np.abs(i - j) / 16)).astype(np.float32)
        sink = (6 * (j == 0)).astype(np.float32)
        normal = normal * np.float32(1.5) + (near + sink)
    golden = np.load(GOLDEN / f"dynax_mask_{kind}_{tokens}.npz")
    assert sha256(normal.tobytes()).hexdigest() == str(golden["input_sha256"])
    return np.where(np.tri(tokens, dtype=bool), normal, np.float32(-np.inf))


def unpacked(bits: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape).astype(bool)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("tokens", [128, 256])
@pytest.mark.parametrize("kind", KINDS)
def test_masks_equal_the_authors_bit_for_bit(kind: str, tokens: int, method: str) -> None:
    scores = causal_scores(kind, tokens)
    golden = np.load(GOLDEN / f"dynax_mask_{kind}_{tokens}.npz")
    keep = METHODS[method](scores)
    np.testing.assert_array_equal(keep, unpacked(golden[f"{method}__bits"], scores.shape))
    assert keep.sum() / (2 * np.tri(tokens).sum()) == pytest.approx(float(golden[f"{method}__density"]), abs=1e-6)


@pytest.mark.parametrize(
    "mode, group, bits", [("1_2_4bit_w4", 2, 4), ("1_4_6bit_w6", 4, 6), ("plain_w4", 1, 4), ("plain_w6", 1, 6), ("plain_w8", 1, 8)]
)
@pytest.mark.parametrize("tag", ["a", "b"])
def test_integer_scores_equal_the_authors_exactly(tag: str, mode: str, group: int, bits: int) -> None:
    golden = np.load(GOLDEN / "dynax_quant_qk.npz")
    rng = np.random.default_rng(int(golden[f"{tag}__seed"]))
    q_std, k_std = golden[f"{tag}__sqsk"]
    q = rng.standard_normal((1, 2, 64, 64), dtype=np.float32) * q_std
    k = rng.standard_normal((1, 2, 64, 64), dtype=np.float32) * k_std
    assert sha256(q.tobytes()).hexdigest() == str(golden[f"{tag}__q_sha256"])
    q_int, k_int, scores, factor = predict_integer_scores(q, k, group=group, bits=bits, scale=0.125)
    np.testing.assert_array_equal(scores, golden[f"{tag}__{mode}__score_int"])
    if group > 1:
        np.testing.assert_array_equal(q_int, golden[f"{tag}__{mode}__q_int"])
        np.testing.assert_array_equal(k_int, golden[f"{tag}__{mode}__k_int"])
        kept = golden[f"{tag}__{mode}__kept_idx"][..., None] == np.arange(group)  # the channel kept of each group
        assert not q_int[~kept.reshape(q.shape)].any()
    np.testing.assert_allclose(scores[0, 0, :8, :8] * factor, golden[f"{tag}__{mode}__out_8x8"] * 0.125, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def path() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / "dynax_attention_path.npz"))


@pytest.fixture(scope="module")
def operands(path: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The q, k, v that the authors' attention function was given."""
    rng = np.random.default_rng(9001)
    q, k, v = (rng.standard_normal((1, 1, 128, 64), dtype=np.float32) for _ in range(3))
    q *= np.float32(1.6)
    k[:, :, 0, :] += np.float32(0.5) * np.sign(q.mean(axis=(0, 1, 2)))
    for name, array in (("q", q), ("k", k), ("v", v)):
        assert sha256(array.tobytes()).hexdigest() == str(path[f"{name}_sha256"])
    return q, k, v


CAUSAL = np.where(np.tri(128, dtype=bool), np.float32(0), np.float32(-np.inf))
PATH_METHODS = {
    "dense": lambda s: s > -np.inf,
    "xm": METHODS["xm_t1.0_0.1"],
    "xm2": METHODS["xm_t1.5_0.2"],
    "nm": METHODS["nm_16_64"],
    "sanger": METHODS["sanger_1e-4"],
    "topk32": METHODS["topk_32"],
}


@pytest.mark.parametrize("method", PATH_METHODS)
def test_attention_outputs_equal_the_authors_to_their_rounding(
    method: str, path: dict[str, np.ndarray], operands: tuple[np.ndarray, ...]
) -> None:
    q, k, v = operands
    scores = q @ k.swapaxes(-1, -2) * np.float32(0.125) + CAUSAL
    keep = PATH_METHODS[method](scores)
    np.testing.assert_allclose(sparse_attention(q, k, v, keep), path[f"{method}__out"], atol=2e-6)


@pytest.mark.parametrize("name, group, bits", [("xm_q146", 4, 6), ("xm_q124", 2, 4)])
def test_masks_from_predicted_scores_equal_the_authors_but_for_ties(
    name: str, group: int, bits: int, path: dict[str, np.ndarray], operands: tuple[np.ndarray, ...]
) -> None:
    q, k, v = operands
    integers = predict_integer_scores(q, k, group=group, bits=bits, scale=0.125)[2]
    np.testing.assert_array_equal(np.tril(integers), np.tril(path[f"{name}__score_int"]))
    keep = xm_keep(predict_scores(q, k, group=group, bits=bits, scale=0.125) + CAUSAL)
    np.testing.assert_array_equal(keep, unpacked(path[f"{name}__canonical_bits"], keep.shape))
    authors = unpacked(path[f"{name}__bits"], keep.shape)  # torch's top-k leaves the order of equal scores open
    np.testing.assert_array_equal(*(np.add.reduceat(mask, [0, 64], axis=-1, dtype=int) for mask in (keep, authors)))
    np.testing.assert_allclose(sparse_attention(q, k, v, authors), path[f"{name}__out"], atol=2e-6)
