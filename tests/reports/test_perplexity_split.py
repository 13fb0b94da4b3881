"""The figure of a sparsity sweep, from rows made by hand."""

from pathlib import Path

from xmsim.reference.activations import dynamic_sparsity
from xmsim.reports.figures.perplexity_split import perplexity_split, split_claim
from xmsim.workloads.evaluation import SparsitySplit


def split(total: float, s1: float, perplexity: float, reached: float | None = None) -> SparsitySplit:
    s2 = dynamic_sparsity(total, s1)
    return SparsitySplit(s1, s2, perplexity, s1, s2, total if reached is None else reached)


DENSE = split(0, 0, 10)
PURE = (DENSE, split(0.4, 0, 11), split(0.4, 0.4, 13), split(0.6, 0, 16), split(0.6, 0.6, 30))


def test_a_split_counts_as_better_only_if_it_beats_both_pure_ways_at_the_total_that_it_reached():
    assert split_claim([*PURE, split(0.4, 0.1, 10.5), split(0.6, 0.2, 17)]) == (
        "At total sparsity 0.4 some split of it beats weights alone and activations alone; at 0.6 none does."
    )
    # 10.5 at a total of 0.15 is worse than activations alone there, about 10.36
    assert split_claim([*PURE, split(0.4, 0.1, 10.5, reached=0.15)]).startswith("At none of the totals 0.4")
    assert split_claim(PURE).startswith("There is nothing to compare")


def test_its_table_has_the_columns_of_spdp_and_it_can_be_drawn(tmp_path: Path):
    figure = perplexity_split([*PURE, split(0.4, 0.1, 10.5)], "made-up model")
    head, first, *_ = figure.csv().splitlines()
    assert head == "s1,s2,Uniform_PPL,static_sparsity,dynamic_sparsity,total_sparsity"
    assert [float(cell) for cell in first.split(",")] == [0, 0, 10, 0, 0, 0]
    figure.save_png(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
