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
