"""Masks, integer scores and outputs equal those of the DynaX authors' code (tests/golden/README.md says how they were made)."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any

import numpy as np
import pytest
from tests.reference.golden_scores import GOLDEN, KINDS, causal_scores, unpacked
from tests.reference.kinds import Kind

from xmsim.reference.attention import nm_keep, predict_integer_scores, predict_scores, sanger_keep, sparse_attention, topk_keep, xm_keep

METHODS: dict[str, Callable[[Any], Any]] = {
    "xm_t1.0_0.1": lambda s: xm_keep(s, threshold_high=1.0, threshold_low=0.1),
    "xm_t1.5_0.2": lambda s: xm_keep(s, threshold_high=1.5, threshold_low=0.2),
    "nm_16_64": lambda s: nm_keep(s, kept=16, block=64),
    "nm_2_4": lambda s: nm_keep(s, kept=2, block=4),
    "sanger_1e-4": lambda s: sanger_keep(s, threshold=1e-4),
    "sanger_2e-3": lambda s: sanger_keep(s, threshold=2e-3),
    "topk_32": lambda s: topk_keep(s, kept=32),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("tokens", [128, 256])
@pytest.mark.parametrize("recipe", KINDS)
def test_masks_equal_the_authors_bit_for_bit(kind: Kind, recipe: str, tokens: int, method: str) -> None:
    scores = causal_scores(recipe, tokens)
    golden = np.load(GOLDEN / f"dynax_mask_{recipe}_{tokens}.npz")
    keep = kind.map(METHODS[method], scores)
    np.testing.assert_array_equal(keep, unpacked(golden[f"{method}__bits"], scores.shape))
    assert keep.sum() / (2 * np.tri(tokens).sum()) == pytest.approx(float(golden[f"{method}__density"]), abs=1e-6)


@pytest.mark.parametrize(
    "mode, group, bits", [("1_2_4bit_w4", 2, 4), ("1_4_6bit_w6", 4, 6), ("plain_w4", 1, 4), ("plain_w6", 1, 6), ("plain_w8", 1, 8)]
)
@pytest.mark.parametrize("tag", ["a", "b"])
def test_integer_scores_equal_the_authors_exactly(kind: Kind, tag: str, mode: str, group: int, bits: int) -> None:
    golden = np.load(GOLDEN / "dynax_quant_qk.npz")
    rng = np.random.default_rng(int(golden[f"{tag}__seed"]))
    q_std, k_std = golden[f"{tag}__sqsk"]
    q = rng.standard_normal((1, 2, 64, 64), dtype=np.float32) * q_std
    k = rng.standard_normal((1, 2, 64, 64), dtype=np.float32) * k_std
    assert sha256(q.tobytes()).hexdigest() == str(golden[f"{tag}__q_sha256"])
    *integers, factor = predict_integer_scores(kind.of(q), kind.of(k), group=group, bits=bits, scale=0.125)
    q_int, k_int, scores = (kind.array(array) for array in integers)
    np.testing.assert_array_equal(scores, golden[f"{tag}__{mode}__score_int"])
    if group > 1:
        np.testing.assert_array_equal(q_int, golden[f"{tag}__{mode}__q_int"])
        np.testing.assert_array_equal(k_int, golden[f"{tag}__{mode}__k_int"])
        kept = golden[f"{tag}__{mode}__kept_idx"][..., None] == np.arange(group)  # the channel kept of each group
        assert not q_int[~kept.reshape(q.shape)].any()
    np.testing.assert_allclose(scores[0, 0, :8, :8] * factor, golden[f"{tag}__{mode}__out_8x8"] * 0.125, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bits", [2, 4, 6, 8])
def test_rounding_and_clamping_equal_the_authors(kind: Kind, bits: int) -> None:
    golden = np.load(GOLDEN / "dynax_quant_utils.npz")
    values, one, largest = golden["x"].reshape(1, -1, 1), np.ones((1, 1, 1), np.float32), 2 ** (bits - 1) - 1
    for q_max, expected in ((float(largest), f"quantize_unit_scale_b{bits}"), (None, f"fake_b{bits}")):
        *_, scores, factor = predict_integer_scores(kind.of(values), kind.of(one), group=1, bits=bits, scale=1.0, q_max=q_max)
        np.testing.assert_allclose(kind.array(scores).ravel() * factor, golden[expected], rtol=1e-6)  # the key, 1, stays 1


def test_values_beyond_maxima_of_earlier_tensors_equal_the_authors_product(kind: Kind) -> None:
    golden = np.load(GOLDEN / "dynax_quant_utils.npz")
    rng = np.random.default_rng(7104)
    q, k = (rng.standard_normal((1, 2, 8, 8), dtype=np.float32) for _ in range(2))
    q_max, k_max = golden["eval_thresh"]
    predicted = kind.map(predict_scores, q, k, group=1, bits=4, scale=1.0, q_max=q_max, k_max=k_max)
    np.testing.assert_allclose(predicted, golden["eval_out_seed7104"], rtol=1e-5, atol=1e-6)


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
    kind: Kind, method: str, path: dict[str, np.ndarray], operands: tuple[np.ndarray, ...]
) -> None:
    q, k, v = operands
    scores = q @ k.swapaxes(-1, -2) * np.float32(0.125) + CAUSAL
    keep = kind.map(PATH_METHODS[method], scores)
    np.testing.assert_allclose(kind.map(sparse_attention, q, k, v, keep), path[f"{method}__out"], atol=2e-6)


@pytest.mark.parametrize("name, group, bits", [("xm_q146", 4, 6), ("xm_q124", 2, 4)])
def test_masks_from_predicted_scores_equal_the_authors_but_for_ties(
    kind: Kind, name: str, group: int, bits: int, path: dict[str, np.ndarray], operands: tuple[np.ndarray, ...]
) -> None:
    q, k, v = operands
    integers = kind.array(predict_integer_scores(kind.of(q), kind.of(k), group=group, bits=bits, scale=0.125)[2])
    np.testing.assert_array_equal(np.tril(integers), np.tril(path[f"{name}__score_int"]))
    keep = kind.map(xm_keep, kind.map(predict_scores, q, k, group=group, bits=bits, scale=0.125) + CAUSAL)
    np.testing.assert_array_equal(keep, unpacked(path[f"{name}__canonical_bits"], keep.shape))
    authors = unpacked(path[f"{name}__bits"], keep.shape)  # torch's top-k leaves the order of equal scores open
    np.testing.assert_array_equal(*(np.add.reduceat(mask, [0, 64], axis=-1, dtype=int) for mask in (keep, authors)))
    np.testing.assert_allclose(kind.map(sparse_attention, q, k, v, authors), path[f"{name}__out"], atol=2e-6)
