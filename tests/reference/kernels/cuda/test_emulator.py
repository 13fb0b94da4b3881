"""What a kernel may use of a GPU does what the definitions of CUDA say, on the emulator and on a GPU.

The emulator stops where a GPU would do something undefined.
"""

import ctypes
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from xmsim.reference.kernels.cuda import build

NUMBERS = np.random.default_rng(7)
PROBE = Path(__file__).with_name("simt_probe.cu")


class Probes:
    """The functions of simt_probe.cu, which take arrays as they are."""

    def __init__(self, library):
        self.library = library

    def __getattr__(self, name):
        return partial(self.call, getattr(self.library, name))

    def call(self, function, *arguments):
        return function(*(ctypes.c_void_p(x.ctypes.data) if isinstance(x, np.ndarray) else x for x in arguments))


class ProbesOnGpu(Probes):
    """The same on a GPU: arrays are copied there, and back when the kernel is done."""

    def call(self, function, *arguments):
        import torch

        there = [torch.from_numpy(x.view(np.uint8)).cuda() if isinstance(x, np.ndarray) else None for x in arguments]
        torch.cuda.synchronize()
        status = function(*(x if copy is None else ctypes.c_void_p(copy.data_ptr()) for x, copy in zip(arguments, there, strict=True)))
        for x, copy in zip(arguments, there, strict=True):
            if copy is not None:
                x.view(np.uint8)[...] = copy.cpu().numpy()
        return status


@pytest.fixture(scope="module")
def emulated(tmp_path_factory):
    if build.find_cxx() is None:
        pytest.skip("no C++ compiler")
    return Probes(ctypes.CDLL(str(build.build_emulator(tmp_path_factory.mktemp("probe"), sources=[PROBE]))))


@pytest.fixture(scope="module")
def on_gpu(gpu, tmp_path_factory):
    if build.find_nvcc() is None:
        pytest.skip("no nvcc")
    return ProbesOnGpu(ctypes.CDLL(str(build.build_library(tmp_path_factory.mktemp("probe"), sources=[PROBE]))))


@pytest.fixture(params=["emulated", pytest.param("on_gpu", marks=pytest.mark.gpu)])
def probe(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["emulated", pytest.param("on_gpu", marks=pytest.mark.gpu)])
def hopper_probe(request):
    """As `probe`, on a GPU whose warpgroups multiply."""
    found = request.getfixturevalue(request.param)
    if request.param == "on_gpu":
        import torch

        if torch.cuda.get_device_capability() != (9, 0):
            pytest.skip("wgmma is of compute capability 9.0")
    return found


@pytest.mark.parametrize("int8", [0, 1])
def test_mma_multiplies_matrices(probe, int8):
    inner = 32 if int8 else 16
    a, b = (NUMBERS.integers(-100, 100, shape).astype(np.float32) for shape in ((16, inner), (inner, 8)))
    out = np.full((16, 8), np.nan, np.float32)
    assert probe.probe_multiply(a, b, out, int8) == 0
    np.testing.assert_array_equal(out, a @ b)


@pytest.mark.parametrize("transposed", [0, 1])
def test_ldmatrix_hands_out_rows_or_columns(probe, transposed):
    matrices = NUMBERS.integers(0, 1 << 16, (4, 8, 8)).astype(np.uint16)
    out = np.zeros((4, 32, 2), np.uint16)
    assert probe.probe_matrices(matrices, out, transposed) == 0
    wanted = matrices.swapaxes(1, 2) if transposed else matrices
    np.testing.assert_array_equal(out, wanted.reshape(4, 32, 2))


def test_lanes_see_their_neighbours(probe):
    values = NUMBERS.integers(-9, 9, 64).astype(np.int32)
    out = np.zeros((4, 64), np.int32)
    assert probe.probe_neighbours(values, out) == 0
    warps = values.reshape(2, 32)
    np.testing.assert_array_equal(out[0].reshape(2, 32), np.repeat(warps.sum(1, keepdims=True), 32, 1))
    np.testing.assert_array_equal(out[1], np.repeat(values.reshape(16, 4).max(1), 4))
    np.testing.assert_array_equal(out[2].reshape(2, 32), np.concatenate([warps[:, :1], warps[:, :-1]], 1))
    votes = np.packbits(warps > 0, axis=1, bitorder="little").view(np.int32)
    np.testing.assert_array_equal(out[3].reshape(2, 32), np.repeat(votes, 32, 1))


def test_words_are_put_together_and_read_where_they_are_wanted(probe):
    values = NUMBERS.integers(0, 1 << 32, 32).astype(np.uint32)
    out = np.zeros((4, 32), np.uint32)
    assert probe.probe_words(values, out) == 0
    np.testing.assert_array_equal(out[0], values.cumsum(dtype=np.uint32))
    both = np.concatenate([values[:, None], np.roll(values, -1)[:, None]], 1).view(np.uint8)
    chosen = np.stack([both[np.arange(32), values >> shift & 7] for shift in (0, 4, 8, 12)], 1)
    np.testing.assert_array_equal(out[1], np.ascontiguousarray(chosen).view(np.uint32)[:, 0])
    np.testing.assert_array_equal(out[2], values.view(np.uint16)[:32])
    copied = np.where(values & 8, values[0] >> 16, 0)
    np.testing.assert_array_equal(out[3], np.where(values & 4, copied, np.arange(32)))


def test_a_barrier_orders_threads(probe):
    out = np.zeros(1, np.int32)
    assert probe.probe_hand_over(out, 1) == 0
    assert out[0] == 7


def test_the_absence_of_a_barrier_shows(emulated):
    out = np.zeros(1, np.int32)
    assert emulated.probe_hand_over(out, 0) == 0
    assert out[0] == -1  # poison


def test_the_order_of_threads_can_be_turned(emulated):
    out = np.zeros(1, np.int32)
    emulated.xm_emulate_last_thread_first(1)
    assert emulated.probe_hand_over(out, 0) == 0
    emulated.xm_emulate_last_thread_first(0)
    assert out[0] == 7  # the missing barrier shows in one of the two orders


def test_a_product_is_rounded_before_anything_is_added(probe):
    values, out = np.array([1 + 2**-12, 1 + 2**-12, -1 - 2**-11], np.float32), np.full(32, np.nan, np.float32)
    assert probe.probe_product_and_sum(values, out) == 0
    assert not out.any()  # in one rounding it would be 2^-24


def test_a_collective_that_lanes_never_reach_ends_the_launch(emulated):
    assert emulated.probe_half_a_warp(np.zeros(1, np.int32)) == 1


def test_an_asynchronous_copy_is_there_when_waited_for(probe):
    source, out = np.arange(4, dtype=np.int32) + 5, np.zeros(1, np.int32)
    assert probe.probe_impatient(source, out, 1) == 0
    assert out[0] == 5


def test_an_asynchronous_copy_is_not_there_before(emulated):
    source, out = np.arange(4, dtype=np.int32) + 5, np.zeros(1, np.int32)
    assert emulated.probe_impatient(source, out, 0) == 0
    assert out[0] == -1


def test_8_bytes_are_copied_where_they_are_valid_and_zeros_elsewhere(probe):
    source, out = NUMBERS.integers(1, 1 << 60, 32), np.full(32, -1)
    assert probe.probe_every_second(source, out) == 0
    np.testing.assert_array_equal(out, np.where(np.arange(32) % 2, 0, source))


def group_product(probe, columns, rows, forgotten=0):
    """A product of a warpgroup, in its left operand's rows from registers or from shared memory, and what it should be."""
    a, b = (NUMBERS.integers(-9, 9, shape).astype(np.float32) for shape in ((64, 64), (64, columns)))
    out = np.zeros((64, columns), np.float32)
    bits = [(x.view(np.uint32) >> 16).astype(np.uint16) for x in (a, b)]
    assert probe.probe_group_product(*bits, out, columns, rows, forgotten) == 0
    return out, a @ b if rows else a @ b.T


@pytest.mark.parametrize(("columns", "rows"), [(64, 0), (64, 1), (128, 1)])
def test_a_warpgroup_multiplies_matrices_in_swapped_tiles(hopper_probe, columns, rows):
    np.testing.assert_array_equal(*group_product(hopper_probe, columns, rows))


@pytest.mark.parametrize("rows", [0, 1])
@pytest.mark.parametrize(
    "forgotten", range(1, 6), ids=["copies_not_shared", "no_fence", "sums_read_early", "operand_overwritten", "parts_not_swapped"]
)
def test_a_product_of_a_warpgroup_that_a_gpu_would_spoil_is_wrong(emulated, rows, forgotten):
    out, wanted = group_product(emulated, 64, rows, forgotten)
    assert (out != wanted).mean() > 0.5


def test_a_barrier_of_phases_is_waited_for(hopper_probe):
    out = np.zeros(2, np.int32)
    assert hopper_probe.probe_phases(out, 64) == 0
    assert out.tolist() == [7, 8]


def test_a_barrier_of_phases_stops_what_waits_in_vain(emulated):
    assert emulated.probe_phases(np.zeros(2, np.int32), 65) == 1
    emulated.library.xm_emulated_reason.restype = ctypes.c_char_p
    assert emulated.xm_emulated_reason() == b"threads waited in vain: 64 (the first is 0) for a phase of a barrier to end"


def ring_is_right(probe, forgotten):
    out = np.full((6, 128), -1, np.int32)
    return probe.probe_ring(out, forgotten) == 0 and (out == np.arange(6)[:, None]).all()


def test_buffers_are_handed_round_by_barriers_of_phases(hopper_probe):
    assert ring_is_right(hopper_probe, 0)


FORGOTTEN = ["wait_until_it_is_free", "read_before_it_is_given_back", "a_warp_that_reads", "a_warp_that_writes", "barriers", "lanes"]


@pytest.mark.parametrize("forgotten", range(len(FORGOTTEN) + 1), ids=["nothing", *FORGOTTEN])
def test_a_forgotten_step_of_handing_buffers_round_shows_in_one_of_the_orders(emulated, forgotten):
    right = []
    for order in (0, 1):
        emulated.xm_emulate_last_thread_first(order)
        right.append(ring_is_right(emulated, forgotten))
    emulated.xm_emulate_last_thread_first(0)
    assert all(right) == (not forgotten)


@pytest.mark.parametrize(("waits", "impatient", "status", "seen"), [(1, 0, 0, 7), (1, 1, 0, -1), (0, 0, 1, -1)])
def test_what_the_kernel_before_writes_is_there_once_it_was_waited_for(emulated, waits, impatient, status, seen):
    written, content, out = np.zeros(1, np.int32), np.array([7], np.int32), np.zeros(64, np.int32)
    emulated.xm_emulate_kernel_before(written, content, ctypes.c_size_t(4))
    try:
        assert emulated.probe_early(written, out, waits, impatient) == status  # 1: a thread ended without waiting
    finally:
        emulated.xm_emulate_kernel_before(None, None, ctypes.c_size_t(0))
    assert out[0] == seen


def test_pairs_of_16_bits_are_compared_and_added_half_by_half(probe):
    a, b = NUMBERS.integers(0, 1 << 16, (2, 64)).astype(np.uint16)
    a[:4], b[:4] = [0, 65535, 7, 32768], [65535, 0, 7, 32767]
    out = np.zeros((3, 64), np.uint16)
    assert probe.probe_pairs(a, b, out) == 0
    limits = np.tile(np.array([7, 32768], np.uint16), 32)
    np.testing.assert_array_equal(out, [np.maximum(a, b), np.minimum(a, b), np.minimum(a + b, limits)])
