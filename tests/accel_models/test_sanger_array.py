"""The register-level model against the golden trace, and the closed forms against the register-level model."""

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmsim.accel_models.sanger_array import (
    ExecuteArrayConfig,
    PassOperands,
    pass_drain_cycles,
    pass_period_cycles,
    phase_cycles,
    trace_passes,
)
from xmsim.accel_models.shift_exp import exp_table, shift_exp

GOLDEN = Path(__file__).parents[1] / "golden" / "sanger_rtl_trace.csv"
BITS, POINT = 32, 16


def array(rows=4, pes=2, ports=4, control="broadcast", row_sums="serial"):
    return ExecuteArrayConfig(rows=rows, pes=pes, ports=ports, control=control, row_sums=row_sums)


def test_the_register_model_equals_the_34_edge_trace_integer_by_integer():
    row, channel, one = np.arange(4)[:, None], np.arange(8), 2**POINT
    operands = PassOperands(
        q=(3 * row + 5 * channel) % 7 * one // 16,
        k=(2 * channel + 3 * row) % 5 * one // 16,
        v=(row + 2 * channel) % 4 * one // 4,
        columns=np.array([[0, 1], [1, 3], [0, 3], [2, 3]]),
        busy=np.ones((4, 2), bool),
    )
    trace = trace_passes([operands], array(), bits=BITS, point=POINT)
    with GOLDEN.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(trace.outputs) == 34
    for edge, golden in enumerate(rows):
        for r in range(4):
            assert [int(golden[f"acc_r{r}p{p}"]) for p in range(2)] == trace.accumulators[edge, r].tolist()
            assert [int(golden[f"score_r{r}p{p}"]) for p in range(2)] == trace.scores[edge, r].tolist()
            assert int(golden[f"ssum_r{r}"]) == trace.row_sums[edge, r]
            assert golden[f"out_r{r}"] in ("", str(trace.outputs[edge, r]))


@st.composite
def work(draw):
    """An array and up to three passes of positive operands; rows keep any columns, and some keep none."""
    ports = draw(st.sampled_from([1, 2, 4, 8]))
    config = array(
        rows=draw(st.integers(1, 6)),
        pes=draw(st.integers(1, ports)),
        ports=ports,
        control=draw(st.sampled_from(["broadcast", "skewed"])),
        row_sums=draw(st.sampled_from(["serial", "overlapped"])),
    )
    head_dim, count = draw(st.integers(1, 9)), draw(st.integers(1, 3))
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    return config, [random_pass(random, config, head_dim) for _ in range(count)]


def random_pass(random, config, head_dim):
    columns = [np.sort(random.choice(config.ports, config.pes, replace=False)) for _ in range(config.rows)]
    return PassOperands(
        q=random.integers(2**13, 2**16, (config.rows, head_dim)),
        k=random.integers(2**13, 2**15, (config.ports, head_dim)),
        v=random.integers(2**13, 2**17, (config.ports, head_dim)),
        columns=np.array(columns),
        busy=random.random((config.rows, config.pes)) < random.choice([0.5, 1.0]),
    )


def expected(operands, row):
    """Output and row sum of a sub-row, from products truncated one by one; an idle unit adds e^0 to the sum."""
    kept = operands.columns[row][operands.busy[row]]
    scores = (operands.q[row] * operands.k[kept] >> POINT).sum(axis=1)
    weights = np.array([shift_exp(score, BITS, POINT, exp_table(POINT)) for score in scores], np.int64)
    idle = len(operands.columns[row]) - len(kept)
    return (weights[:, None] * operands.v[kept] >> POINT).sum(axis=0), weights.sum() + idle * 2**POINT


@settings(max_examples=150, deadline=None)
@given(work())
def test_outputs_and_row_sums_come_out_where_the_closed_forms_say(config_and_passes):
    config, passes = config_and_passes
    trace = trace_passes(passes, config, bits=BITS, point=POINT)
    head_dim = passes[0].q.shape[1]
    phase, period = phase_cycles(head_dim, config), pass_period_cycles(head_dim, config)
    assert len(trace.outputs) == len(passes) * period + pass_drain_cycles(config)
    for number, operands in enumerate(passes):
        values = number * period + 1 + phase + 1
        for row in range(config.rows):
            output, row_sum = expected(operands, row)
            first = values + config.ports + row
            assert np.array_equal(trace.outputs[first : first + head_dim, row], output)
            skew = row if config.control == "skewed" else 0
            summed = (number + 1) * period + skew + (config.pes if config.row_sums == "overlapped" else -1)
            assert trace.row_sums[summed, row] == row_sum
            assert trace.row_sums[summed - 1, row] < row_sum


@settings(max_examples=50, deadline=None)
@given(work())
def test_no_phase_could_be_shorter(config_and_passes):
    """The last row's last column meets its last key in the last edge of the scores, and its last value in the last of the values."""
    config, (operands, *_) = config_and_passes
    operands.columns[-1] = np.arange(config.ports - config.pes, config.ports)
    operands.busy[-1] = np.arange(config.pes) == config.pes - 1
    trace = trace_passes([operands], config, bits=BITS, point=POINT)
    head_dim = operands.q.shape[1]
    phase = phase_cycles(head_dim, config)
    skew = config.rows - 1 if config.control == "skewed" else 0
    last_score, last_value = 1 + phase - 1 + skew, 1 + phase + 1 + phase - 1 + skew
    last_unit = trace.accumulators[:, -1, -1]
    assert last_unit[last_score - 1] < last_unit[last_score] == last_unit[last_score + 1]
    output, _ = expected(operands, config.rows - 1)
    assert trace.outputs[last_value, -1] == output[-1]
    if config.control == "skewed":
        assert not trace.outputs[last_value + 1 :].any()


@pytest.mark.parametrize(
    ("control", "row_sums", "period", "drain"),
    [
        ("broadcast", "serial", 400, 0),
        ("broadcast", "overlapped", 384, 17),
        ("skewed", "serial", 274, 63),
        ("skewed", "overlapped", 258, 80),
    ],
)
def test_passes_of_the_paper_s_array_with_64_channels(control, row_sums, period, drain):
    config = array(64, 16, 64, control, row_sums)
    assert (pass_period_cycles(64, config), pass_drain_cycles(config)) == (period, drain)


def test_dimensions_that_cannot_work_are_refused_with_those_that_do():
    with pytest.raises(ValueError, match="choose 64, 32, 16"):
        array(ports=48)
    with pytest.raises(ValueError, match="lower pes to 4"):
        array(pes=5)
