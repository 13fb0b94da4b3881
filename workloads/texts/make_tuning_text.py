"""Make the text that `xmsim tune` reads by default.

    python make_tuning_text.py wikitext2/valid.txt encyclopaedia_1810_train.txt.xz encyclopaedia_1810_valid.txt.xz

Whole articles of WikiText-2's validation split, each followed by twice as much of the encyclopaedia that xm-tiny was trained on, from
evenly spread places; last comes a part of the encyclopaedia that it was not trained on, for the held-out windows.
"""

from __future__ import annotations

import argparse
import lzma
import re
from bisect import bisect_left, bisect_right
from itertools import accumulate
from pathlib import Path

ARTICLE_BYTES = 450_000
PROSE_BYTES_PER_ARTICLE_BYTE = 2
HELD_OUT_BYTES = 70_000
OUT = Path(__file__).parent / "encyclopaedia_and_wikitext2_valid.txt.xz"


def size(text: str) -> int:
    return len(text.encode())


def read_lines(path: Path) -> list[str]:
    with lzma.open(path, "rt", encoding="utf-8") as file:
        return file.read().splitlines(keepends=True)


def articles_that_fit(wikitext: str) -> list[str]:
    """Articles in order, those left out that would not fit any more."""
    chosen: list[str] = []
    for article in re.split(r"(?m)^(?= = [^=].* = \n)", wikitext)[1:]:
        if sum(map(size, chosen)) + size(article) <= ARTICLE_BYTES:
            chosen.append(article)
    return chosen


class Prose:
    """Lines of the encyclopaedia by their place in it."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines
        self._ends = list(accumulate(map(size, lines)))

    def run(self, share: float, most: int) -> str:
        """Whole lines from a place, given as a share of the text, at most so many bytes."""
        first = bisect_left(self._ends, int(self._ends[-1] * share)) + 1
        last = bisect_right(self._ends, self._ends[first - 1] + most)
        return "".join(self._lines[first:last])

    def beginning(self, most: int) -> str:
        return "".join(self._lines[: bisect_right(self._ends, most)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("wikitext", "encyclopaedia", "held_out"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    articles = articles_that_fit(args.wikitext.read_text(encoding="utf-8"))
    prose = Prose(read_lines(args.encyclopaedia))
    parts = []
    for number, article in enumerate(articles):
        parts.append(article.rstrip("\n ") + "\n")
        parts.append(prose.run((number + 0.5) / len(articles), PROSE_BYTES_PER_ARTICLE_BYTE * size(article)))
    parts.append(Prose(read_lines(args.held_out)).beginning(HELD_OUT_BYTES))
    text = "".join(parts)
    OUT.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))
    print(f"{len(articles)} articles, {size(text)} bytes, packed {OUT.stat().st_size}")


if __name__ == "__main__":
    main()
