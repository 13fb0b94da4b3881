"""The number of each kind of method that trades pruning against accuracy."""

from __future__ import annotations

import numpy as np
import pytest

from xmsim.workloads.methods.kinds import method_kinds
from xmsim.workloads.methods.library import load_method, shipped_methods

TOKENS = 150
FREE = tuple(name for name in shipped_methods() if load_method(name).config.free_parameter(TOKENS))


def test_every_kind_but_dense_and_the_fixed_pattern_has_one() -> None:
    assert {load_method(name).config.method for name in FREE} == set(method_kinds()) - {"dense", "fixed_pattern"}


def test_each_is_the_number_that_its_paper_tunes() -> None:
    found = {name: load_method(name).config.free_parameter(TOKENS) for name in ("xm", "nm", "sanger", "topk", "salo", "window", "bigbird")}
    assert {name: (free.name, free.values[0], free.values[-1], free.whole) for name, free in found.items()} == {
        "xm": ("kept_high", 64, 1, True),
        "nm": ("kept", 64, 1, True),
        "sanger": ("threshold", 1e-8, 0.999, False),
        "topk": ("kept", 150, 1, True),
        "salo": ("window", 64, 1, True),
        "window": ("window", 150, 1, True),
        "bigbird": ("band_blocks", 19, 1, True),  # ten blocks to either side of the diagonal's
    }


@pytest.mark.parametrize("name", FREE)
def test_a_later_value_never_keeps_more(name: str) -> None:
    config = load_method(name).config
    tokens = 400  # hugebird's global and random blocks alone fill less
    free = config.free_parameter(tokens)
    scores = np.random.default_rng(2).standard_normal((2, tokens, tokens), dtype=np.float32) * 2
    scores[:, ~np.tri(tokens, dtype=bool)] = -np.inf
    steps = sorted({round(part) for part in np.linspace(0, len(free.values) - 1, 9)})
    kept = [config.with_free(free, free.values[step]).keep(scores, kv_heads=2).sum() for step in steps]
    assert kept == sorted(kept, reverse=True) and kept[0] > 1.5 * kept[-1] > 0


def test_x_of_small_shares_moves_with_x_and_nothing_else_moves() -> None:
    xm = load_method("xm", prediction={"group": 4, "bits": 6}).config
    free = xm.free_parameter(TOKENS)
    moved = [xm.with_free(free, value) for value in (64, 16, 9, 1)]
    assert [(one.kept_high, one.kept_low) for one in moved] == [(64, 32), (16, 8), (9, 4), (1, 0)]
    assert moved[1] == xm
    assert all(one.model_dump(exclude={"kept_high", "kept_low"}) == xm.model_dump(exclude={"kept_high", "kept_low"}) for one in moved)


def test_a_dilated_window_needs_fewer_steps_to_reach_across_the_keys() -> None:
    window = load_method("window", dilation=4).config
    assert window.free_parameter(TOKENS).values == range(38, 0, -1)
