import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmsim.accel_models import load_accelerator
from xmsim.accel_models.errors import WorkloadError
from xmsim.accel_models.fixed_point_operands import divide
from xmsim.accel_models.shift_exp import exp_input_limit, exp_table, shift_exp
from xmsim.accel_models.two_way_exp import two_way_exp
from xmsim.reference.attention import predict_scores
from xmsim.workloads.attention import AttentionOperands, AttentionWorkload


def layer(heads=2, kv_heads=1, queries=70, keys=70, head_dim=64, *, spread=1.0, density=0.3, causal=True, slopes=None, seed=0):
    """Random operands under a random mask; every query keeps its own key."""
    random = np.random.default_rng(seed)
    draw = lambda *shape: (spread * random.standard_normal(shape)).astype(np.float32)  # noqa: E731
    q, k, v = draw(heads, queries, head_dim), draw(kv_heads, keys, head_dim), draw(kv_heads, keys, head_dim)
    operands = AttentionOperands(q, k, v, scale=0.125, slopes=slopes)
    position = np.arange(queries)[:, None] + keys - queries
    keep = (random.random((heads, queries, keys)) < density) | (np.arange(keys) == position)
    if causal:
        keep &= np.arange(keys) <= position
    return AttentionWorkload.from_keep(keep, head_dim=head_dim, kv_heads=kv_heads, causal=causal, operands=operands)


def with_arithmetic(name, **changes):
    machine = load_accelerator(name)
    arithmetic = machine.config.arithmetic.model_copy(update=changes)
    return type(machine)(name, machine.config.model_copy(update={"arithmetic": arithmetic}))


def by_hand(machine, workload, head):
    """Outputs of a head, one product at a time in Python's unlimited integers."""
    config = machine.config
    arithmetic, prediction = config.arithmetic, config.prediction_array
    bits, point = arithmetic.bits, arithmetic.point
    exponential = two_way_exp if arithmetic.exponential == "two_way" else shift_exp
    ops, kv_head = workload.operands, head // workload.group
    value_scale = 2.0 ** np.ceil(np.log2(np.abs(ops.v).max()))
    word = lambda x: np.clip(np.rint(x * 2.0**point), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1).astype(int)  # noqa: E731
    q, k, v = word(ops.q[head].astype(float) * ops.scale), word(ops.k[kv_head]), word(ops.v[kv_head] / value_scale)
    maxima = {"q_max": float(np.abs(ops.q).max()), "k_max": float(np.abs(ops.k).max())}
    one_head = ops.q[head : head + 1], ops.k[kv_head : kv_head + 1]
    scores = predict_scores(*one_head, group=prediction.group, bits=prediction.bits, scale=ops.scale, **maxima)[0]
    predicted = np.where(workload.allowed(), scores, -np.inf).max(axis=1)
    limit = exp_input_limit(bits - (config.execute_array.columns - 1).bit_length(), point)
    output = np.zeros((workload.queries, workload.head_dim))
    for query, kept in enumerate(workload.keep()[head]):
        numerators, denominator = np.zeros(workload.head_dim, int), 0
        for key in np.flatnonzero(kept):
            score = limit // 2 - word(predicted[query]) + int((q[query] * k[key] >> point).sum())
            weight = exponential(min(score, limit), bits, point, exp_table(point))
            numerators += weight * v[key] >> point
            denominator += weight
        if denominator:
            output[query] = (numerators * 2 ** (bits - 2) // denominator) / 2 ** (bits - 2) * value_scale
    return output


@pytest.mark.parametrize("exponential", ["two_way", "released"])
@pytest.mark.parametrize(("name", "bits", "point"), [("dynax_s", 16, 8), ("dynax_l", 16, 10), ("dynax_s", 24, 12)])
def test_outputs_equal_those_computed_one_product_at_a_time(name, bits, point, exponential):
    machine = with_arithmetic(name, bits=bits, point=point, exponential=exponential)
    workload = layer(queries=37, spread=0.7)
    output = machine.compute(workload).output
    for head in range(2):
        assert np.array_equal(output[head], by_hand(machine, workload, head))


@pytest.mark.parametrize("name", ["dynax_s", "dynax_l"])
def test_more_bits_come_nearer_to_float64(name):
    workload = layer(heads=4, kv_heads=2, queries=130, keys=130)
    errors = [with_arithmetic(name, bits=b, point=p).compute(workload).error.relative for b, p in ((16, 8), (20, 10), (24, 12), (32, 16))]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] < 0.06 and errors[-1] < 0.01


def test_the_released_exponential_unit_loses_keys_far_below_the_row_s_largest():
    workload = layer(spread=1.4)
    released = with_arithmetic("dynax_s", exponential="released").compute(workload)
    assert released.error.relative > 3 * load_accelerator("dynax_s").compute(workload).error.relative


def test_error_to_dense_tells_what_the_mask_costs_besides():
    result = load_accelerator("dynax_s").compute(layer(density=0.05))
    assert result.error_to_dense.relative > 2 * result.error.relative
    everything = load_accelerator("dynax_s").compute(layer(density=1.0))
    assert everything.error_to_dense == everything.error


@pytest.mark.parametrize(("queries", "keys"), [(1, 300), (5, 64)])
def test_decode_steps_and_alibi_are_computed(queries, keys):
    slopes = np.array([0.02, 0.005], np.float32)
    result = with_arithmetic("dynax_l", bits=24, point=12).compute(layer(queries=queries, keys=keys, slopes=slopes))
    assert result.output.shape == (2, queries, 64) and result.error.relative < 0.02


def test_a_query_that_keeps_nothing_gives_zeros():
    workload = layer()
    words = workload.words.copy()
    words[0, 3] = 0
    empty = AttentionWorkload.from_packed(words, keys=70, head_dim=64, kv_heads=1, operands=workload.operands)
    output = load_accelerator("dynax_s").compute(empty).output
    assert not output[0, 3].any() and output[0, 4].any()


def test_a_workload_without_operands_cannot_be_computed():
    with pytest.raises(WorkloadError, match="needs Q, K and V"):
        load_accelerator("dynax_s").compute(AttentionWorkload.from_keep(np.eye(4, dtype=bool)[None], head_dim=64))


@settings(max_examples=200, deadline=None)
@given(st.integers(-(2**45), 2**45), st.integers(0, 2**45), st.integers(2, 30))
def test_division_in_two_steps_is_that_of_unlimited_integers(numerator, denominator, point):
    quotient = divide(np.array([numerator]), np.array([denominator]), point)
    if denominator and abs(numerator) // denominator < 2**30:
        assert int(quotient[0]) == (numerator << point) // denominator
    elif not denominator:
        assert quotient[0] == 0
