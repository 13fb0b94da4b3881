"""TCA-BME against SpInfer's own converter, and as a tensor core reads it."""

from pathlib import Path

import numpy as np
import pytest

from xmsim.reference.formats import TcaBme

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "tcabme_convert.npz")


@pytest.mark.parametrize("case", "abcd")
def test_every_array_is_that_of_the_authors_converter(case):
    packed = TcaBme.from_dense(GOLDEN[f"{case}_A"])
    names = {"values": "values", "bitmap": "bitmap", "group_offsets": "global_offsets", "stripe_offsets": "median_offsets"}
    for ours, theirs in names.items():
        part, expected = getattr(packed, ours), GOLDEN[f"{case}_{theirs}"]
        assert part.dtype == expected.dtype
        assert part.tobytes() == expected.tobytes()
    assert packed.nonzeros == GOLDEN[f"{case}_bitmap_nnz"].sum()


@pytest.mark.parametrize("case", "abcd")
def test_the_buffer_of_a_group_tile_is_sized_by_the_fullest(case):
    assert TcaBme.from_dense(GOLDEN[f"{case}_A"]).max_nnz == GOLDEN[f"{case}_max_nnz_round64"]


def test_below_44_percent_sparsity_the_published_buffer_would_be_too_small():
    assert TcaBme.from_dense(GOLDEN["c_A"]).max_nnz == 2944 > 2304
    assert TcaBme.from_dense(np.ones((64, 64), np.float16)).max_nnz == 4096
    assert TcaBme.from_dense(np.zeros((64, 64), np.float16)).max_nnz == 0


def test_the_matrix_comes_back_and_multiplies_to_the_authors_product():
    for case in "abcd":
        dense = TcaBme.from_dense(GOLDEN[f"{case}_A"]).to_dense()
        assert np.array_equal(dense, GOLDEN[f"{case}_A"])
        product = dense.astype(np.float64) @ GOLDEN[f"{case}_X"].astype(np.float64)
        assert np.allclose(product, GOLDEN[f"{case}_Y_f32"], rtol=1e-5, atol=1e-4)


def test_lanes_of_a_warp_find_their_operands_by_counting_bits():
    packed = TcaBme.from_dense(GOLDEN["a_A"])
    expected = GOLDEN["a_smbd_registers"]
    for warp in range(4):
        place = int(packed.stripe_offsets[warp])
        for index in range(16 * warp, 16 * warp + 16):
            word = int(packed.bitmap[index])
            for lane in range(32):
                for half in range(2):
                    bit = 2 * lane + half
                    rank = (word & ((1 << bit) - 1)).bit_count()
                    value = packed.values[place + rank] if word >> bit & 1 else np.float16(0)
                    assert value == expected[index, lane, half]
            place += word.bit_count()


@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.9])
@pytest.mark.parametrize(("rows", "columns"), [(128, 192), (100, 70)])
def test_bytes_are_those_of_the_formula(rows, columns, sparsity):
    random = np.random.default_rng(1)
    dense = (random.standard_normal((rows, columns)) * (random.random((rows, columns)) >= sparsity)).astype(np.float16)
    filled = np.zeros((-(-rows // 64) * 64, -(-columns // 64) * 64), np.float16)
    filled[:rows, :columns] = dense
    groups = filled.size // 4096
    stored = sum(
        -(-np.count_nonzero(tile) // 8) * 8
        for band in np.split(filled, len(filled) // 64)
        for tile in np.split(band, filled.shape[1] // 64, axis=1)
    )
    paper = 2 * stored + filled.size // 8 + 4 * (groups + 1)
    assert TcaBme.from_dense(dense).nbytes == paper + 16 * groups  # as shipped: the offsets of the stripes
