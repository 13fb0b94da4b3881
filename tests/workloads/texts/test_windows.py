from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from xmsim.configs.errors import XmsimError
from xmsim.workloads.texts.windows import SHIPPED_TEXT, read_text, token_windows


class Letters:
    """A tokenizer of one token a character, with the frame of a BERT."""

    def __call__(self, text: str, *, add_special_tokens: bool, verbose: bool = True) -> dict[str, list[int]]:
        ids = [ord(letter) for letter in text]
        return {"input_ids": [1, *ids, 2] if add_special_tokens else ids}


class BareLetters(Letters):
    def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
        return super().__call__(text, **options | {"add_special_tokens": False})


def as_text(window: tuple[int, ...]) -> str:
    return "".join(chr(token) if token > 2 else "^ $"[token] for token in window)


def test_windows_follow_each_other_without_overlap():
    windows = token_windows(BareLetters(), "abcdefghijk", tokens=4, windows=2)
    assert [as_text(window) for window in windows] == ["abcd", "efgh"]


def test_the_tokens_around_a_text_are_part_of_each_window():
    windows = token_windows(Letters(), "abcdefghijk", tokens=5, windows=3)
    assert windows == tuple((1, *map(ord, letters), 2) for letters in ("abc", "def", "ghi"))


def test_a_text_may_be_used_up_to_its_last_token():
    assert len(token_windows(BareLetters(), "abcdefgh", tokens=4, windows=2)) == 2


@pytest.mark.parametrize(("tokenizer", "tokens", "windows"), [(BareLetters(), 4, 3), (BareLetters(), 12, 1), (Letters(), 14, 1)])
def test_a_text_that_is_too_short_says_how_many_tokens_it_has(tokenizer: Letters, tokens: int, windows: int):
    with pytest.raises(XmsimError, match=f"the text has 11 tokens, too short for {windows} × {tokens}; give a longer text"):
        token_windows(tokenizer, "abcdefghijk", tokens=tokens, windows=windows)


@pytest.mark.parametrize(
    ("tokenizer", "tokens", "windows", "shortest"),
    [(BareLetters(), 1, 1, 2), (BareLetters(), 0, 1, 2), (BareLetters(), -4, 1, 2), (BareLetters(), 4, 0, 2), (Letters(), 2, 1, 3)],
)
def test_windows_that_cannot_be_cut_are_refused(tokenizer: Letters, tokens: int, windows: int, shortest: int):
    with pytest.raises(
        XmsimError, match=f"{windows} windows of {tokens} tokens cannot be cut; ask for at least 1 window of {shortest} tokens"
    ):
        token_windows(tokenizer, "abcdefghijk", tokens=tokens, windows=windows)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path):
    with pytest.raises(XmsimError, match=r"none\.txt: cannot be read \(No such file"):
        read_text(tmp_path / "none.txt")
    (tmp_path / "binary").write_bytes(b"ab\xff")
    with pytest.raises(XmsimError, match=r"binary: not UTF-8 text \(byte 2\)"):
        read_text(tmp_path / "binary")


def test_the_shipped_text_holds_whole_articles():
    text = read_text(SHIPPED_TEXT)
    titles = [line.strip() for line in text.splitlines() if line.startswith(" = ") and not line.startswith(" = =")]
    assert titles == ["= Du Fu =", "= Kiss You ( One Direction song ) =", "= Dick <unk> =", "= 1933 Treasure Coast hurricane ="]
    assert text.startswith(" = Du Fu = ") and len(text.encode()) == 58_973
