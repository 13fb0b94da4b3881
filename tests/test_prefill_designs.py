"""The page's comparison of designs of prefill: its tables and sentences are those of the script, whose inputs are counted again."""

import sys
from fractions import Fraction
from itertools import combinations, pairwise
from pathlib import Path

import pytest

from xmsim.reference.kernels.cuda import build

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def designs(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import make_prefill_designs

    yield make_prefill_designs
    for name in ("make_prefill_designs", "make_cuda_predictions", "cuda_loops"):
        sys.modules.pop(name, None)


def test_the_page_holds_the_tables_and_the_numbers_in_its_sentences(designs):
    page = (ROOT / "docs" / "kernels" / "cuda.md").read_text(encoding="utf-8")
    assert designs.statistics_table() in page and designs.designs_table() in page
    text = " ".join(page.split())
    assert [sentence for sentence in designs.sentences() if sentence not in text] == []


def test_turns_of_independent_keys_are_those_of_every_draw(designs):
    draws = list(combinations(range(8), 4))  # two banks of four keys each
    turns = Fraction(sum(max(sum(key % 2 == bank for key in draw) for bank in (0, 1)) for draw in draws), len(draws))
    assert designs.independent_turns(kept=4, block=8, banks=2) == pytest.approx(float(turns))


def test_what_keeps_less_takes_no_longer_in_any_design(designs):
    heads = designs.gpu.KV_HEADS
    times = []
    for share in (0.1, 0.3, 1.0):
        shares = designs.Shares(share, share, share, share, 2.0, heads)
        seconds = (designs.tiles_seconds(shares), designs.unions_seconds(shares), designs.picked_seconds(shares, shares.turns))
        times.append(seconds)
    assert all(less < more for few, many in pairwise(times) for less, more in zip(few, many, strict=True))


def test_independent_queries_leave_a_union_nothing_to_gain(designs):
    assert designs.independent().gathered > 0.98
    assert designs.independent_turns() > 2


def test_the_counted_loops_are_those_that_nvcc_makes(designs):
    import cuda_loops

    nvcc = build.find_nvcc()
    if nvcc is None:
        pytest.skip("no nvcc")
    found = {source: cuda_loops.compiled_loops(nvcc, build.SOURCES / source) for source in {loop.source for loop in designs.LOOPS}}
    for loop in designs.LOOPS:
        (lengths,) = [lengths for kernel, lengths in found[loop.source].items() if loop.kernel in kernel]
        assert any(length == pytest.approx(loop.instructions, rel=0.15) for length in lengths), (loop, lengths)
