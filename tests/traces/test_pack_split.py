"""Pack & split of Sanger: the authors' counts and load balances, and the same counts by a walk over the vectors."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmsim.traces.pack_split import pack_split

GOLDEN = Path(__file__).parents[1] / "golden"


def read_rows(name: str) -> list[dict[str, str]]:
    with (GOLDEN / name).open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("row", read_rows("sanger_pack_split.csv"), ids=lambda row: f"{row['seed']}-{row['num_pes']}")
def test_sub_rows_passes_and_balances_equal_the_golden_ones(row: dict[str, str]) -> None:
    tokens = int(row["n"])
    keep = np.unpackbits(np.load(GOLDEN / "sanger_pack_masks.npz")[f"mask_n{tokens}_p{row['p']}"], axis=-1).astype(bool)
    split = pack_split(keep, np.ones_like(keep), pes=int(row["num_pes"]))
    np.testing.assert_array_equal(split.sub_rows, [int(count) for count in row["subrows_per_stripe"].split()])
    counts = int(split.kept.sum()), int(split.empty.sum()), int(split.sub_rows.sum()), split.passes
    assert counts == tuple(int(row[name]) for name in ("nnz", "empty_vectors", "subrows", "passes_of_64"))
    balances = split.balance, split.balance_without_skip, split.balance_without_skip_as_coded
    assert balances == pytest.approx([float(row[name]) for name in ("lb_skip", "lb_noskip_true", "lb_noskip_as_coded")], abs=1e-6)


def seeded_mask(row: dict[str, str]) -> tuple[np.ndarray, np.ndarray]:
    """The mask of a golden row, [2, 4, tokens, tokens], and its allowed pairs."""
    tokens, density, rng = int(row["seq_len"]), float(row["p"]), np.random.default_rng(int(row["seed"]))
    densities = {
        "rowvar": lambda: np.clip(rng.gamma(2, density / 2, (2, 4, tokens, 1)), 0, 1),
        "clustered": lambda: np.repeat(np.clip(rng.gamma(0.5, density / 0.5, (2, 4, tokens, tokens // 64)), 0, 1), 64, axis=-1),
    }.get(row["kind"], lambda: density)()
    keep = rng.random((2, 4, tokens, tokens)) < densities
    lengths = rng.integers(tokens // 2, tokens + 1, 2) if row["kind"] == "padded" else np.full(2, tokens)
    valid = np.arange(tokens) < lengths[:, None]
    return keep, (valid[:, :, None] & valid[:, None, :])[:, None]


@pytest.mark.parametrize("row", read_rows("sanger_load_balance.csv"), ids=lambda row: f"{row['kind']}-{row['seed']}")
def test_load_balances_of_a_batch_equal_the_authors(row: dict[str, str]) -> None:
    keep, allowed = seeded_mask(row)
    assert keep.sum() == int(row["mask_nnz"])
    quarter, half = (pack_split(keep, allowed, pes=pes) for pes in (16, 32))
    vectors = tuple(int(count.sum()) for count in (quarter.filled, quarter.empty, quarter.sub_rows))
    assert vectors == tuple(int(row[name]) for name in ("vectors_nonzero", "vectors_zero", "splits_16"))
    expected = {
        "lb_50_noskip": half.balance_without_skip_as_coded,
        "lb_50_skip": half.balance,
        "lb_25_noskip": quarter.balance_without_skip_as_coded,
        "lb_25_skip": quarter.balance,
        "alt_50_noskip_zero_counted": half.balance_without_skip,
        "alt_25_noskip_zero_counted": quarter.balance_without_skip,
    }
    assert list(expected.values()) == pytest.approx([float(row[name]) for name in expected], abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_length_is_split_vector_by_vector(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    queries, keys, ports, pes, rows = (data.draw(st.integers(1, most)) for most in (12, 20, 8, 5, 6))
    allowed = rng.random((queries, keys)) < data.draw(st.sampled_from([1.0, 0.3]))
    keep = (rng.random((2, queries, keys)) < data.draw(st.sampled_from([0.0, 0.2, 0.7]))) & allowed
    split = pack_split(keep, allowed, ports=ports, pes=pes, rows=rows)
    passes = passes_without_skip = 0
    for head, stripe in np.ndindex(split.sub_rows.shape):
        columns = slice(stripe * ports, (stripe + 1) * ports)
        vectors = [list(keep[head, query, columns]).count(True) for query in range(queries) if allowed[query, columns].any()]
        sub_rows = [min(pes, count - first) for count in vectors for first in range(0, count, pes)]
        empty = vectors.count(0)
        assert split.kept[head, stripe] == sum(sub_rows)
        assert (split.sub_rows[head, stripe], split.empty[head, stripe]) == (len(sub_rows), empty)
        assert split.filled[head, stripe] == len(vectors) - empty
        passes += len(range(0, len(sub_rows), rows))
        passes_without_skip += len(range(0, len(sub_rows) + empty, rows))
    assert (split.passes, split.passes_without_skip) == (passes, passes_without_skip)
    assert 0 <= split.balance_without_skip <= split.balance <= 1


def test_full_vectors_fill_the_array_but_not_as_coded() -> None:
    split = pack_split(np.ones((64, 64), bool), np.ones((64, 64), bool))
    assert (split.balance, split.balance_without_skip, split.balance_without_skip_as_coded) == (1.0, 1.0, 4 / 5)
    assert (split.passes, split.passes_without_skip) == (4, 4)


def test_a_mask_that_keeps_nothing_has_no_pass_and_no_balance() -> None:
    split = pack_split(np.zeros((70, 130), bool), np.ones((70, 130), bool))
    assert (split.balance, split.balance_without_skip, split.passes) == (0.0, 0.0, 0)
    assert split.passes_without_skip == 3 * 2  # 70 idle rows in each of three stripes
