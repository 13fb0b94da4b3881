"""A text as tokens, each with the number of bytes of the text that it spells."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any


@dataclass(frozen=True, slots=True)
class EncodedText:
    """Token ids, and how many bytes of the text each spells: 0 for one that the tokenizer puts around the text."""

    ids: tuple[int, ...]
    byte_counts: tuple[int, ...] | None  # None where the tokens do not spell the text byte for byte

    def part(self, start: int, stop: int) -> EncodedText:
        """The tokens from `start` up to `stop`."""
        counts = self.byte_counts
        return EncodedText(self.ids[start:stop], None if counts is None else counts[start:stop])


def encode_text(tokenizer: Any, text: str) -> EncodedText:
    """Encode a whole text, with the tokens that the tokenizer puts around one."""
    encoding = tokenizer(text, return_special_tokens_mask=True, verbose=False)
    ids, around = encoding["input_ids"], encoding["special_tokens_mask"]
    inner = [token for token, mark in zip(ids, around, strict=True) if not mark]
    spelled = _byte_counts(tokenizer.convert_ids_to_tokens(inner), text)
    if spelled is None:
        return EncodedText(tuple(ids), None)
    counts = iter(spelled)
    return EncodedText(tuple(ids), tuple(0 if mark else next(counts) for mark in around))


def _byte_counts(words: Sequence[str], text: str) -> list[int] | None:
    """Bytes that each token spells, in the vocabulary's kind of spelling under which all of them together are the text."""
    wanted = text.encode()
    for spell in (_byte_level, _sentence_piece):
        spelled = [spell(word) for word in words]
        counts = [len(part) for part in spelled]
        joined = b"".join(spelled)
        if joined == b" " + wanted and spelled[0][:1] == b" ":  # the tokenizer puts a space before the first word
            counts[0] -= 1
            return counts
        if joined == wanted:
            return counts
    return None


def _byte_level(word: str) -> bytes:
    """A token of GPT-2's kind: a letter for each byte. An added token that holds other letters is written as it is."""
    letters = _byte_letters()
    return bytes(letters[letter] for letter in word) if letters.keys() >= set(word) else word.encode()


@cache
def _byte_letters() -> dict[str, int]:
    """The byte of each letter: printable Latin-1 stands for itself, the other bytes for the letters from 256 on.

    Source: openai/gpt-2, src/encoder.py (bytes_to_unicode).
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + at): byte for at, byte in enumerate(others)}


def _sentence_piece(word: str) -> bytes:
    """A token of Llama 2's kind: letters, a low line for a space, or one byte as <0x0A>."""
    if re.fullmatch("<0x[0-9A-F]{2}>", word):
        return bytes([int(word[3:5], 16)])
    return word.replace("▁", " ").encode()
