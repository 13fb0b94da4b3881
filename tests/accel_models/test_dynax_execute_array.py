"""The register-level model against golden traces, and the closed forms against the register-level model."""

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmsim.accel_models.dynax_execute_array import (
    ACCUMULATE,
    CLEAR,
    EXP,
    HOLD,
    KEEP,
    MOVE_OUT,
    BlockOperands,
    ExecuteArrayConfig,
    ExecuteProgram,
    block_drain_cycles,
    block_period_cycles,
    execute_program,
    trace_execute,
    values_cycle,
)
from xmsim.accel_models.shift_exp import exp_table, shift_exp

GOLDEN = Path(__file__).parents[1] / "golden"
BITS, POINT = 24, 12


@pytest.fixture(scope="module")
def arrays():
    return np.load(GOLDEN / "dynax_rtl_repearray.npz")


@pytest.fixture(scope="module")
def parts():
    return np.load(GOLDEN / "dynax_rtl_repe.npz")


def array(rows=4, columns=2, control="skewed"):
    return ExecuteArrayConfig(count=1, rows=rows, columns=columns, control=control)


def test_a_row_equals_its_golden_trace_integer_by_integer(parts):
    inputs = parts["row_in"].astype(np.int64)
    q, clear, accumulate, exponential = (inputs[:, place : place + 1] for place in range(4))
    program = ExecuteProgram(q, inputs[:, 7:], inputs[:, None, 4:7], accumulate, exponential, clear[:, 0])
    trace = trace_execute(program, bits=BITS, point=POINT)
    state = (trace.adder, trace.q, trace.outputs[:, 0], trace.accumulators[:, 0], trace.exponentials[:, 0], trace.columns[:, 0])
    assert np.array_equal(np.column_stack(state), parts["row_after"])


def test_a_pe_equals_its_golden_trace_integer_by_integer(parts):
    """A row of one PE, which gets query and keys through registers, and so a cycle later."""
    q, accumulate, exponential, select, *columns = parts["pe_in"].astype(np.int64).T
    late = lambda x, before: np.concatenate([[before], x])[:, None]  # noqa: E731
    top = np.append(np.column_stack(columns), np.zeros((1, len(columns)), np.int64), axis=0)
    program = ExecuteProgram(
        q=np.append(q, 0)[:, None],
        top=top,
        select=late(select, 0)[..., None],
        accumulate=late(accumulate, HOLD),
        exponential=late(exponential, KEEP),
        clear=np.zeros(len(q) + 1, np.int64),
    )
    trace = trace_execute(program, bits=BITS, point=POINT)
    state = np.column_stack([x[1:, 0, 0] for x in (trace.outputs, trace.accumulators, trace.exponentials)])
    assert np.array_equal(state, parts["pe_after"])


@pytest.mark.parametrize("control", ["bc", "bcd", "sk", "skd"])
def test_an_array_equals_its_golden_trace_integer_by_integer(arrays, control):
    drive = [arrays[f"{control}_{name}"].astype(np.int64) for name in ("q", "top", "selc", "acc_ctrl", "exp_ctrl")]
    trace = trace_execute(ExecuteProgram(*drive, np.zeros(len(drive[0]), np.int64)), bits=BITS, point=POINT)
    for register, name in (("accumulators", "acc"), ("exponentials", "score_exp"), ("adder", "adder_out"), ("outputs", "out")):
        assert np.array_equal(getattr(trace, register), arrays[f"{control}_{name}"]), register


@pytest.mark.parametrize(("tag", "control"), [("bc", "broadcast"), ("sk", "skewed")])
def test_the_program_and_the_closed_forms_are_those_of_the_golden_trace(arrays, tag, control):
    rows, columns, _, head_dim, *_, period, values = arrays[f"{tag}_par"].tolist()
    config = array(rows, columns, control)
    assert (block_period_cycles(head_dim, config), values_cycle(head_dim, config)) == (period, values)
    words = (arrays[name].astype(np.int64) for name in ("Q", "K", "V", "sel"))
    blocks = [BlockOperands(q, k.T, v.T, select) for q, k, v, select in zip(*words, strict=True)]
    program = execute_program(blocks, config)
    names = ("q", "top", "selc", "acc_ctrl", "exp_ctrl")
    for drive, name in zip(program, names, strict=False):
        assert np.array_equal(drive, arrays[f"{tag}_{name}"]), name


@pytest.mark.parametrize("control", ["broadcast", "skewed"])
def test_the_case_that_can_be_followed_by_hand(control):
    with (GOLDEN / "dynax_rtl_repearray_small.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["control"] == control]
    columns = lambda *names: np.array([[int(row[name]) for name in names] for row in rows])  # noqa: E731
    numbers = {"clear": CLEAR, "idle": HOLD, "accumulate": ACCUMULATE, "exp": HOLD, "move_out": MOVE_OUT}
    commands = [[row[f"command_r{r}"] for r in (0, 1)] for row in rows]
    program = ExecuteProgram(
        q=columns("q_r0", "q_r1"),
        top=columns("col0", "col1", "col2", "col3"),
        select=np.repeat(np.array([[[0, 2], [1, 3]]]), len(rows), axis=0),
        accumulate=np.array([[numbers[command] for command in pair] for pair in commands]),
        exponential=np.array([[EXP if command == "exp" else KEEP for command in pair] for pair in commands]),
        clear=np.zeros(len(rows), np.int64),
    )
    trace = trace_execute(program, bits=16, point=8)
    for register, name in (("accumulators", "acc"), ("exponentials", "score_exp"), ("outputs", "out")):
        assert np.array_equal(
            getattr(trace, register).reshape(len(rows), 4), columns(*(f"{name}_r{r}p{p}" for r in (0, 1) for p in (0, 1)))
        )
    assert np.array_equal(trace.adder, columns("adder_r0", "adder_r1"))


@st.composite
def work(draw):
    """An array and up to three blocks of positive operands; rows select any keys, and some of their PEs none."""
    config = array(draw(st.integers(1, 6)), draw(st.integers(1, 4)), draw(st.sampled_from(["broadcast", "skewed"])))
    keys, head_dim = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    block = lambda: BlockOperands(  # noqa: E731
        q=random.integers(2**8, 2**11, (config.rows, head_dim)),
        k=random.integers(2**8, 2**11, (keys, head_dim)),
        v=random.integers(2**8, 2**12, (keys, head_dim)),
        select=random.integers(0, keys + 1, (config.rows, config.columns)),
    )
    return config, [block() for _ in range(draw(st.integers(1, 3)))]


def expected(block, row):
    """Numerators and denominator of a segment, products truncated one by one; a PE that selects zero adds e^0."""
    k, v = (np.append(x, np.zeros((1, x.shape[1]), np.int64), axis=0)[block.select[row]] for x in (block.k, block.v))
    scores = (block.q[row] * k >> POINT).sum(axis=1)
    weights = np.array([shift_exp(int(score), BITS, POINT, exp_table(POINT)) for score in scores])
    return (weights[:, None] * v >> POINT).sum(axis=0), weights.sum()


@settings(max_examples=150, deadline=None)
@given(work())
def test_numerators_and_denominators_come_out_where_the_closed_forms_say(config_and_blocks):
    config, blocks = config_and_blocks
    trace = trace_execute(execute_program(blocks, config), bits=BITS, point=POINT)
    head_dim = blocks[0].q.shape[1]
    values, period = values_cycle(head_dim, config), block_period_cycles(head_dim, config)
    assert len(trace.adder) == len(blocks) * period + block_drain_cycles(config)
    for number, block in enumerate(blocks):
        for row in range(config.rows):
            numerators, denominator = expected(block, row)
            first = number * period + values + row + 2
            assert np.array_equal(trace.adder[first : first + head_dim, row], numerators)
            skew = row if config.control == "skewed" else 0
            assert trace.adder[(number + 1) * period + 1 + skew, row] == denominator
    assert trace.adder[-1, -1] == expected(blocks[-1], -1)[1]


@settings(max_examples=50, deadline=None)
@given(work())
def test_no_block_period_could_be_shorter(config_and_blocks):
    """Scores of the last row are complete after the last cycle of accumulation, and in no cycle of a period does a row do nothing."""
    config, blocks = config_and_blocks
    blocks[0].select[-1, -1] = 0
    program = execute_program(blocks, config)
    trace = trace_execute(program, bits=BITS, point=POINT)
    head_dim = blocks[0].q.shape[1]
    skew = config.rows - 1 if config.control == "skewed" else 0
    last = values_cycle(head_dim, config) - 1 + skew
    scores = trace.accumulators[:, -1, -1]
    assert scores[last - 1] < scores[last] == scores[last + 1]
    periods = slice(1 + skew, 1 + skew + len(blocks) * block_period_cycles(head_dim, config))
    idle = (program.accumulate[periods, -1] == HOLD) & (program.exponential[periods, -1] == KEEP)
    assert not idle.any()
    assert trace.adder[-2, -1] == expected(blocks[-1], -1)[0][-1]  # the last numerator leaves a cycle before the last denominator


@pytest.mark.parametrize(("control", "period", "drain"), [("skewed", 130, 33), ("broadcast", 192, 2)])
def test_a_block_of_the_small_machine_with_64_channels(control, period, drain):
    config = array(32, 4, control)
    assert (block_period_cycles(64, config), block_drain_cycles(config)) == (period, drain)
