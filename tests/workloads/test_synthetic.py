from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from xmsim.reference.attention import xm_keep
from xmsim.workloads.synthetic import sink_local_operands, sink_local_scores

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("tokens", [128, 256])
def test_scores_are_those_of_the_golden_masks(tokens: int) -> None:
    scores = sink_local_scores(2, tokens, seed=1000 * tokens + 3, causal=False)
    golden = np.load(GOLDEN / f"dynax_mask_llm_{tokens}.npz")
    assert sha256(scores.tobytes()).hexdigest() == str(golden["input_sha256"])


def test_the_causal_cut_takes_pairs_away_and_changes_no_other() -> None:
    whole, cut = (sink_local_scores(2, 100, seed=5, causal=causal) for causal in (False, True))
    below = np.tri(100, dtype=bool)
    assert np.array_equal(whole[:, below], cut[:, below])
    assert np.isneginf(cut[:, ~below]).all()


def scores_of(heads: int, tokens: int, head_dim: int, kv_heads: int) -> np.ndarray:
    operands = sink_local_operands(heads, tokens, head_dim, seed=3, kv_heads=kv_heads)
    assert operands.v.shape == operands.k.shape == (kv_heads, tokens, head_dim)
    return np.asarray(operands.q @ operands.k.repeat(heads // kv_heads, axis=0).swapaxes(1, 2) * np.float32(operands.scale))


@pytest.mark.parametrize("head_dim", [64, 80, 128])
def test_operands_have_scores_of_the_same_sink_peak_and_noise(head_dim: int) -> None:
    scores = scores_of(4, 512, head_dim, 2)
    position = np.arange(512)
    peak = 4 * np.exp(-np.abs(position[:, None] - position) / 16)
    noise = scores - peak - 6 * (position == 0)
    assert abs(noise.mean()) < 0.05
    assert abs(noise[:, :, 0].mean()) < 0.5  # one key, which all queries of a head share
    assert 1.4 < noise.std() < 1.7
    near = [np.diagonal(scores, -distance, axis1=1, axis2=2)[:, 1:].mean() for distance in (0, 8, 16, 64, 256)]
    assert near == pytest.approx([4, 4 / np.e**0.5, 4 / np.e, 4 / np.e**4, 0], abs=0.5)


def test_operands_keep_as_many_pairs_as_the_recipe_does() -> None:
    def density(scores: np.ndarray) -> float:
        return float(xm_keep(scores, block=32, kept_high=8, kept_low=4).mean())

    assert density(scores_of(2, 512, 64, 2)) == pytest.approx(density(sink_local_scores(2, 512, seed=1, causal=False)), rel=0.05)


def test_neither_factor_of_the_sink_is_an_outlier() -> None:
    operands = sink_local_operands(2, 512, 64, seed=0)
    assert np.abs(operands.q).max() == pytest.approx(np.abs(operands.k).max(), rel=0.2)
    assert np.abs(operands.q).max() < 6 * operands.q[..., :31].std()


def test_what_cannot_be_made_is_refused() -> None:
    with pytest.raises(ValueError, match="head_dim: 4 channels are too few"):
        sink_local_operands(2, 16, 4, seed=0)
    with pytest.raises(ValueError, match="kv_heads: 4 query heads do not divide over 3"):
        sink_local_operands(4, 16, 16, seed=0, kv_heads=3)
