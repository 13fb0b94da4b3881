"""SALOv2's patterns: the authors' masks bit for bit, and at any length what the algorithm says, tile by tile."""

from __future__ import annotations

import csv
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference.golden_scores import GOLDEN, KINDS, causal_scores, unpacked
from tests.reference.kinds import Kind

from xmsim.reference.attention import salo, sparse_attention
from xmsim.reference.attention.salo import salo_keep


@pytest.mark.parametrize("tokens", [128, 256])
@pytest.mark.parametrize("recipe", KINDS)
def test_causal_masks_equal_the_dynax_authors_bit_for_bit(recipe: str, tokens: int, kind: Kind) -> None:
    scores = causal_scores(recipe, tokens)
    golden = np.load(GOLDEN / f"dynax_mask_{recipe}_{tokens}.npz")
    keep = kind.map(salo_keep, scores)
    np.testing.assert_array_equal(keep, unpacked(golden["salo__bits"], scores.shape))
    assert keep.sum() / (2 * np.tri(tokens).sum()) == pytest.approx(float(golden["salo__density"]), abs=1e-6)


def read_patterns() -> list[dict[str, int]]:
    with (GOLDEN / "salo_v2_pattern_masks.csv").open() as file:
        return [{name: int(value) for name, value in row.items() if name != "density"} for row in csv.DictReader(file)]


@pytest.mark.parametrize("row", read_patterns(), ids=lambda row: str(row["seed"]))
def test_bidirectional_masks_equal_the_salo_authors_bit_for_bit(row: dict[str, int], kind: Kind) -> None:
    tokens, window, global_tokens, picks, dilation = (
        row[name] for name in ("seq_len", "pe_size", "global_nums", "random_nums", "dilation")
    )
    scores = np.random.default_rng(row["seed"]).random((1, 2, tokens, tokens)).astype(np.float32)
    keep = kind.map(salo_keep, scores, window=window, global_tokens=global_tokens, picks=picks, dilation=dilation)
    bits = np.load(GOLDEN / "salo_v2_pattern_masks.npz")[f"mask_n{tokens}_pe{window}_g{global_tokens}_r{picks}_d{dilation}"]
    np.testing.assert_array_equal(keep, unpacked(bits, scores.shape))
    assert keep.sum() == row["mask_nnz"]


def test_attention_on_the_mask_equals_the_dynax_authors_output(kind: Kind) -> None:
    rng = np.random.default_rng(9001)
    q, k, v = (rng.standard_normal((1, 1, 128, 64), dtype=np.float32) for _ in range(3))
    q *= np.float32(1.6)
    k[:, :, 0, :] += np.float32(0.5) * np.sign(q.mean(axis=(0, 1, 2)))
    scores = q @ k.swapaxes(-1, -2) * np.float32(0.125) + np.where(np.tri(128, dtype=bool), np.float32(0), np.float32(-np.inf))
    golden = np.load(GOLDEN / "dynax_attention_path.npz")
    np.testing.assert_allclose(kind.map(sparse_attention, q, k, v, kind.map(salo_keep, scores)), golden["salo__out"], atol=2e-6)


def matched(scores: np.ndarray, first: int, *, block: int, window: int, global_tokens: int, picks: int, dilation: int) -> np.ndarray:
    """The mask of one head, [queries, keys], the first query at position `first`: a dictionary of pairs for each tile."""
    tiles: dict[tuple[int, int], dict[tuple[int, int], float]] = {}
    for query, key in np.ndindex(scores.shape):
        tile = tiles.setdefault(((query + first) // block, key // block), {})
        tile[(query + first) % block, key % block] = float(scores[query, key])
    keep = np.zeros(scores.shape, bool)
    for (tile_row, tile_column), tile in tiles.items():
        kept = matched_tile(tile, block, window, global_tokens, picks, dilation)
        for row, column in kept:
            keep[tile_row * block + row - first, tile_column * block + column] = tile[row, column] > -np.inf
    return keep


def matched_tile(
    tile: dict[tuple[int, int], float], block: int, window: int, global_tokens: int, picks: int, dilation: int
) -> set[tuple[int, int]]:
    def sums(line_of: Callable[[int, int], int]) -> dict[int, float]:
        lines: dict[int, float] = {}
        for (row, column), score in tile.items():
            lines[line_of(row, column)] = lines.get(line_of(row, column), 0.0) + score
        return lines

    def largest(values: dict[int, float], count: int) -> list[int]:
        return sorted(values, key=lambda line: (-values[line], line))[:count]

    rows, columns, diagonals = sums(lambda r, c: r), sums(lambda r, c: c), sums(lambda r, c: c - r)
    reach = dilation * (window - 1)
    starts = [d for d in range(min(diagonals), max(diagonals) + 1) if d + reach <= max(diagonals)]
    windows = {
        start: sum(diagonals.get(start + step, 0.0) for step in range(0, reach + 1, dilation))
        for start in starts or [min(min(diagonals), block - 1 - reach)]
    }
    global_rows = largest(rows, min(global_tokens, len(rows) - 1))
    global_columns = largest(columns, global_tokens)
    (best,) = largest(windows, 1)
    kept = {(r, c) for r, c in tile if r in global_rows or c in global_columns or c - r in range(best, best + reach + 1, dilation)}
    picked = set()
    for row in rows:
        left = {c: 0.0 if (r, c) in kept and score > -np.inf else score for (r, c), score in tile.items() if r == row}
        picked |= {(row, column) for column in largest(left, picks)}
    return kept | picked


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, int | None, dict[str, int]]:
    """Scores [heads, queries, keys] that seldom fill their tiles, where their first query is, and a pattern."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (2, draw(st.integers(1, 14)), draw(st.integers(1, 20)))
    scores = rng.standard_normal(shape, dtype=np.float32) - np.float32(draw(st.sampled_from([0, 1.5])))
    if draw(st.booleans()):
        scores = np.round(scores)
    offset = draw(st.none() | st.integers(0, 20))
    if draw(st.booleans()):
        first = shape[2] - shape[1] if offset is None else offset
        scores[:, np.arange(shape[2]) > first + np.arange(shape[1])[:, None]] = -np.inf
    scores[rng.random(shape) < draw(st.sampled_from([0.0, 0.0, 0.2]))] = -np.inf
    block = draw(st.sampled_from([1, 3, 4, 8]))
    dilation = draw(st.integers(1, 3))
    window = draw(st.integers(1, (2 * block - 2) // dilation + 1))
    counts = {"global_tokens": draw(st.integers(0, min(block, 3))), "picks": draw(st.integers(0, min(block, 3)))}
    return scores, offset, {"block": block, "window": window, "dilation": dilation, **counts}


@settings(max_examples=150, deadline=None)
@given(case=cases())
def test_any_length_and_offset_is_matched_tile_by_tile(kind: Kind, case: tuple[np.ndarray, int | None, dict[str, int]]) -> None:
    scores, offset, pattern = case
    first = scores.shape[2] - scores.shape[1] if offset is None else offset
    expected = np.stack([matched(head, first, **pattern) for head in scores])
    in_tile = np.arange(0, scores.shape[2], pattern["block"])
    if pattern["picks"]:  # of each tile a row keeps a pair if any is allowed
        kept, allowed = (np.logical_or.reduceat(mask, in_tile, axis=-1) for mask in (expected, scores > -np.inf))
        np.testing.assert_array_equal(kept, allowed)
    np.testing.assert_array_equal(kind.map(salo_keep, scores, query_offset=offset, **pattern), expected)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_queries_that_begin_and_end_with_tiles_have_the_mask_of_the_whole(data: st.DataObject) -> None:
    tokens, block = data.draw(st.integers(1, 60)), data.draw(st.sampled_from([4, 8]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    scores = np.where(np.tri(tokens, dtype=bool), rng.standard_normal((2, tokens, tokens)), -np.inf)
    keep = salo_keep(scores, block=block, window=4)
    start = block * data.draw(st.integers(0, (tokens - 1) // block))
    stop = min(tokens, start + block * data.draw(st.integers(1, 4)))
    np.testing.assert_array_equal(salo_keep(scores[:, start:stop], block=block, window=4, query_offset=start), keep[:, start:stop])
    seen = salo_keep(scores[:, start:stop, :stop], block=block, window=4)  # a causal chunk needs no later keys
    np.testing.assert_array_equal(seen, keep[:, start:stop, :stop])


def test_heads_are_matched_one_by_one_however_many_are_looked_at_together(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.random.default_rng(3).standard_normal((5, 200, 130), dtype=np.float32)
    keep = salo_keep(scores)
    np.testing.assert_array_equal(salo_keep(scores[::-1]), keep[::-1])
    np.testing.assert_array_equal(salo_keep(scores[3]), keep[3])
    for entries in (1, 2 * 64 * 130):
        monkeypatch.setattr(salo, "_CPU_ENTRIES", entries)
        np.testing.assert_array_equal(salo_keep(scores), keep)


def test_a_lone_query_keeps_of_each_tile_a_column_a_window_and_its_picks() -> None:
    scores = np.full((1, 130), -1.0)
    scores[0, 3] = 9.0  # the column of the first tile
    scores[0, 20:28] = 0.5  # its window
    scores[0, [40, 50, 60]] = 2.0  # its picks
    keep = salo_keep(scores)
    np.testing.assert_array_equal(np.flatnonzero(keep[0, :64]), [3, *range(20, 28), 40, 50, 60])
    assert keep[0, 64:].sum() == 8 + 2  # all equal: the window starts with the column, and its zeros are picked again; two keys are left


def test_a_row_of_negative_scores_picks_what_it_keeps_already() -> None:
    scores = np.random.default_rng(4).uniform(1, 2, (64, 64))
    for sign in (1, -1):
        kept = salo_keep(sign * scores, picks=0).sum(axis=-1)
        picked = salo_keep(sign * scores, picks=3).sum(axis=-1) - kept
        np.testing.assert_array_equal(picked, np.minimum(3, 64 - kept) if sign > 0 else np.maximum(0, 3 - kept))
    assert set(picked) == {0, 1, 2}


def test_sums_whose_rounding_depends_on_the_order_give_arrays_and_tensors_the_same_mask(kind: Kind) -> None:
    rng = np.random.default_rng(5)
    line = rng.integers(1, 10, 64) / 10  # tenths: in binary their sum depends on the order
    scores = np.stack([[rng.permutation(line) for _ in range(64)] for _ in range(20)])
    assert len({float(np.sum(row)) for row in scores[0]}) > 1
    np.testing.assert_array_equal(kind.map(salo_keep, scores), salo_keep(scores))
    np.testing.assert_array_equal(kind.map(salo_keep, scores.swapaxes(1, 2)), salo_keep(scores.swapaxes(1, 2)))


def test_a_bfloat16_tensor_with_a_gradient_is_matched_like_its_values() -> None:
    torch = pytest.importorskip("torch")
    scores = torch.randn(2, 70, 100, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16).requires_grad_()
    keep = salo_keep(scores)
    assert not keep.requires_grad
    np.testing.assert_array_equal(keep.numpy(), salo_keep(scores.detach().float().numpy()))


def test_no_allowed_pair_keeps_nothing_and_empty_scores_are_no_error(kind: Kind) -> None:
    assert not kind.map(salo_keep, np.full((2, 3, 70), -np.inf)).any()
    for shape in ((2, 0, 70), (2, 3, 0), (0, 3, 70)):
        assert kind.map(salo_keep, np.zeros(shape)).shape == shape


@pytest.mark.parametrize(
    "arguments, argument",
    [
        ({"block": 0}, "block"),
        ({"window": 0}, "window"),
        ({"window": 128}, "window"),
        ({"window": 64, "dilation": 3}, "window"),
        ({"dilation": 0}, "dilation"),
        ({"global_tokens": -1}, "global_tokens"),
        ({"global_tokens": 65}, "global_tokens"),
        ({"picks": -1}, "picks"),
        ({"picks": 65}, "picks"),
        ({"query_offset": -1}, "query_offset"),
    ],
)
def test_an_argument_out_of_range_is_refused_by_name(arguments: dict[str, int], argument: str) -> None:
    with pytest.raises(ValueError, match=f"^{argument}: {arguments[argument]} "):
        salo_keep(np.zeros((1, 64, 64)), **arguments)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_score_that_is_no_score_is_refused(bad: float, kind: Kind) -> None:
    scores = np.zeros((3, 70), np.float32)
    scores[1, 66] = bad
    with pytest.raises(ValueError, match=r"^scores: NaN or \+inf"):
        kind.map(salo_keep, scores)
    with pytest.raises(ValueError, match=r"^scores: \[..., queries, keys\]"):
        kind.map(salo_keep, scores[0])
