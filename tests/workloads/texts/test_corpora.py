"""Texts and document samples, and how they become parts for a model."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

import pytest

from xmsim.configs.errors import XmsimError
from xmsim.workloads.texts.corpora import SHIPPED_NAME, DocumentSample, RunningText, shipped_text, text_file
from xmsim.workloads.texts.windows import SHIPPED_TEXT


class Letters:
    """A tokenizer of one token a letter, behind a first token."""

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [1, *map(ord, text)], "special_tokens_mask": [1] + [0] * len(text)}

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [chr(token) for token in ids]


def test_a_running_text_is_one_part_that_opens_as_the_tokenizer_opens_a_text():
    (part,) = RunningText("mine", "abcd").parts(Letters(), 2)
    assert part.ids == (1, *map(ord, "abcd")) and part.byte_counts == (0, 1, 1, 1, 1)


def test_a_text_shorter_than_a_window_is_refused_with_both_numbers():
    with pytest.raises(XmsimError, match=r"^mine: 5 tokens are too short for a window of 6; give a longer text or a smaller --length$"):
        RunningText("mine", "abcd").parts(Letters(), 6)
    assert len(RunningText("mine", "abcd").parts(Letters(), 5)) == 1


def test_texts_are_known_by_name_and_hash(tmp_path: Path):
    path = tmp_path / "my.txt"
    path.write_text("hällo", encoding="utf-8")
    assert (text_file(path).name, text_file(path).sha256) == ("my.txt", hashlib.sha256("hällo".encode()).hexdigest())
    assert (shipped_text().name, shipped_text().note) == (SHIPPED_NAME, "")
    assert shipped_text("why").note == "why"
    assert shipped_text().sha256 == hashlib.sha256(SHIPPED_TEXT.read_bytes()).hexdigest()


def test_a_sample_draws_documents_and_places_as_the_authors_do():
    documents = ["a" * 3, "bcdefgh", "c" * 3, "ijklmnopq"]
    parts = DocumentSample("docs", documents, count=20, seed=0).parts(Letters(), 6)
    random.seed(0)  # the loop of coralabo/DynaX, dataUtil.py
    expected = []
    for _ in range(20):
        while True:
            ids = [1, *map(ord, documents[random.randint(0, 3)])]
            if len(ids) >= 6:
                break
        start = 0 if len(ids) == 6 else random.randint(0, len(ids) - 6 - 1)
        expected.append(tuple(ids[start : start + 6]))
    assert [part.ids for part in parts] == expected
    assert {len(part.ids) for part in parts} == {6}
    assert all(part.byte_counts == tuple(0 if token == 1 else 1 for token in part.ids) for part in parts)


def test_a_document_of_exactly_a_window_is_taken_whole():
    parts = DocumentSample("docs", ["abc"], count=2).parts(Letters(), 4)
    assert [part.ids for part in parts] == [(1, *map(ord, "abc"))] * 2


def test_a_sample_without_a_document_that_is_long_enough_ends_in_a_sentence():
    with pytest.raises(XmsimError, match=r"^docs: no document has 9 tokens; give a smaller --length$"):
        DocumentSample("docs", ["abc", "defg"] * 50).parts(Letters(), 9)


def test_samples_of_other_documents_have_other_hashes():
    assert DocumentSample("docs", ["ab", "c"]).sha256 != DocumentSample("docs", ["a", "bc"]).sha256
