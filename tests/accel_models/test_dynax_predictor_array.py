"""The register-level model against golden traces, and the closed forms against the register-level model."""

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmsim.accel_models.dynax import prediction_latency_cycles
from xmsim.accel_models.dynax_predictor_array import (
    CALC,
    CLEAR,
    INPUT,
    SUM_KEYS,
    PredictionArrayConfig,
    PredictorFormat,
    PredictorProgram,
    predictor_program,
    tile_period_cycles,
    trace_pe,
    trace_predictor,
)
from xmsim.accel_models.dynax_top_k import REPAIRED, PruningConfig, trace_top_k
from xmsim.accel_models.shift_exp import exp_table
from xmsim.accel_models.two_way_exp import two_way_exp

GOLDEN = Path(__file__).parents[1] / "golden"
BITS, POINT = 24, 8


@pytest.fixture(scope="module")
def arrays():
    return np.load(GOLDEN / "dynax_rtl_prepearray.npz")


@pytest.mark.parametrize("tag", ["pe12_u", "pe12_s", "pe14_u", "pe14_s"])
def test_a_pe_equals_its_golden_trace_integer_by_integer(tag):
    golden = np.load(GOLDEN / "dynax_rtl_prepe.npz")
    group, psum_bits, signed = golden[f"{tag}_par"].tolist()
    inputs = golden[f"{tag}_in"].astype(np.int64)
    trace = trace_pe(inputs[:, 0], inputs[:, 1:4], inputs[:, 4:], PredictorFormat(group, psum_bits, BITS, POINT, 0, bool(signed)))
    assert np.array_equal(np.column_stack([trace.psum, trace.operand, trace.select, trace.input_count, trace.top]), golden[f"{tag}_after"])


@pytest.mark.parametrize("kind", ["u", "s", "u_b2b", "s_b2b", "u_ties"])
@pytest.mark.parametrize("group", [2, 4])
def test_an_array_equals_its_golden_trace_integer_by_integer(arrays, group, kind):
    golden = {name.removeprefix(f"a1{group}_{kind}"): array for name, array in arrays.items() if name.startswith(f"a1{group}_{kind}_")}
    _, bits, point, append, psum_bits, _, _, signed, *_ = golden["_par"].tolist()
    drive = (golden[name].astype(np.int64) for name in ("_left", "_top", "_kv", "_pes", "_arr"))
    trace = trace_predictor(PredictorProgram(*drive), PredictorFormat(group, psum_bits, bits, point, append, bool(signed)))
    fields = ("_opleft", "_opsel", "_psum", "_s_out", "_exp_sum", "_exp_sum_m", "_valid", "_count")
    for register, name in zip(trace._fields, fields, strict=True):
        assert np.array_equal(getattr(trace, register), golden[name]), register


@pytest.mark.parametrize("signed", [False, True])
def test_the_case_that_can_be_followed_by_hand(signed):
    with (GOLDEN / "dynax_rtl_prepearray_small.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["case"] == ("signed" if signed else "unsigned")]
    columns = lambda *names: np.array([[int(row[name]) for name in names] for row in rows])  # noqa: E731
    commands = {"clear": CLEAR, "load": INPUT, "calc": CALC}
    pe_command = np.array([commands[row["phase"].split()[0]] for row in rows])
    program = PredictorProgram(
        left=columns("left_r0", "left_r1"),
        top=columns("top0", "top1", "top2", "top3"),
        key_valid=columns("key_valid")[:, 0],
        pe_command=pe_command,
        end_command=np.where(pe_command == CLEAR, CLEAR, CALC),
    )
    trace = trace_predictor(program, PredictorFormat(group=2, psum_bits=8, bits=20, point=4, append=0, signed=signed))
    for register, name in (("operand", "operand"), ("select", "sel"), ("psum", "psum")):
        assert np.array_equal(
            getattr(trace, register).reshape(len(rows), 4), columns(*(f"{name}_r{r}p{p}" for r in (0, 1) for p in (0, 1)))
        )
    for register, name in (("exponential", "s_out"), ("row_sum", "exp_sum"), ("group_sum", "exp_sum_m"), ("group_count", "count")):
        assert np.array_equal(getattr(trace, register), columns(f"{name}_r0", f"{name}_r1")), register


@pytest.mark.parametrize("group", [2, 4])
def test_the_program_is_that_of_the_golden_trace(arrays, group):
    tag = f"a1{group}_s_b2b"
    *_, keys = arrays[f"{tag}_par"].tolist()
    q, k = arrays[f"{tag}_q"], arrays[f"{tag}_k"]
    config = array(q.shape[1], q.shape[2] // group, group)
    program = predictor_program(q, k, group, tile_period_cycles(keys, q.shape[2], config))
    edges = group + 2 * tile_period_cycles(keys, q.shape[2], config)
    for name, golden in (("left", "_left"), ("top", "_top"), ("key_valid", "_kv")):
        assert np.array_equal(getattr(program, name)[:edges], arrays[tag + golden][:edges]), name


def array(rows, columns, group):
    return PredictionArrayConfig(rows=rows, columns=columns, group=group, bits=4, key_buffer_bytes=1)


@st.composite
def work(draw):
    """A signed array, and tiles of queries and keys for it."""
    config = array(draw(st.integers(1, 6)), draw(st.integers(1, 5)), draw(st.sampled_from([2, 4])))
    tiles, keys = draw(st.integers(1, 3)), draw(st.integers(1, 70))
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    width = config.group * config.columns
    return config, random.integers(-7, 8, (tiles, config.rows, width)), random.integers(-7, 8, (tiles, keys, width))


def run(config, q, k, period):
    fmt = PredictorFormat(config.group, 14, BITS, POINT, 2, signed=True)
    return trace_predictor(predictor_program(q, k, config.group, period), fmt)


def partial_sums(q, k, group):
    """Of each key, over the groups up to each one, with the kept channel of each group; int [tiles, rows, keys, groups]."""
    tiles, rows, width = q.shape
    grouped = np.abs(q.reshape(tiles, rows, -1, group))
    # of equal magnitudes the comparator of two keeps the lower channel, that of four the higher
    kept = grouped.argmax(axis=-1) if group == 2 else group - 1 - grouped[..., ::-1].argmax(axis=-1)
    pruned = np.where(np.arange(group) == kept[..., None], q.reshape(grouped.shape), 0)
    products = pruned[:, :, None] * k.reshape(tiles, 1, -1, width // group, group)
    return products.sum(axis=-1).cumsum(axis=-1)


def exponentials(psums):
    table = exp_table(POINT)
    return np.array([two_way_exp(int(psum) << 2, BITS, POINT, table) for psum in psums])


@settings(max_examples=60, deadline=None)
@given(work())
def test_partial_sums_and_sums_of_tiles_at_the_period_are_where_the_closed_forms_say(config_and_tiles):
    config, q, k = config_and_tiles
    tiles, keys, width = k.shape
    period = tile_period_cycles(keys, width, config)
    trace = run(config, q, k, period)
    psums = partial_sums(q, k, config.group)
    for tile in range(tiles):
        load = config.group + tile * period
        for row in range(config.rows):
            exps = exponentials(psums[tile, row, :, -1])
            for pe in range(config.columns):
                first = load + width + row + pe + 1
                assert np.array_equal(trace.psum[first : first + keys, row, pe], psums[tile, row, :, pe])
            first = load + width + row + config.columns + 1
            assert np.array_equal(trace.exponential[first : first + keys, row], exps)
            assert np.array_equal(trace.row_sum[first + 1 : first + 1 + keys, row], exps.cumsum())
            last_group = exps[(keys - 1) // SUM_KEYS * SUM_KEYS :]
            assert trace.group_sum[first + keys, row] == last_group.sum()
            assert trace.row_sum[load + period + 1, row] == exps.sum()  # stands until the clear that ends the next cycle


@settings(max_examples=40, deadline=None)
@given(work())
def test_no_tile_period_could_be_shorter(config_and_tiles):
    config, q, k = config_and_tiles
    q, k = np.repeat(q[:1], 2, axis=0), np.repeat(k[:1], 2, axis=0)
    keys, width = k.shape[1:]
    period = tile_period_cycles(keys, width, config) - config.group  # the nearest that is in phase
    trace = run(config, q, k, period)
    load = config.group
    expected = exponentials(partial_sums(q, k, config.group)[0, -1, :, -1]).sum()
    assert trace.row_sum[load + period + 1, -1] != expected


def test_a_load_out_of_phase_with_the_comparators_loads_other_operands():
    config, random = array(2, 2, 4), np.random.default_rng(0)
    q, k = random.integers(1, 8, (1, 2, 8)), random.integers(1, 8, (1, 3, 8))
    program = predictor_program(q, k, 4, tile_period_cycles(3, 8, config))
    fmt = PredictorFormat(4, 14, BITS, POINT, 2, signed=True)
    right = trace_predictor(program, fmt).operand[4 + 8 - 1]
    late = PredictorProgram(*(np.concatenate([x[:1], x]) for x in program))
    assert np.abs(right).min() > 0 and not np.array_equal(trace_predictor(late, fmt).operand[4 + 8], right)


@settings(max_examples=40, deadline=None)
@given(work(), st.integers(1, 6))
def test_the_last_index_of_a_tile_is_there_when_the_closed_form_says(config_and_tiles, kept):
    """Behind the last row stands a cascade; one cycle after its last index, the record is written."""
    config, q, k = config_and_tiles
    keys, width = k.shape[1:]
    pruning = PruningConfig(block=keys, kept=min(kept, keys))
    trace = run(config, q[:1], k[:1], tile_period_cycles(keys, width, config))
    streaming = width + keys + config.columns + config.rows - 1  # the period, not rounded up to the group
    element = config.group + streaming - keys + 1
    settle = np.zeros(2 * keys, np.int64)
    data = np.concatenate([trace.exponential[element : element + keys, -1], settle])
    enable = np.concatenate([np.ones(keys, np.int64), settle])
    first_edge = element + 1  # the cascade takes what the register of the exponential held before
    ranked = trace_top_k(enable, data, pruning, REPAIRED)
    last = first_edge + int(np.flatnonzero(ranked.valid[:, -1])[0])
    assert last + 1 - config.group + 1 == streaming + prediction_latency_cycles(pruning)
