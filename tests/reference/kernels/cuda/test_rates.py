"""The kernels of benchmarks/gpu_rates.cu, whose times say what units of a GPU give, do the work that their times stand for."""

import ctypes
from ctypes import c_int, c_int64, c_void_p
from pathlib import Path

import numpy as np
import pytest

from xmsim.reference.kernels.cuda import build

torch = pytest.importorskip("torch")

RATES = Path(__file__).resolve().parents[4] / "benchmarks" / "gpu_rates.cu"
THREADS, CHAINS, ROW_WORDS = 256, 8, 64  # of a block, of a thread, of 4 bytes a row
NUMBERS = np.random.default_rng(3)


@pytest.fixture(scope="module")
def emulated_rates(tmp_path_factory):
    if build.find_cxx() is None:
        pytest.skip("no C++ compiler")
    return "cpu", ctypes.CDLL(str(build.build_emulator(tmp_path_factory.mktemp("rates"), [RATES])))


@pytest.fixture(scope="module")
def gpu_rates(gpu, tmp_path_factory):
    if build.find_nvcc() is None:
        pytest.skip("no nvcc")
    return "cuda", ctypes.CDLL(str(build.build_library(tmp_path_factory.mktemp("rates"), [RATES])))


@pytest.fixture(params=["emulated_rates", pytest.param("gpu_rates", marks=pytest.mark.gpu)])
def run(request):
    """Calls a kernel with arrays, which it may change, and numbers."""
    device, library = request.getfixturevalue(request.param)

    def call(name, *values):
        there = [torch.from_numpy(x.view(np.int32)).to(device) if isinstance(x, np.ndarray) else x for x in values]
        kinds = {np.ndarray: c_void_p, np.int64: c_int64, int: c_int}
        function = getattr(library, f"xm_cuda_rate_{name}")
        function.argtypes = [*(kinds[type(x)] for x in values), c_void_p]
        assert function(*(x.data_ptr() if isinstance(x, torch.Tensor) else x for x in there), None) == 0
        for x, made in zip(values, there, strict=True):
            if isinstance(x, np.ndarray):
                x.view(np.int32)[...] = made.cpu().numpy()

    return call


def words(*shape):
    return NUMBERS.integers(0, 1 << 32, shape).astype(np.uint32)


def test_population_counts_are_counted_in_eight_chains(run):
    given, out = words(2 * THREADS), np.zeros(2 * THREADS, np.uint32)
    run("population_counts", given, out, 2, 3)
    chains = given[:, None] + np.arange(CHAINS, dtype=np.uint32)
    for _ in range(3):
        chains = np.bitwise_count(chains).astype(np.uint32) ^ given[:CHAINS]
    np.testing.assert_array_equal(out, np.bitwise_xor.reduce(chains, axis=1))


def test_exponentials_are_taken_one_after_the_other(run):
    given, out = NUMBERS.random(THREADS, np.float32), np.zeros(THREADS, np.float32)
    run("exponentials", given, out, 1, 4)
    chains = given[:, None] + np.arange(CHAINS) / 8
    for _ in range(4):
        chains = np.exp2(-chains)
    np.testing.assert_allclose(out, chains.sum(1), rtol=1e-5)


def test_pairs_of_16_bits_are_held_between_others(run):
    given, out = words(THREADS), np.zeros(THREADS, np.uint32)
    run("comparisons", given, out, 1, 5)
    pairs, limits = ((given[:, None] + np.arange(CHAINS, dtype=np.uint32)).view(np.uint16), given[: 2 * CHAINS].view(np.uint16))
    least, most = limits[: 2 * CHAINS], np.roll(limits[2 * CHAINS :], -2)
    held = np.maximum(np.minimum(pairs, most), least)
    np.testing.assert_array_equal(out, np.bitwise_xor.reduce(np.ascontiguousarray(held).view(np.uint32), axis=1))


@pytest.mark.parametrize("name", ["bfloat16_products", "int8_products"])
def test_sums_of_products_grow_by_the_same_each_round(run, name):
    kind = np.float32 if name.startswith("bfloat16") else np.int32
    small = NUMBERS.integers(-3, 4, 4 * 4 * THREADS)
    numbers = (
        small.astype(np.int8).view(np.uint32)
        if kind is np.int32
        else (small.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).view(np.uint32)
    )
    once, often = (np.zeros(THREADS * CHAINS * 4, kind) for _ in range(2))
    run(name, numbers, numbers, once, 1, 1)
    run(name, numbers, numbers, often, 1, 3)
    assert len(np.unique(once)) > 20
    np.testing.assert_array_equal(often, 3 * once)


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_every_word_is_read_in_every_round(run, rounds):
    given, out = words(4 * 1500), np.zeros(THREADS, np.uint32)
    run("read", given, np.int64(1500), out, 1, rounds)
    wanted = np.bitwise_xor.reduce(given) if rounds % 2 else 0
    assert np.bitwise_xor.reduce(out) == wanted


@pytest.mark.parametrize("how", ["gather", "gather_async"])
@pytest.mark.parametrize("count", [1, 7, 300])
def test_every_listed_row_is_read_once(run, how, count):
    rows, chosen = words(400, ROW_WORDS), NUMBERS.permutation(400)[:count].astype(np.int32)
    out = np.zeros(2 * THREADS, np.uint32)
    run(how, rows, chosen, count, out, 2)
    assert np.bitwise_xor.reduce(out) == np.bitwise_xor.reduce(rows[chosen], axis=None)


def test_words_are_followed_one_after_the_other(run):
    following, out = np.zeros((50, 4), np.uint32), np.zeros(1, np.uint32)
    order = NUMBERS.permutation(np.arange(1, 50))
    following[0, 0] = order[0]
    following[order[:-1], 0] = order[1:]
    run("follow", following, 20, out)
    assert out[0] == order[19]


def test_the_empty_kernel_runs(run):
    out = np.zeros(1, np.uint32)
    run("nothing", out)
    assert out[0] == 1
