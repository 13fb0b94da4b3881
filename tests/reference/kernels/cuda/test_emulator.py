"""The emulator does what the definitions of CUDA's collectives say, and stops where a GPU would do something undefined."""

import ctypes
from pathlib import Path

import numpy as np
import pytest

from xmsim.reference.kernels.cuda import build

NUMBERS = np.random.default_rng(7)
PROBE = Path(__file__).with_name("simt_probe.cu")


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    if build.find_cxx() is None:
        pytest.skip("no C++ compiler")
    return ctypes.CDLL(str(build.build_emulator(tmp_path_factory.mktemp("probe"), sources=[PROBE])))


def pointer(array):
    return ctypes.c_void_p(array.ctypes.data)


@pytest.mark.parametrize("int8", [0, 1])
def test_mma_multiplies_matrices(probe, int8):
    inner = 32 if int8 else 16
    a, b = (NUMBERS.integers(-100, 100, shape).astype(np.float32) for shape in ((16, inner), (inner, 8)))
    out = np.full((16, 8), np.nan, np.float32)
    assert probe.probe_multiply(pointer(a), pointer(b), pointer(out), int8) == 0
    np.testing.assert_array_equal(out, a @ b)


@pytest.mark.parametrize("transposed", [0, 1])
def test_ldmatrix_hands_out_rows_or_columns(probe, transposed):
    matrices = NUMBERS.integers(0, 1 << 16, (4, 8, 8)).astype(np.uint16)
    out = np.zeros((4, 32, 2), np.uint16)
    assert probe.probe_matrices(pointer(matrices), pointer(out), transposed) == 0
    wanted = matrices.swapaxes(1, 2) if transposed else matrices
    np.testing.assert_array_equal(out, wanted.reshape(4, 32, 2))


def test_lanes_see_their_neighbours(probe):
    values = NUMBERS.integers(-9, 9, 64).astype(np.int32)
    out = np.zeros((4, 64), np.int32)
    assert probe.probe_neighbours(pointer(values), pointer(out)) == 0
    warps = values.reshape(2, 32)
    np.testing.assert_array_equal(out[0].reshape(2, 32), np.repeat(warps.sum(1, keepdims=True), 32, 1))
    np.testing.assert_array_equal(out[1], np.repeat(values.reshape(16, 4).max(1), 4))
    np.testing.assert_array_equal(out[2].reshape(2, 32), np.concatenate([warps[:, :1], warps[:, :-1]], 1))
    votes = np.packbits(warps > 0, axis=1, bitorder="little").view(np.int32)
    np.testing.assert_array_equal(out[3].reshape(2, 32), np.repeat(votes, 32, 1))


def test_words_are_put_together_and_read_where_they_are_wanted(probe):
    values = NUMBERS.integers(0, 1 << 32, 32).astype(np.uint32)
    out = np.zeros((5, 32), np.uint32)
    assert probe.probe_words(pointer(values), pointer(out)) == 0
    np.testing.assert_array_equal(out[0], values.cumsum(dtype=np.uint32))
    both = np.concatenate([values[:, None], np.roll(values, -1)[:, None]], 1).view(np.uint8)
    chosen = np.stack([both[np.arange(32), values >> shift & 7] for shift in (0, 4, 8, 12)], 1)
    np.testing.assert_array_equal(out[1], np.ascontiguousarray(chosen).view(np.uint32)[:, 0])
    np.testing.assert_array_equal(out[2], np.where(values & 1, values ^ 0xFF00, values))
    np.testing.assert_array_equal(out[3], np.where(values & 2, values.view(np.uint16)[:32], 7))
    copied = np.where(values & 8, values[0] >> 16, 0)
    np.testing.assert_array_equal(out[4], np.where(values & 4, copied, np.arange(32)))


def test_a_barrier_orders_threads_and_its_absence_shows(probe):
    out = np.zeros(1, np.int32)
    assert probe.probe_hand_over(pointer(out), 1) == 0
    assert out[0] == 7
    assert probe.probe_hand_over(pointer(out), 0) == 0
    assert out[0] == -1  # poison


def test_the_order_of_threads_can_be_turned(probe):
    out = np.zeros(1, np.int32)
    probe.xm_emulate_last_thread_first(1)
    assert probe.probe_hand_over(pointer(out), 0) == 0
    probe.xm_emulate_last_thread_first(0)
    assert out[0] == 7  # the missing barrier shows in one of the two orders


def test_a_product_is_rounded_before_anything_is_added(probe):
    values, out = np.array([1 + 2**-12, 1 + 2**-12, -1 - 2**-11], np.float32), np.full(32, np.nan, np.float32)
    assert probe.probe_product_and_sum(pointer(values), pointer(out)) == 0
    assert not out.any()  # in one rounding it would be 2^-24


def test_a_collective_that_lanes_never_reach_ends_the_launch(probe):
    assert probe.probe_half_a_warp(pointer(np.zeros(1, np.int32))) == 1


def test_an_asynchronous_copy_is_there_when_waited_for_and_not_before(probe):
    source, out = np.arange(4, dtype=np.int32) + 5, np.zeros(1, np.int32)
    assert probe.probe_impatient(pointer(source), pointer(out), 1) == 0
    assert out[0] == 5
    assert probe.probe_impatient(pointer(source), pointer(out), 0) == 0
    assert out[0] == -1


def group_product(probe, columns, rows, forgotten=0):
    """A product of a warpgroup, in its left operand's rows from registers or from shared memory, and what it should be."""
    a, b = (NUMBERS.integers(-9, 9, shape).astype(np.float32) for shape in ((64, 64), (64, columns)))
    out = np.zeros((64, columns), np.float32)
    bits = [(x.view(np.uint32) >> 16).astype(np.uint16) for x in (a, b)]
    assert probe.probe_group_product(*map(pointer, bits), pointer(out), columns, rows, forgotten) == 0
    return out, a @ b if rows else a @ b.T


@pytest.mark.parametrize(("columns", "rows"), [(64, 0), (64, 1), (128, 1)])
def test_a_warpgroup_multiplies_matrices_in_swapped_tiles(probe, columns, rows):
    np.testing.assert_array_equal(*group_product(probe, columns, rows))


@pytest.mark.parametrize("rows", [0, 1])
@pytest.mark.parametrize(
    "forgotten", range(1, 6), ids=["copies_not_shared", "no_fence", "sums_read_early", "operand_overwritten", "parts_not_swapped"]
)
def test_a_product_of_a_warpgroup_that_a_gpu_would_spoil_is_wrong(probe, rows, forgotten):
    out, wanted = group_product(probe, 64, rows, forgotten)
    assert (out != wanted).mean() > 0.5


def test_a_barrier_of_phases_is_waited_for_and_stops_what_waits_in_vain(probe):
    out = np.zeros(2, np.int32)
    assert probe.probe_phases(pointer(out), 64) == 0
    assert out.tolist() == [7, 8]
    assert probe.probe_phases(pointer(out), 65) == 1


def test_pairs_of_16_bits_are_compared_half_by_half(probe):
    a, b = NUMBERS.integers(0, 1 << 16, (2, 64)).astype(np.uint16)
    a[:4], b[:4] = [0, 65535, 7, 32768], [65535, 0, 7, 32767]
    out = np.zeros((3, 64), np.uint16)
    assert probe.probe_pairs(pointer(a), pointer(b), pointer(out)) == 0
    np.testing.assert_array_equal(out, [np.maximum(a, b), np.minimum(a, b), np.stack([a[1::2], b[1::2]], 1).ravel()])
