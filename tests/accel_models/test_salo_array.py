import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmsim.accel_models.salo_array import (
    FLUSH,
    RELEASED,
    SCORE,
    VALUE,
    WEIGHTED_VALUE,
    PassOperands,
    SaloArrayConfig,
    exposed_merge_cycles,
    pass_cycles_v1,
    pass_cycles_v2,
    ports,
    processing_elements,
    program_v1,
    program_v2,
    repaired,
    row_units,
    tail_cycles,
    trace_passes,
    wait_cycles,
)
from xmsim.accel_models.salo_attention import RowPasses, attend_v1, attend_v2
from xmsim.accel_models.salo_numbers import NormalisingFormatConfig, normalising_words_of
from xmsim.accel_models.salo_weighted_sum import ALIGN, MIX, WEIGH, merge_cycles, merge_registers, merge_step

GOLDEN = Path(__file__).parents[1] / "golden"
WORDS = normalising_words_of(
    NormalisingFormatConfig(bits=9, point=4, exponent_bits=5, probability_point=7, reciprocal_point=16, weight_point=16)
)


def array(rows=32, columns=32, global_rows=1, global_columns=1, random_columns=0):
    return SaloArrayConfig(
        rows=rows, columns=columns, global_rows=global_rows, global_columns=global_columns, random_columns=random_columns
    )


def operands(config, head_dim, seed=0):
    draw = np.random.default_rng(seed)
    return PassOperands(*(draw.integers(-40, 40, (n, head_dim)) for n in (config.rows + config.global_rows, ports(config), ports(config))))


def keys_of_row(config, row):
    """Ports of the keys that a row works on, in the order of its units."""
    if row >= config.rows:
        return [config.rows - 1 - column + config.columns - 1 for column in range(config.columns)]
    diagonals = config.rows + config.columns - 1
    private = diagonals + config.global_columns + row * config.random_columns
    local = [row - column + config.columns - 1 for column in range(config.columns)]
    return local + list(range(diagonals, diagonals + config.global_columns)) + list(range(private, private + config.random_columns))


def results(trace, config, program, number, head_dim):
    """Row sum, exponent and output of each row of a pass, read where they leave the last unit."""
    for row in range(config.rows + config.global_rows):
        keys = keys_of_row(config, row)
        unit, late = len(keys) - 1, max(0, row - config.rows + 1)
        start = number * (len(program) + 1) + late + unit
        summed = start + head_dim + 1
        values = start + len(program) - head_dim
        yield (
            row,
            keys,
            trace.sums[summed, row, unit],
            trace.exponents[summed, row, unit],
            trace.sums[values : values + head_dim, row, unit],
        )


def test_the_released_array_runs_as_its_rtl_edge_by_edge():
    """All 201 edges and 15 registers of the trace; the 195th is the last that works."""
    config, head_dim = array(), 64
    quarter = PassOperands(*(np.full((n, head_dim), 4) for n in (33, ports(config), ports(config))))
    trace = trace_passes([quarter], program_v1(head_dim, config), config, WORDS, RELEASED, idle_before=3, idle_after=6)
    places = {"pe00": (0, 0), "pe0_1": (0, 1), "pe0_31": (0, 31), "pe31_5": (31, 5), "gcol0": (0, 32), "grow0_31": (32, 31)}
    registers = {"stage": trace.stages, "acc": trace.accumulators, "sum": trace.sums, "prob": trace.probabilities}
    with (GOLDEN / "salo_v1_rtl_trace.csv").open() as file:
        golden = list(csv.DictReader(file))
    assert len(golden) == len(trace.sums) == 201
    for name in golden[0]:
        register, _, place = name.partition("_")
        if register in registers:
            assert [int(edge[name]) for edge in golden] == registers[register][(slice(None), *places[place])].tolist(), name
    for edge, row_sum in zip(golden, trace.sums[:, 0, 32], strict=True):
        assert edge["inv_row0"] == ("x" if row_sum == 0 else str(RELEASED.reciprocal_numerator // row_sum))
    working = np.flatnonzero((trace.stages == VALUE).any(axis=(1, 2)))
    assert working[-1] == 194 and pass_cycles_v1(head_dim, config) + tail_cycles(config) == 195


def test_the_small_example_takes_fifteen_edges():
    """d 4, 2 rows, 2 columns, a global column: codes 0 score, 1 exponential, 2 sum, 5 wait, 3 probability, 4 value, 7 flush."""
    config = array(rows=2, columns=2, global_rows=0)
    trace = trace_passes([operands(config, 4)], program_v1(4, config), config, WORDS, repaired(WORDS))
    assert trace.stages[:, 0, 0].tolist() == [0, 0, 0, 0, 1, 2, 5, 5, 3, 4, 4, 4, 4, 7, 7]
    assert trace.stages[:, 1, 0].tolist() == trace.stages[:, 0, 0].tolist()  # all rows start together
    assert trace.stages[1:, 0, 1].tolist() == trace.stages[:-1, 0, 0].tolist()
    assert trace.stages[2:, 0, 2].tolist() == trace.stages[:-2, 0, 0].tolist()
    row_sum = np.flatnonzero(trace.sums[:, 0, 2])[0]
    assert row_sum == 7 and len(trace.stages) == 15


def test_the_instances_have_the_published_units():
    assert processing_elements(array()) == 1088
    assert processing_elements(array(rows=64, columns=8, random_columns=3)) == 776


def test_one_global_column_waits_as_long_as_there_are_columns():
    assert wait_cycles(array()) == 32 and pass_cycles_v1(64, array()) == 2 * 64 + 3 + 32


arrays = st.builds(
    array, rows=st.integers(1, 4), columns=st.integers(2, 5), global_rows=st.integers(0, 2), global_columns=st.integers(0, 2)
)


@settings(max_examples=25, deadline=None)
@given(config=arrays, randoms=st.integers(0, 2), head_dim=st.integers(1, 6), version=st.sampled_from([1, 2]))
def test_pass_and_tail_lengths_are_those_of_the_registers(config, randoms, head_dim, version):
    config = config.model_copy(update={"random_columns": randoms})
    program = program_v1(head_dim, config) if version == 1 else program_v2(head_dim)
    length = pass_cycles_v1(head_dim, config) if version == 1 else pass_cycles_v2(head_dim)
    two = [operands(config, head_dim, seed) for seed in (0, 1)]
    trace = trace_passes(two, program, config, WORDS, repaired(WORDS), idle_after=2)
    first_unit = trace.stages[:, 0, 0]
    assert np.flatnonzero(first_unit == FLUSH)[0] == length  # one cycle between two passes
    assert first_unit[length + 1] == SCORE
    values = np.flatnonzero(((trace.stages == VALUE) | (trace.stages == WEIGHTED_VALUE)).any(axis=(1, 2)))
    assert values[-1] + 1 == 2 * length + 1 + tail_cycles(config)


@settings(max_examples=15, deadline=None)
@given(config=arrays, head_dim=st.integers(1, 6), seed=st.integers(0, 99))
def test_rows_of_the_first_array_give_what_the_row_arithmetic_gives_in_every_pass(config, head_dim, seed):
    passes = [operands(config, head_dim, seed), operands(config, head_dim, seed + 1)]
    program = program_v1(head_dim, config)
    trace = trace_passes(passes, program, config, WORDS, repaired(WORDS))
    for number, one in enumerate(passes):
        for row, keys, _, _, output in results(trace, config, program, number, head_dim):
            alone = RowPasses(np.array(keys), np.array([0, len(keys)]), np.array([0, 1]))
            assert output.tolist() == attend_v1(one.q[row : row + 1], one.keys, one.values, alone, WORDS)[0].tolist()


@settings(max_examples=15, deadline=None)
@given(config=arrays, randoms=st.integers(0, 2), head_dim=st.integers(1, 6), seed=st.integers(0, 99))
def test_passes_of_the_second_array_merge_to_what_the_row_arithmetic_gives(config, randoms, head_dim, seed):
    config = config.model_copy(update={"random_columns": randoms})
    passes = [operands(config, head_dim, seed), operands(config, head_dim, seed + 1)]
    passes[1] = passes[1]._replace(q=passes[0].q)
    program = program_v2(head_dim)
    trace = trace_passes(passes, program, config, WORDS, repaired(WORDS))
    modules = [merge_registers(head_dim, WORDS) for _ in range(config.rows + config.global_rows)]
    for number in range(2):
        for row, _, row_sum, exponent, output in results(trace, config, program, number, head_dim):
            merge_step(modules[row], ALIGN, row_sum, exponent, 1 << (2 * WORDS.point), WORDS)
            merge_step(modules[row], WEIGH, 0, 0, 0, WORDS)
            for element in output:
                merge_step(modules[row], MIX, element, 0, 0, WORDS)
    both_keys, both_values = (np.concatenate([getattr(one, name) for one in passes]) for name in ("keys", "values"))
    for row in range(config.rows + config.global_rows):
        keys = keys_of_row(config, row)
        again = [key + ports(config) for key in keys]
        merged = RowPasses(np.array(keys + again), np.array([0, len(keys), 2 * len(keys)]), np.array([0, 2]))
        expected = attend_v2(passes[0].q[row : row + 1], both_keys, both_values, merged, WORDS)[0]
        assert modules[row].buffer.tolist() == expected.tolist()


def test_two_equal_passes_merge_to_their_mean_and_the_port_shows_what_was_there_before():
    module = merge_registers(2, WORDS)
    shown = []
    for output in ([64, -64], [128, 0]):
        merge_step(module, ALIGN, 512, 0, 512, WORDS)
        merge_step(module, WEIGH, 0, 0, 0, WORDS)
        shown += [merge_step(module, MIX, element, 0, 0, WORDS) for element in output]
    assert shown == [0, 0, 64, -64]
    assert module.buffer.tolist() == [96, -32]


def test_a_pass_of_a_larger_exponent_outweighs_the_one_before():
    module = merge_registers(1, WORDS)
    for exponent, output in ((0, 0), (3, 900)):  # 8 times as much
        merge_step(module, ALIGN, 512, exponent, 512, WORDS)
        merge_step(module, WEIGH, 0, 0, 0, WORDS)
        merge_step(module, MIX, output, 0, 0, WORDS)
    assert module.buffer.tolist() == [799]  # 900 · 8 / 9, truncated


def test_all_of_a_merge_but_its_last_cycle_lies_within_the_pass():
    """The row sum is out behind the last unit d + 1 + C + G cycles after the start, the first output C + G + 1 later."""
    config, head_dim = array(), 64
    row_sum_out = head_dim + 1 + row_units(config)
    first_output = pass_cycles_v1(head_dim, config) - head_dim + row_units(config)
    assert row_sum_out + 2 <= first_output
    last_mix = first_output - 1 + head_dim + 1
    assert merge_cycles(head_dim) == head_dim + 2
    assert last_mix == pass_cycles_v1(head_dim, config) + 1 + exposed_merge_cycles(config)


@pytest.mark.parametrize("rules", ["first_unit_counts", "flush_clears"])
def test_each_released_defect_changes_values_and_not_stages(rules):
    config = array(rows=3, columns=3)
    passes = [operands(config, 4), operands(config, 4, seed=1)]
    right = trace_passes(passes, program_v1(4, config), config, WORDS, repaired(WORDS))
    wrong = trace_passes(passes, program_v1(4, config), config, WORDS, repaired(WORDS)._replace(**{rules: 0}))
    assert (right.stages == wrong.stages).all()
    assert (right.sums != wrong.sums).any()
