"""Projections around attention: the dense product counted by hand, the formulas of each array, and what the phases leave alone."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmsim.accel_models import dynax_execute_array, load_accelerator, salo_array, sanger_array, shipped_accelerators
from xmsim.accel_models.projections import (
    DenseActions,
    DenseArray,
    DenseStages,
    Product,
    clocked_macs,
    product_schedule,
    projections_of,
)
from xmsim.accel_models.salo_numbers import NormalisingFormatConfig, normalising_words_of
from xmsim.configs.codec import decode, encode
from xmsim.configs.errors import ConfigError
from xmsim.sim.compiled_engine import run_compiled
from xmsim.sim.event_engine import run_events
from xmsim.sim.log import layer_account
from xmsim.sim.result import SimResult, read_result
from xmsim.sim.schedule import UNLIMITED, Channel, Stage
from xmsim.sim.schedule_builder import empty_tables, finish
from xmsim.workloads.attention import AttentionWorkload

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "row_gather" / "row_gather.yaml"


def with_projections(name):
    machine = load_accelerator(name)
    return type(machine)(machine.name, machine.config.model_copy(update={"projections": "simulated"}))


def causal_workload(queries=70, keys=70, heads=4, kv_heads=2, head_dim=32, hidden_size=None):
    keep = np.arange(keys) <= np.arange(queries)[:, None] + keys - queries
    return AttentionWorkload.from_keep(np.repeat(keep[None], heads, axis=0), head_dim=head_dim, kv_heads=kv_heads, hidden_size=hidden_size)


@pytest.mark.parametrize("run", [run_compiled, run_events])
def test_a_product_of_two_by_two_tiles_counted_by_hand(run):
    stages = (Stage("load", queue=0), Stage("array", queue=0), Stage("store", queue=UNLIMITED))
    actions = ("mac", "activation_write", "activation_read", "weight_write", "weight_read", "partial_sum")
    names = tuple(("unit", action) for action in actions)
    machine = finish(empty_tables(0, 0, 0, len(names)), stages, (Channel("dram", Fraction(16)),), names)
    array = DenseArray(
        stages=DenseStages(0, 0, 1, 2),
        actions=DenseActions(0, 1, 2, 3, 4),
        rows=2,
        columns=8,
        product_cycles=lambda rows, columns, inner: columns,
        product_macs=lambda rows, columns, inner: clocked_macs(columns, inner, 8, 16),
        streams=9,
        partial_sum=5,
        chain=3,
    )
    schedule = product_schedule(Product(tokens=3, inner=4, columns=40), array, machine, head=7)
    log = run(schedule)
    # activations, weights 0 and 1 of the first tile of tokens; the same of the second. Two tiles of weights are under way.
    assert log.finish.tolist() == [1, 58, 76, 50, 110, 115]
    assert log.start[1:].tolist() == [1, 17, 49, 17, 49, 58, 49, 58, 74, 106, 76, 106, 114]
    account = layer_account(schedule, log)
    assert account.traffic["dram"] == {"read_bytes": 2 * (3 * 4 + 2 * 4 * 40), "write_bytes": 2 * 3 * 40}
    assert account.actions["unit"] == {
        "mac": 2 * 5 * 16 * 4,  # two tiles of tokens, five passes, 16 units, four products each: the last tile's second row is idle
        "activation_write": 2 * 3 * 4,
        "activation_read": 5 * 2 * 3 * 4,  # passes of 8 columns
        "weight_write": 2 * 2 * 4 * 40,
        "weight_read": 2 * 2 * 4 * (40 + 5),  # each pass brings in one column more
        "partial_sum": 3 * 40 * 2,  # chains of 3 and 1 products
    }
    assert set(schedule.job_head.tolist()) == {7}
    assert schedule.visit_address.tolist()[:7] == [0, 24, 0, 344, 280, 0, 472]


def test_input_projections_make_q_k_and_v_of_the_new_tokens_alone():
    prefill, decode = causal_workload(hidden_size=100), causal_workload(queries=1)
    assert projections_of(prefill) == (Product(70, 100, 4 * 32 + 2 * 2 * 32), Product(70, 4 * 32, 100))
    assert projections_of(decode) == (Product(1, 4 * 32, 4 * 32 + 2 * 2 * 32), Product(1, 4 * 32, 4 * 32))


@pytest.mark.parametrize("name", shipped_accelerators())
@pytest.mark.parametrize("workload", [causal_workload(hidden_size=100), causal_workload(queries=1)], ids=["prefill", "decode"])
def test_phases_count_every_multiplication_and_byte_and_leave_attention_as_it_is(name, workload):
    machine = with_projections(name)
    alone, result = load_accelerator(name).simulate(workload), machine.simulate(workload)
    assert machine.simulate(workload, "event") == result
    assert alone.projections is None
    assert [(head.cycles, head.busy, head.stalls, head.traffic, head.actions) for head in result.heads] == [
        (head.cycles, head.busy, head.stalls, head.traffic, head.actions) for head in alone.heads
    ]
    phases = (result.projections.input, result.projections.output)
    assert result.cycles == alone.cycles + sum(phase.cycles for phase in phases)
    array = machine.dense_array()
    component, _ = machine.schedule(workload).action_names[array.actions.mac]
    for phase, product in zip(phases, projections_of(workload), strict=True):
        assert phase.useful_macs == product.tokens * product.inner * product.columns <= phase.actions[component]["mac"]
        weights = -(-product.tokens // array.rows) * product.inner * product.columns
        assert phase.traffic["dram"] == {
            "read_bytes": 2 * (product.tokens * product.inner + weights),
            "write_bytes": 2 * product.tokens * product.columns,
        }
        assert phase.cycles * machine.peak_macs_per_cycle() >= product.macs
    assert result.useful_macs == alone.useful_macs + sum(phase.useful_macs for phase in phases)
    for component, counts in result.actions.items():
        for action, count in counts.items():
            assert count == sum(part.actions[component][action] for part in (*result.heads, *phases))
    for unit, cycles in result.busy.items():
        assert cycles == sum(part.busy[unit] for part in (*result.heads, *phases))


def test_a_result_file_keeps_the_phases_and_one_without_them_says_none():
    result = with_projections("dynax_s").simulate(causal_workload())
    assert decode(SimResult, json.loads(json.dumps(encode(result))), "file") == result
    old = Path(__file__).parents[1] / "golden" / "records" / "result.v1.json"
    assert all(run.result.projections is None for run in read_result(old).runs)


def test_a_long_product_keeps_a_dense_array_busy():
    machine = with_projections("dense")
    result = machine.simulate(causal_workload(queries=256, keys=256, heads=4, kv_heads=4, head_dim=64))
    phase = result.projections.input
    first_loads = -(-2 * 32 * 256 // 256) + 50 + -(-2 * 32 * 256 // 256) + 50  # activations, then weights
    assert phase.busy["pe_array"] == 8 * 24 * (256 + 62)
    assert phase.cycles == first_loads + phase.busy["pe_array"] + -(-2 * 32 * 32 // 256)


def test_a_machine_without_a_dense_array_says_how_to_go_on():
    with pytest.raises(ConfigError, match=r"row_gather: projections: model row_gather has no dense_array .*; set projections to none"):
        with_projections(EXAMPLE).simulate(causal_workload())


def test_a_hidden_size_below_one_is_refused():
    with pytest.raises(ValueError, match="hidden_size is 0"):
        causal_workload(hidden_size=0)


@st.composite
def dense_work(draw):
    """Rows, columns of a pass, inner, and integers for two passes."""
    rows, columns, inner = draw(st.integers(1, 5)), draw(st.integers(1, 4)), draw(st.integers(1, 6))
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    left, right = random.integers(-3, 4, (rows, inner)), random.integers(-3, 4, (2 * columns, inner))
    return left, right, columns, draw(st.sampled_from(["skewed", "broadcast"]))


@settings(max_examples=60, deadline=None)
@given(dense_work())
def test_dynax_holds_all_sums_of_a_pass_until_they_have_moved_out(work):
    left, right, columns, control = work
    rows, inner = left.shape
    config = dynax_execute_array.ExecuteArrayConfig(count=1, rows=rows, columns=columns, control=control)
    cycles, one = dynax_execute_array.dense_product_cycles(2 * columns, inner, config), 2**12
    skew = rows - 1 if control == "skewed" else 0
    period = (cycles - skew) // 2
    q, top = np.zeros((cycles, rows), np.int64), np.zeros((cycles, columns), np.int64)
    accumulate = np.full((cycles, rows), dynax_execute_array.HOLD)
    for row in range(rows):
        late = row if control == "skewed" else 0
        for start in (0, period):
            q[start + row : start + row + inner, row] = left[row] * one
            accumulate[start + late, row] = dynax_execute_array.CLEAR
            accumulate[start + late + 1 : start + late + period - columns, row] = dynax_execute_array.ACCUMULATE
    for number, start in enumerate((0, period)):
        top[start : start + inner] = right[number * columns : (number + 1) * columns].T * one
    select = np.broadcast_to(np.arange(columns), (cycles, rows, columns))
    keep = np.full((cycles, rows), dynax_execute_array.KEEP)
    program = dynax_execute_array.ExecuteProgram(q, top, select, accumulate, keep, np.zeros(cycles))
    trace = dynax_execute_array.trace_execute(program, bits=32, point=12)
    expected = left @ right.T * one
    for row in range(rows):
        late = row if control == "skewed" else 0
        for number in range(2):
            out = slice(number * period + late + period - columns, number * period + late + period)
            wanted = expected[row, number * columns : (number + 1) * columns]
            assert (trace.accumulators[out, row] == wanted).all()


@settings(max_examples=60, deadline=None)
@given(dense_work())
def test_sangers_accumulators_move_out_behind_the_scores_phase(work):
    left, right, columns, control = work
    rows, inner = left.shape
    config = sanger_array.ExecuteArrayConfig(rows=rows, pes=1, ports=1, control=control, row_sums="serial")
    config = config.model_copy(update={"pes": columns, "ports": columns})
    one = 2**16
    operands = sanger_array.PassOperands(
        q=left * one,
        k=right[:columns] * one,
        v=np.zeros((columns, inner), np.int64),
        columns=np.broadcast_to(np.arange(columns), (rows, columns)),
        busy=np.ones((rows, columns), bool),
    )
    trace = sanger_array.trace_passes([operands], config, bits=32, point=16)
    expected = left @ right[:columns].T * one
    skew = rows - 1 if control == "skewed" else 0
    scores = sanger_array.dense_product_cycles(columns, inner, config) - skew - columns  # with the clear
    exponential = 1  # the phases of an attention pass have it between scores and values; sums stay where they are
    for row in range(rows):
        late = row if control == "skewed" else 0
        assert (trace.accumulators[scores - 1 + late, row] == expected[row]).all()
        for step in range(columns):
            assert trace.accumulators[scores - 1 + exponential + late + step, row, -1] == expected[row, columns - 1 - step]


@settings(max_examples=60, deadline=None)
@given(dense_work())
def test_weights_in_a_ring_show_every_row_of_salo_each_column_once(work):
    left, right, columns, _ = work
    columns += 1  # the array has two at least
    rows, inner = left.shape
    right = np.concatenate([right, right[:2] + 1])  # two passes
    config = salo_array.SaloArrayConfig(rows=rows, columns=columns, global_rows=0, global_columns=1, random_columns=0)
    streams = salo_array.dense_streams(config)
    unused = np.zeros((salo_array.ports(config), inner), np.int64)
    passes = []
    for number in range(2):
        keys = unused.copy()
        keys[:streams] = right[(number * columns + np.arange(streams)) % len(right)]
        passes.append(salo_array.PassOperands(left, keys, unused))
    formats = NormalisingFormatConfig(bits=9, point=4, exponent_bits=5, probability_point=7, reciprocal_point=16, weight_point=16)
    words = normalising_words_of(formats)
    program = np.full(inner, salo_array.SCORE, np.int64)
    trace = salo_array.trace_passes(passes, program, config, words, salo_array.repaired(words))
    product = np.full((rows, len(right)), -(2**40))
    for number in range(2):
        for row in range(rows):
            for column in range(columns):
                edge = number * (inner + salo_array.FLUSH_CYCLES) + inner - 1 + column
                key = (number * columns + row - column + columns - 1) % len(right)
                product[row, key] = trace.accumulators[edge, row, column]
    assert (product == left @ right.T).all()
