import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmsim.accel_models.sanger_prediction import (
    PredictionArrayConfig,
    calc_cycles,
    move_cycles,
    tile_drain_cycles,
    tile_period_cycles,
    trace_tiles,
)
from xmsim.accel_models.shift_exp import exp_table, shift_exp_array

BITS, POINT = 20, 8


def array(rows=64, columns=64, control="broadcast"):
    return PredictionArrayConfig(rows=rows, columns=columns, bits=4, control=control, exp_bits=BITS, key_buffer_bytes=1)


@st.composite
def work(draw):
    config = array(draw(st.integers(1, 8)), draw(st.integers(1, 8)), draw(st.sampled_from(["broadcast", "skewed"])))
    head_dim, tiles = draw(st.integers(1, 9)), draw(st.integers(1, 3))
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    return config, random.integers(1, 16, (config.rows, head_dim)), random.integers(1, 16, (tiles, config.columns, head_dim))


@settings(max_examples=100, deadline=None)
@given(work())
def test_scores_exponentials_and_row_sums_are_complete_when_the_closed_forms_say_and_no_edge_earlier(config_and_operands):
    config, q, k = config_and_operands
    trace = trace_tiles(q, k, config, point=POINT)
    calc, period = calc_cycles(q.shape[1], config), tile_period_cycles(q.shape[1], config)
    assert len(trace.exps) == len(k) * period + tile_drain_cycles(config)
    scores = np.einsum("rd,tcd->trc", q, k)
    exps = shift_exp_array(scores, BITS, POINT, exp_table(POINT))
    for row in range(config.rows):
        skew = row if config.control == "skewed" else 0
        for tile in range(len(k)):
            done = tile * period + calc - 1 + skew
            assert np.array_equal(trace.scores[done, row], scores[tile, row])
            assert np.array_equal(trace.exps[done + 1 : done + 1 + config.columns, row], exps[tile, row, ::-1])
            total = exps[: tile + 1, row].sum()
            assert trace.row_sums[done + move_cycles(config), row] == total > trace.row_sums[done + move_cycles(config) - 1, row]
    last = (len(k) - 1) * period + calc - 1 + tile_drain_cycles(config)
    assert trace.scores[last - 1, -1, -1] < scores[-1, -1, -1]


def test_the_tile_of_the_authors_test_sums_for_23_edges():
    assert calc_cycles(8, array(8, 8)) == 23


@pytest.mark.parametrize(("control", "period", "drain"), [("broadcast", 191 + 65, 0), ("skewed", 128 + 65, 63)])
def test_a_tile_of_64_by_64_with_64_channels(control, period, drain):
    config = array(control=control)
    assert (tile_period_cycles(64, config), tile_drain_cycles(config)) == (period, drain)
