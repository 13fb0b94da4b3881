import csv
from pathlib import Path

import numpy as np
import pytest

from xmsim.accel_models.shift_exp import exp_input_limit, exp_table, shift_exp, shift_exp_array

GOLDEN = Path(__file__).parents[1] / "golden" / "sanger_exp_unit.csv"


def unit(values, bits, point):
    """The unit's results as numbers."""
    words = np.rint(np.asarray(values) * 2**point).astype(np.int64)
    return shift_exp_array(words, bits, point, exp_table(point)) / 2**point


@pytest.mark.parametrize(("bits", "point", "vectors"), [(32, 16, 504), (20, 8, 445)])
def test_the_unit_equals_the_golden_vectors_bit_for_bit(bits, point, vectors):
    with GOLDEN.open() as file:
        rows = [row for row in csv.DictReader(file) if (int(row["width"]), int(row["point"])) == (bits, point)]
    assert len(rows) == vectors
    inputs, expected = (np.array([int(row[name]) for row in rows]) for name in ("in_bits", "out_bits"))
    assert np.array_equal(shift_exp_array(inputs, bits, point, exp_table(point)), expected)


def test_the_relative_error_is_half_a_percent_up_to_one_and_three_percent_at_eight():
    x = np.linspace(0, 1, 10_000)
    error = unit(x, 32, 16) / np.exp(x) - 1
    assert -0.0055 < error.min() < -0.0053 and 0.0045 < error.max() < 0.0047
    x = np.linspace(7, 8, 10_000)
    assert -0.031 < (unit(x, 32, 16) / np.exp(x) - 1).min() < -0.029


@pytest.mark.parametrize(("bits", "point"), [(32, 16), (20, 8), (16, 8), (24, 12)])
def test_results_fit_up_to_the_input_limit_and_wrap_beyond(bits, point):
    limit, table = exp_input_limit(bits, point), exp_table(point)
    assert shift_exp(limit, bits, point, table) > 2 ** (bits - 2)
    assert shift_exp(limit + 1, bits, point, table) < 0


@pytest.mark.parametrize(
    ("value", "zero"), [(-0.5, True), (-63.9, True), (-64.0, True), (-64.01, False), (-77.9, False), (-78.0, True), (13.92, True)]
)
def test_a_16_bit_unit_reads_negative_inputs_as_large_ones_and_loses_them(value, zero):
    assert (unit([value], 16, 8)[0] == 0) == zero


def test_too_few_fraction_bits_are_refused():
    with pytest.raises(ValueError, match="point: 1 fraction bits do not address 64 entries"):
        exp_table(1)
