"""2:4: a case by hand, its size, and what it refuses."""

import numpy as np
import pytest

from xmsim.reference.formats import TwoFour


def test_two_ascending_places_of_each_four_are_stored():
    dense = np.array([[0, 7, 0, 8, 9, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0]], np.float32)
    packed = TwoFour.from_dense(dense)
    assert packed.values.tolist() == [[7, 8, 9, 0, 0, 3, 0, 0]]
    # (1, 3), (0, first zero 1), (first zero 0, 3), (0, 1): first place in the low bits, first four in the low half of the byte
    assert packed.places.tolist() == [[0b0100_1101, 0b0100_1100]]
    assert np.array_equal(packed.to_dense(), dense)


@pytest.mark.parametrize("columns", [4, 8, 12, 64])
def test_a_16_bit_weight_takes_9_bits(columns):
    dense = np.zeros((6, columns), np.float16)
    dense[:, ::4] = 1
    assert TwoFour.from_dense(dense).nbytes == 6 * (columns + -(-columns // 8))
    assert np.array_equal(TwoFour.from_dense(dense).to_dense(), dense)


def test_a_matrix_that_is_not_2_4_is_refused_with_the_place():
    dense = np.zeros((5, 12), np.float32)
    dense[3, 4:7] = 1
    with pytest.raises(ValueError, match="row 3 has more than 2 non-zeros in columns 4 to 7; prune the matrix to 2:4 first"):
        TwoFour.from_dense(dense)
    with pytest.raises(ValueError, match="6 in_features are not a multiple of 4"):
        TwoFour.from_dense(np.zeros((2, 6), np.float32))
    with pytest.raises(ValueError, match="they do not ascend"):
        TwoFour((1, 8), "float32", np.zeros((1, 4), np.float32), np.array([[0b0101_0100]], np.uint8))
