"""Rounding to 16-bit floats, and the attention that comes of it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmsim.accel_models import load_accelerator
from xmsim.accel_models.errors import WorkloadError
from xmsim.accel_models.systolic_arithmetic import ArithmeticConfig, rounded
from xmsim.workloads.attention import AttentionOperands, AttentionWorkload

HALF = ArithmeticConfig(exponent_bits=5, fraction_bits=10)
BRAIN = ArithmeticConfig(exponent_bits=8, fraction_bits=7)


@settings(max_examples=300, deadline=None)
@given(st.floats(-65_504, 65_504))
def test_five_exponent_bits_round_as_ieee_half_precision_does(value):
    assert rounded(np.array([value]), HALF)[0] == np.float16(value)


@pytest.mark.parametrize("value", [65_519.0, 1e30, float(np.finfo(np.float32).max)])
def test_what_is_beyond_the_range_becomes_the_largest_finite_number(value):
    assert rounded(np.array([value, -value]), HALF).tolist() == [65_504, -65_504]


def test_eight_exponent_bits_round_as_bfloat16_does():
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(0).standard_normal(4096).astype(np.float32)
    values *= np.exp2(np.linspace(-149, 120, 4096)).astype(np.float32)
    assert np.array_equal(rounded(values, BRAIN), torch.from_numpy(values).bfloat16().float().numpy())


def workload(keep, *, kv_heads=None, causal=True, window=None, slopes=None, head_dim=64, seed=0):
    heads, queries, keys = keep.shape
    random = np.random.default_rng(seed)
    kv_heads = kv_heads or heads
    q, k, v = (
        random.standard_normal(shape).astype(np.float32)
        for shape in [(heads, queries, head_dim), (kv_heads, keys, head_dim), (kv_heads, keys, head_dim)]
    )
    operands = AttentionOperands(q, k, v, head_dim**-0.5, slopes)
    return AttentionWorkload.from_keep(keep, head_dim=head_dim, kv_heads=kv_heads, causal=causal, window=window, operands=operands)


def causal_pairs(heads, queries, keys, window=None):
    position = np.arange(queries)[:, None] + keys - queries
    key = np.arange(keys)
    return np.repeat(((key <= position) & (key > position - (window or keys)))[None], heads, axis=0)


def with_arithmetic(name, arithmetic):
    machine = load_accelerator(name)
    return type(machine)("other", machine.config.model_copy(update={"arithmetic": arithmetic}))


@pytest.mark.parametrize("name", ["dense", "dense_causal", "dense_ws"])
@pytest.mark.parametrize(
    "work",
    [
        workload(causal_pairs(4, 200, 200), kv_heads=2),
        workload(causal_pairs(2, 150, 300, window=70), window=70),
        workload(causal_pairs(3, 1, 333)),
        workload(np.ones((2, 65, 130), bool), causal=False, head_dim=80),
        workload(causal_pairs(2, 90, 90), slopes=np.array([0.5, 0.0625], np.float32)),
    ],
    ids=["shared keys", "sliding window", "decode", "not causal", "alibi"],
)
def test_half_precision_is_a_thousandth_off_float64_and_bfloat16_eight_times_that(name, work):
    half, brain = (with_arithmetic(name, arithmetic).compute(work) for arithmetic in (HALF, BRAIN))
    assert 1e-4 < half.error.relative < 1e-3
    assert 4 < brain.error.relative / half.error.relative < 16
    assert half.error == half.error_to_dense  # nothing is left out


def test_the_mask_of_a_workload_changes_nothing():
    dense = workload(causal_pairs(2, 100, 100))
    sparse = workload(causal_pairs(2, 100, 100) & np.eye(100, dtype=bool))
    machine = load_accelerator("dense_causal")
    assert np.array_equal(machine.compute(dense).output, machine.compute(sparse).output)


def test_leaving_out_tiles_that_nobody_sees_changes_no_bit():
    work = workload(causal_pairs(2, 200, 300, window=100), window=100)
    computed, skipped = (load_accelerator(name).compute(work) for name in ("dense", "dense_causal"))
    assert np.array_equal(computed.output, skipped.output)


@pytest.mark.parametrize(("name", "error"), [("dense", 31), ("dense_ws", 0)])
def test_sums_are_made_in_the_order_of_the_dataflow(name, error):
    """Products 2^24, 31 zeros, 31 ones, -2^24: beside 2^24 float32 loses each one; a chain of the last 32 keeps them."""
    values = np.zeros((1, 64, 1), np.float32)
    values[0, 32:63] = 2**6
    values[0, 0], values[0, 63] = 2**30, -(2**30)
    operands = AttentionOperands(np.zeros((1, 1, 1), np.float32), np.zeros((1, 64, 1), np.float32), values, 1.0)
    work = AttentionWorkload.from_keep(np.ones((1, 1, 64), bool), head_dim=1, operands=operands)
    assert with_arithmetic(name, BRAIN).compute(work).error.max_absolute == error


def test_operands_are_needed():
    with pytest.raises(WorkloadError, match="has a mask alone"):
        load_accelerator("dense").compute(AttentionWorkload.from_keep(np.ones((1, 1, 4), bool), head_dim=8))


def test_a_format_that_is_not_16_bits_wide_is_refused_with_the_width_that_fits():
    with pytest.raises(ValueError, match="8 exponent bits leave 7 of 16, not 23"):
        ArithmeticConfig(exponent_bits=8, fraction_bits=23)
