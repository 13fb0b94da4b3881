import math

import numpy as np
import pytest

from xmsim.accel_models.shift_exp import exp_input_limit, exp_table, shift_exp
from xmsim.accel_models.two_way_exp import two_way_exp


@pytest.mark.parametrize(("bits", "point"), [(16, 8), (20, 8), (24, 12), (32, 16)])
def test_it_equals_the_released_unit_wherever_that_serves(bits, point):
    table, limit = exp_table(point), exp_input_limit(bits, point)
    for x in np.linspace(0, limit, 500).astype(int).tolist():
        assert two_way_exp(x, bits, point, table) == shift_exp(x, bits, point, table) > 0


@pytest.mark.parametrize(("bits", "point"), [(16, 8), (24, 12), (32, 16)])
def test_negative_inputs_are_within_two_percent_and_a_unit_of_the_exponential(bits, point):
    table, one = exp_table(point), 2**point
    for x in range(-(2 ** (bits - 1)) + 1, 0, max(1, 2 ** (bits - 13))):
        exact = math.exp(x * 1.4375 * math.log(2) / one) * one  # of the unit's own log2 e
        assert abs(two_way_exp(x, bits, point, table) - exact) <= 0.02 * exact + 1


def test_a_result_that_leaves_the_word_is_0():
    assert two_way_exp(2**15 - 1, 16, 8, exp_table(8)) == 0
