"""Windows as the protocols cut them, counted by hand."""

from __future__ import annotations

import pytest

from xmsim.workloads.quality.protocols import PROTOCOLS, WindowPlan, consecutive_windows, sliding_windows


def scored_places(plan: WindowPlan, tokens: int) -> list[int]:
    return [place for start in plan.starts(tokens) for place in range(start + plan.tokens - plan.scored, start + plan.tokens)]


def test_dynax_and_wanda_cut_windows_that_do_not_overlap_and_score_all_but_their_first_token():
    for name in ("dynax", "wanda"):
        plan = PROTOCOLS[name](4)
        assert list(plan.starts(11)) == [0, 4]  # tokens 8, 9 and 10 are dropped
        assert scored_places(plan, 11) == [1, 2, 3, 5, 6, 7]


def test_teal_scores_a_quarter_behind_a_context_of_the_length_and_moves_on_by_it():
    plan = PROTOCOLS["teal"](8)
    assert (plan.tokens, plan.scored, plan.stride) == (10, 2, 2)
    assert list(plan.starts(15)) == [0, 2, 4]  # 4 + 10 = 14; token 14 is dropped
    assert scored_places(plan, 15) == [8, 9, 10, 11, 12, 13]


def test_teal_at_2048_is_the_published_2560_of_which_512_are_scored():
    plan = sliding_windows(2048)
    assert (plan.tokens, plan.scored, plan.stride) == (2560, 512, 512)
    assert len(plan.starts(341_471)) == 341_471 // 512 - 2560 // 512 + 1  # the loop of the authors, on Llama 2's WikiText-2


@pytest.mark.parametrize("cut", [consecutive_windows, sliding_windows])
def test_a_text_of_exactly_one_window_is_one_window_and_a_token_less_is_none(cut):
    plan = cut(8)
    assert len(plan.starts(plan.tokens)) == 1
    assert len(plan.starts(plan.tokens - 1)) == 0


def test_no_token_is_scored_twice_and_none_between_the_first_and_the_last_is_missed_by_teal():
    places = scored_places(sliding_windows(12), 100)
    assert places == list(range(places[0], places[-1] + 1))
