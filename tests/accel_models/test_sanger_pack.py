import csv
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmsim.accel_models.sanger_pack import PackShape, pack_by_column, pack_by_row, trace_pack
from xmsim.traces.pack_split import pack_split
from xmsim.workloads.attention import pack

GOLDEN = Path(__file__).parents[1] / "golden"
RTL_CASES = ((8, 4, 8, 0.5, 1), (4, 2, 8, 0.4, 7), (64, 16, 64, 0.2, 3), (64, 16, 64, 0.3, 4))


def shape(window_rows=512, tile_rows=64, rows=64, pes=16, ports=64, fewest_kept=1):
    return PackShape(window_rows, tile_rows, rows, pes, ports, fewest_kept)


def all_seen(queries, keys, ports=64):
    return np.tile([0, -(-keys // ports)], (queries, 1))


@pytest.mark.parametrize(("rows", "pes", "columns", "share", "seed"), RTL_CASES)
def test_the_pack_module_equals_the_golden_column_traces(rows, pes, columns, share, seed):
    with (GOLDEN / "sanger_pack_rtl.csv").open() as file:
        golden = [row for row in csv.DictReader(file) if (int(row["height"]), float(row["p"]), int(row["seed"])) == (rows, share, seed)]
    trace = trace_pack(np.random.default_rng(seed).random((rows, columns)) < share, pes, columns)
    assert [row["maskWrite_next"] == "1" for row in golden] == trace.write.tolist()
    assert [row["emit_now"] == "1" for row in golden] == trace.emit.tolist()
    written = [row["mask_next"].split() for row in golden if row["mask_next"]]
    assert [[int(code) for code in codes] for codes in written] == trace.codes[trace.write].tolist()


def golden_masks():
    masks = np.load(GOLDEN / "sanger_pack_masks.npz")
    with (GOLDEN / "sanger_pack_split.csv").open() as file:
        for row in csv.DictReader(file):
            n = int(row["n"])
            yield row, np.unpackbits(masks[f"mask_n{n}_p{row['p']}"], axis=-1, count=n).astype(bool)


@pytest.mark.parametrize(
    ("row", "keep"), golden_masks(), ids=lambda value: "-".join(list(value.values())[:4]) if isinstance(value, dict) else ""
)
def test_sub_rows_passes_and_load_balances_are_those_of_the_paper_s_software(row, keep):
    n, pes = len(keep), int(row["num_pes"])
    packed = pack_by_row(pack(keep), all_seen(n, n), shape(pes=pes))
    assert len(packed.query) == int(row["subrows"])
    assert len(packed.stripe) == int(row["passes_of_64"])
    sub_rows = np.bincount(np.repeat(packed.stripe, np.diff(packed.sub_row_start)), minlength=n // 64)
    assert sub_rows.tolist() == [int(count) for count in row["subrows_per_stripe"].split()]
    kept_keys = pack_by_row(pack(keep), all_seen(n, n), shape(pes=pes, fewest_kept=0))
    for rows, published in ((packed, row["lb_skip"]), (kept_keys, row["lb_noskip_true"])):
        assert keep.sum() / (pes * len(rows.query)) == pytest.approx(float(published), abs=1e-6)


@st.composite
def masks(draw):
    """A mask, its allowed pairs, and what of an array and a window it is packed for."""
    keys = draw(st.integers(1, 150))
    queries = draw(st.integers(1, keys))
    position = np.arange(queries)[:, None] + keys - queries
    reach = draw(st.sampled_from([keys, 20, 70]))
    allowed = (
        (np.arange(keys) <= position) & (np.arange(keys) > position - reach) if draw(st.booleans()) else np.ones((queries, keys), bool)
    )
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    keep = (random.random((queries, keys)) < draw(st.sampled_from([0.0, 0.03, 0.3, 1.0]))) & allowed
    ports = draw(st.sampled_from([64, 32, 8]))
    tile_rows = draw(st.integers(1, 5))
    packed_for = shape(
        window_rows=tile_rows * draw(st.integers(1, 40)),
        tile_rows=tile_rows,
        rows=draw(st.integers(1, 9)),
        pes=draw(st.integers(1, min(ports, 17))),
        ports=ports,
        fewest_kept=draw(st.integers(0, 1)),
    )
    first = allowed.argmax(axis=1) // ports
    end = (keys - allowed[:, ::-1].argmax(axis=1) - 1) // ports + 1
    return keep, allowed, packed_for, np.stack([first, end], axis=1)


def kept_of(packed, keep, ports):
    """The mask that sub-rows add up to, and how often each pair is in one."""
    times = np.zeros((keep.shape[0], keep.shape[1] + ports), int)
    stripes = np.repeat(packed.stripe, np.diff(packed.sub_row_start))
    for query, stripe, columns in zip(packed.query, stripes, packed.columns, strict=True):
        for column in range(ports):
            times[query, stripe * ports + column] += int(columns) >> column & 1
    assert not times[:, keep.shape[1] :].any()
    return times[:, : keep.shape[1]]


@pytest.mark.parametrize("cut", [pack_by_row, pack_by_column])
@settings(max_examples=60, deadline=None)
@given(masks())
def test_every_kept_pair_is_in_one_sub_row_and_no_sub_row_or_pass_is_overfull(cut, case):
    keep, _, packed_for, seen = case
    packed = cut(pack(keep), seen, packed_for)
    assert np.array_equal(kept_of(packed, keep, packed_for.ports), keep)
    assert np.bitwise_count(packed.columns).max(initial=0) <= packed_for.pes
    sizes = np.diff(packed.sub_row_start)
    assert packed.sub_row_start[-1] == len(packed.query)
    assert sizes.min(initial=1) >= 1 and sizes.max(initial=1) <= packed_for.rows
    owners = packed.query // packed_for.window_rows
    assert np.array_equal(owners, np.repeat(packed.window, sizes))
    assert (packed.query // packed_for.tile_rows <= np.repeat(packed.tile, sizes)).all()  # a pass does not begin before its masks are there


@settings(max_examples=60, deadline=None)
@given(masks())
def test_packing_by_row_counts_what_the_trace_statistics_count(case):
    keep, allowed, packed_for, seen = case
    whole = packed_for._replace(window_rows=-(-len(keep) // packed_for.tile_rows) * packed_for.tile_rows)
    split = pack_split(keep, allowed, ports=whole.ports, pes=whole.pes, rows=whole.rows)
    packed = pack_by_row(pack(keep), seen, whole)
    with_empty = split.empty.sum() if whole.fewest_kept == 0 else 0
    assert len(packed.query) == split.sub_rows.sum() + with_empty
    assert len(packed.stripe) == (split.passes_without_skip if whole.fewest_kept == 0 else split.passes)


@settings(max_examples=60, deadline=None)
@given(masks())
def test_packing_by_column_cuts_where_the_pack_module_emits(case):
    """One group of rows at a time; the module is shown the column that emitted once more."""
    keep, _, packed_for, seen = case
    packed_for = packed_for._replace(rows=packed_for.tile_rows, window_rows=packed_for.tile_rows, fewest_kept=0)
    packed = pack_by_column(pack(keep), seen, packed_for)
    ports = packed_for.ports
    padded = np.pad(keep, ((0, 0), (0, -keep.shape[1] % ports)))
    for tile, stripe in itertools.product(np.unique(packed.tile), np.unique(packed.stripe)):
        here = (packed.tile == tile) & (packed.stripe == stripe)
        if not here.any():
            continue
        rows = padded[tile * packed_for.tile_rows : (tile + 1) * packed_for.tile_rows, stripe * ports : (stripe + 1) * ports]
        first, firsts = 0, []
        while first < ports:
            firsts.append(first)
            emit = trace_pack(rows[:, first:], packed_for.pes, ports).emit
            first = first + int(emit.argmax()) if emit.any() else ports
        assert packed.first_column[here].tolist() == firsts
        assert packed.end_column[here].tolist() == [*firsts[1:], ports]


def test_a_full_pass_waits_for_the_tile_of_its_last_sub_row_and_a_rest_for_the_window():
    keep = np.ones((6, 64), bool)
    packed = pack_by_row(pack(keep), all_seen(6, 64), shape(window_rows=6, tile_rows=2, rows=8, pes=16))  # 24 sub-rows of 16
    assert packed.tile.tolist() == [0, 1, 2]
    packed = pack_by_row(pack(keep[:5, :16]), all_seen(5, 16), shape(window_rows=6, tile_rows=2, rows=3, pes=16))
    assert (packed.tile.tolist(), np.diff(packed.sub_row_start).tolist()) == ([1, 2], [3, 2])
