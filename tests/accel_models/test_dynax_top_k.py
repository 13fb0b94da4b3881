import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmsim.accel_models.dynax_top_k import (
    RELEASED,
    REPAIRED,
    PruningConfig,
    Repairs,
    index_record_bytes,
    rank_latency_cycles,
    trace_top_k,
)

GOLDEN = Path(__file__).parents[1] / "golden"
STATES = {
    "released": RELEASED,
    "repaired": Repairs(last_loser=True, gaps=False, ties=False),
    "repaired_gap": Repairs(last_loser=True, gaps=True, ties=False),
    "repaired_gap_tie": REPAIRED,
}


@pytest.fixture(scope="module")
def traces():
    return np.load(GOLDEN / "dynax_rtl_topk.npz")


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("kind", ["distinct", "ties", "gap2", "zeros", "stall"])
@pytest.mark.parametrize(("block", "kept"), [(8, 3), (32, 8), (64, 16)])
def test_a_cascade_equals_its_golden_trace_integer_by_integer(traces, block, kept, kind, state):
    case = f"m{block}n{kept}_{kind}"
    enable, data = traces[f"{case}_in"].astype(np.int64).T
    trace = trace_top_k(enable, data, PruningConfig(block=block, kept=kept), STATES[state])
    assert np.array_equal(trace.valid, traces[f"{case}_{state}_idxValid"])
    assert np.array_equal(trace.kept_index, traces[f"{case}_{state}_idx"])
    assert np.array_equal(trace.passed_on, traces[f"{case}_{state}_outData"])


@pytest.mark.parametrize("state", STATES)
def test_the_case_that_can_be_followed_by_hand(state):
    with (GOLDEN / "dynax_rtl_topk_small.csv").open() as file:
        rows = list(csv.DictReader(file))
    columns = lambda *names: np.array([[int(row[name]) for name in names] for row in rows])  # noqa: E731
    enable, data = columns("enable", "data").T
    trace = trace_top_k(enable, data, PruningConfig(block=4, kept=2), STATES[state])
    for register, name in (("kept_index", "idx"), ("valid", "valid"), ("passed_on", "out")):
        assert np.array_equal(getattr(trace, register), columns(f"{state}_{name}0", f"{state}_{name}1"))


@st.composite
def streams(draw):
    """A cascade and blocks of positive elements, with cycles in between that bring none."""
    block = draw(st.integers(1, 40))
    config = PruningConfig(block=block, kept=draw(st.integers(1, min(block, 10))))
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    elements = random.integers(1, draw(st.sampled_from([3, 50, 2**20])), (draw(st.integers(1, 4)), block))
    enable = np.concatenate([np.repeat([0, 1], [gap, 1]) for gap in random.integers(0, draw(st.sampled_from([1, 4])), elements.size)])
    return config, elements, np.concatenate([enable, np.zeros(config.kept, np.int64)])


@settings(max_examples=200, deadline=None)
@given(streams())
def test_the_repaired_cascade_ranks_the_largest_lowest_index_first_and_a_rank_a_cycle(stream):
    config, elements, enable = stream
    data = np.zeros_like(enable)
    data[enable == 1] = elements.ravel()
    trace = trace_top_k(enable, data, config, REPAIRED)
    last = np.flatnonzero(enable)[config.block - 1 :: config.block]
    for rank in range(config.kept):
        there = last + rank_latency_cycles(rank) - 1
        assert np.array_equal(np.flatnonzero(trace.valid[:, rank]), there)
        assert np.array_equal(trace.kept_index[there, rank], np.argsort(-elements, axis=1, kind="stable")[:, rank])


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 40), st.integers(0, 2**16))
def test_the_released_cascade_loses_the_loser_of_each_block_s_last_comparison(block, seed):
    config = PruningConfig(block=block, kept=block)
    elements = np.random.default_rng(seed).permutation(block) + 1
    enable = np.repeat([1, 0], block)
    trace = trace_top_k(enable, np.concatenate([elements, 0 * elements]), config, RELEASED)
    found = [int(trace.kept_index[block - 1 + rank, rank]) for rank in range(block - 1)]
    before = elements[:-1]
    lost = block - 1 if elements[-1] < before.max() else int(before.argmax())
    assert sorted(found) == [index for index in range(block) if index != lost]


@pytest.mark.parametrize(("block", "kept", "size_bytes"), [(32, 8, 7), (64, 16, 14)])
def test_an_index_record_is_nine_times_smaller_than_the_scores(block, kept, size_bytes):
    assert index_record_bytes(PruningConfig(block=block, kept=kept)) == size_bytes


def test_more_than_a_block_holds_cannot_be_kept():
    with pytest.raises(ValueError, match="kept: 9 of every 8 keys cannot be kept"):
        PruningConfig(block=8, kept=9)
