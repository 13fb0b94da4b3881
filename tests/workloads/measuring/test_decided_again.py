"""Which lists are decided twice, on lists whose near ties were put there by hand."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from xmsim.workloads.measuring.decided_again import FAR_WEIGHT, SHARE_MARGIN, WEIGHT_MARGIN, DecidedAgain, decided_again

RULE = {"kept_high": 16, "kept_low": 8, "threshold_high": 1.5, "threshold_low": 0.1}
CLEAR, CLASSIFIED, RANKED = DecidedAgain(0, 0), DecidedAgain(1, 0), DecidedAgain(0, 1)


def weights(shares: tuple[float, ...]) -> np.ndarray:
    """One list whose blocks have these shares; in a block each key weighs a tenth less than the one before."""
    falling = 0.9 ** np.arange(64)
    return np.log(np.concatenate([share * falling / falling.sum() for share in shares]))[None]


def test_weights_far_apart_are_decided_once() -> None:
    assert decided_again(weights((0.2, 0.8)), **RULE) == CLEAR


@pytest.mark.parametrize(("apart", "expected"), [(1e-6, CLASSIFIED), (1e-4, CLEAR)])
def test_a_share_near_its_threshold_is_weighed_again(apart: float, expected: DecidedAgain) -> None:
    share = 0.75 * (1 + apart)  # of two blocks, and 1.5 times even is the threshold
    assert decided_again(weights((1 - share, share)), **RULE) == expected


@pytest.mark.parametrize(("place", "apart", "expected"), [(8, 1e-6, RANKED), (8, 1e-4, CLEAR), (9, 1e-6, CLEAR)])
def test_keys_alike_are_ranked_again_where_the_cut_lies_between_them(place: int, apart: float, expected: DecidedAgain) -> None:
    found = weights((0.2, 0.8))
    found[0, place] = found[0, place - 1] - apart  # the first block keeps eight
    assert decided_again(found, **RULE) == expected


def test_a_list_that_is_weighed_again_is_not_counted_twice() -> None:
    found = weights((0.25, 0.75))
    found[0, 8] = found[0, 7]
    found[0, :64] += np.log(0.25 / np.exp(found[0, :64]).sum())
    assert decided_again(np.concatenate([found, weights((0.2, 0.8))]), **RULE) == CLASSIFIED


def test_margins_are_those_of_the_kernel() -> None:
    source = (Path(__file__).resolve().parents[3] / "reference" / "kernels" / "cpu" / "kv_select.h").read_text(encoding="utf-8")
    margins = dict(re.findall(r"constexpr (?:float|double) (k\w+) = ([\d.e-]+?)f?;", source))
    ours = {"kShareMargin": SHARE_MARGIN, "kWeightMargin": WEIGHT_MARGIN, "kFarWeight": FAR_WEIGHT}
    assert {name: float(value) for name, value in margins.items()} == ours
