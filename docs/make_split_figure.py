"""Draw docs/figures/perplexity_split.png from the table of a sweep beside it: python docs/make_split_figure.py

The table is splits.csv of: xmsim prune xm-tiny --sweep 0.3,0.4,0.5,0.6,0.7 --samples 16 --windows 8 --out FOLDER
"""

from __future__ import annotations

from pathlib import Path

from xmsim.configs.files import write_whole
from xmsim.reports.figures.perplexity_split import perplexity_split
from xmsim.workloads.quality.spdp_sweep import read_splits

FIGURES = Path(__file__).parent / "figures"
SUBJECT = "xm-tiny on WikiText-2 excerpt (shipped), wanda, first_half_dense, windows of 512 tokens"

if __name__ == "__main__":
    figure = perplexity_split(read_splits(FIGURES / "perplexity_split.csv"), SUBJECT)
    write_whole(FIGURES / "perplexity_split.png", figure.save_png)
    print(figure.claim)
