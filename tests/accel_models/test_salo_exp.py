import csv
from pathlib import Path

import numpy as np
import pytest

from xmsim.accel_models.salo_exp import piecewise_exp
from xmsim.accel_models.salo_numbers import NormalisingFormatConfig, as_inputs, normalising_words_of

GOLDEN = Path(__file__).parents[1] / "golden"
FORMAT = NormalisingFormatConfig(bits=9, point=4, exponent_bits=5, probability_point=7, reciprocal_point=16, weight_point=16)
WORDS = normalising_words_of(FORMAT)


def test_the_exponential_unit_equals_the_rtl_bit_for_bit():
    with (GOLDEN / "salo_v1_exp.csv").open() as file:
        rows = [[int(word) for word in row.values()] for row in csv.DictReader(file)]
    assert len(rows) == 1171
    for accumulator, mantissa, exponent in rows:
        assert piecewise_exp(accumulator, WORDS) == (mantissa, exponent)


def test_the_table_is_the_one_the_rtl_stores():
    assert WORDS.slopes.tolist() == [12, 14, 17, 20]
    assert WORDS.intercepts.tolist() == [255, 246, 225, 185]


def test_two_to_the_power_of_an_eighth_of_the_accumulator_is_within_the_tables_error():
    accumulators = np.arange(-15 * 2048, 15 * 2048, 8)  # the unit reads no finer
    exact = 2.0 ** (accumulators / 2048)
    found = np.array([mantissa / 256 * 2.0**exponent for mantissa, exponent in (piecewise_exp(int(a), WORDS) for a in accumulators)])
    error = found / exact - 1
    assert (error.min(), error.max()) == pytest.approx((-0.0149, 0.0005), abs=5e-5)


def test_an_exponent_beyond_its_bits_saturates():
    assert piecewise_exp(WORDS.accumulator_limit, WORDS)[1] == 15
    assert piecewise_exp(-WORDS.accumulator_limit - 1, WORDS)[1] == -16


def test_inputs_are_rounded_to_even_and_saturate():
    assert as_inputs(np.array([0.03125, 0.09375, 100.0, -100.0]), FORMAT).tolist() == [0, 2, 255, -256]
