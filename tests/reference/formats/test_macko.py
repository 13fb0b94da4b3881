"""MACKO against its authors' compressor."""

from pathlib import Path

import numpy as np
import pytest

from xmsim.reference.formats import Macko

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "macko_compress.npz")


@pytest.mark.parametrize("case", "abc")
def test_every_array_is_that_of_the_authors_compressor(case):
    packed = Macko.from_dense(GOLDEN[f"{case}_A"])
    for name in ("values", "deltas", "row_indices"):
        part, expected = getattr(packed, name), GOLDEN[f"{case}_{name}"]
        assert part.dtype == expected.dtype
        assert part.tobytes() == expected.tobytes()
    assert np.array_equal(packed.to_dense(), GOLDEN[f"{case}_A"])


def test_a_long_gap_stores_zeros_and_a_row_ends_with_its_last_weight():
    dense = np.zeros((2, 64), np.float32)
    dense[0, 40] = 5
    packed = Macko.from_dense(dense)
    assert packed.row_indices.tolist() == [0, 3, 3]
    assert packed.values.tolist() == [0, 0, 5, 0, 0, 0, 0, 0]  # columns 15, 31 and 40
    assert packed.deltas.tolist() == [0xFF, 8, 0, 0]


def test_bytes_are_those_of_the_formula():
    for case in "abc":
        padded = int(GOLDEN[f"{case}_padded"])
        rows = len(GOLDEN[f"{case}_A"])
        assert Macko.from_dense(GOLDEN[f"{case}_A"]).nbytes == 2.5 * padded + 4 * (rows + 1)


def test_a_row_that_leads_out_of_the_matrix_is_refused():
    with pytest.raises(ValueError, match="a row leads beyond its last column"):
        Macko((1, 8), "float32", np.zeros(8, np.float32), np.full(4, 0x33, np.uint8), np.array([0, 3], np.int32))
