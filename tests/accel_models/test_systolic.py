"""The closed forms against the numbers that SCALE-Sim 3.0.0 printed, and against arrays stepped register by register."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmsim.accel_models.systolic import (
    PeArrayConfig,
    output_stationary_cycles,
    scalesim_cycles,
    scalesim_weight_stationary_cycles,
    weight_stationary_cycles,
)
from xmsim.accel_models.systolic_array import output_stationary, weight_stationary

BERT_HEAD = [(512, 512, 64), (512, 64, 512)]  # scores and output of one head
DATAFLOWS = [(output_stationary, output_stationary_cycles), (weight_stationary, weight_stationary_cycles)]


@pytest.mark.parametrize(
    ("layers", "array", "printed"),
    [
        ([(512, 512, 64)], (32, 32), 32_255),
        ([(512, 64, 512)], (32, 32), 18_367),
        (BERT_HEAD, (64, 16), 55_230),
        (BERT_HEAD, (32, 32), 451_864 - 401_242),  # with stalls, and the stalls
        (12 * BERT_HEAD, (32, 32), 607_464),
        (12 * BERT_HEAD, (64, 16), 662_760),
        ([(1024, 1024, 128)], (64, 16), 210_943),
        ([(1024, 128, 1024)], (64, 16), 141_055),
    ],
)
def test_output_stationary_cycles_are_those_that_scale_sim_prints(layers, array, printed):
    assert sum(scalesim_cycles(*layer, PeArrayConfig(rows=array[0], columns=array[1])) for layer in layers) == printed


def test_weight_stationary_cycles_are_those_that_scale_sim_prints():
    array = PeArrayConfig(rows=64, columns=16)
    printed, stalls = 860_094, 818_240
    assert sum(scalesim_weight_stationary_cycles(*layer, array) for layer in BERT_HEAD) == printed - stalls


@pytest.mark.parametrize(
    ("layer", "cycles"), [((2048, 2048, 128), 843_775), ((4096, 128, 4096), 2_137_087), ((4096, 4096, 128), 3_375_103)]
)
def test_layers_that_scale_sim_did_not_finish_in_minutes_have_a_number(layer, cycles):
    """By hand from folds and the length of one; SCALE-Sim was stopped after 400 to 900 s."""
    assert scalesim_cycles(*layer, PeArrayConfig(rows=64, columns=16)) == cycles


@pytest.mark.parametrize("cycles", [output_stationary_cycles, weight_stationary_cycles])
def test_a_single_product_takes_a_cycle_besides_the_load_of_its_weight(cycles):
    loaded = 1 if cycles is weight_stationary_cycles else 0
    assert cycles(1, 1, 1, PeArrayConfig(rows=1, columns=1)) == 1 + loaded


@pytest.mark.parametrize(("step", "cycles"), DATAFLOWS)
@settings(max_examples=150, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 13)] * 3),
    array=st.builds(PeArrayConfig, rows=st.integers(1, 6), columns=st.integers(1, 6)),
    seed=st.integers(0, 2**16),
)
def test_registers_compute_the_product_in_as_many_edges_as_the_closed_form_says(step, cycles, shape, array, seed):
    rows, columns, inner = shape
    random = np.random.default_rng(seed)
    left, right = random.integers(-9, 9, (rows, inner)), random.integers(-9, 9, (inner, columns))
    run = step(left, right, array)
    assert np.array_equal(run.product, left @ right)
    assert run.edges == cycles(*shape, array)
