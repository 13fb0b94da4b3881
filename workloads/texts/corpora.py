"""What perplexity is measured on: a running text, or windows from many documents."""

from __future__ import annotations

import hashlib
import itertools
import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xmsim.configs.errors import XmsimError
from xmsim.workloads.texts.encoded import EncodedText, encode_text
from xmsim.workloads.texts.windows import SHIPPED_TEXT, read_text

SHIPPED_NAME = "WikiText-2 excerpt (shipped)"


class Corpus(ABC):
    """A named text; `note` says why it is not the one that was asked for, where that is so."""

    def __init__(self, name: str, sha256: str, note: str = "") -> None:
        self.name, self.sha256, self.note = name, sha256, note

    @abstractmethod
    def parts(self, tokenizer: Any, window_tokens: int) -> list[EncodedText]:
        """Token sequences, each to be cut into windows of `window_tokens` by itself.

        Raises:
            XmsimError: there is no window of that size.
        """


class RunningText(Corpus):
    """One text, read from its beginning."""

    def __init__(self, name: str, text: str, note: str = "") -> None:
        super().__init__(name, hashlib.sha256(text.encode()).hexdigest(), note)
        self._text = text

    def parts(self, tokenizer: Any, window_tokens: int) -> list[EncodedText]:
        encoded = encode_text(tokenizer, self._text)
        if len(encoded.ids) < window_tokens:
            raise XmsimError(
                f"{self.name}: {len(encoded.ids)} tokens are too short for a window of {window_tokens}; "
                f"give a longer text or a smaller --length"
            )
        return [encoded]


class DocumentSample(Corpus):
    """One window from each of `count` documents, all drawn at random with a fixed seed.

    Documents are drawn with replacement until one has at least a window's tokens; the window's place in it is drawn too.
    Source: coralabo/DynaX, dataUtil.py (get_dataset, c4).
    """

    def __init__(self, name: str, documents: Sequence[str], *, count: int = 256, seed: int = 0) -> None:
        digest = hashlib.sha256()
        for document in documents:
            digest.update(document.encode() + b"\0")
        super().__init__(name, digest.hexdigest())
        self._documents, self._count, self._seed = documents, count, seed

    def parts(self, tokenizer: Any, window_tokens: int) -> list[EncodedText]:
        draw = random.Random(self._seed)
        return [self._window(tokenizer, window_tokens, draw) for _ in range(self._count)]

    def _window(self, tokenizer: Any, tokens: int, draw: random.Random) -> EncodedText:
        for draws in itertools.count(1):
            encoded = encode_text(tokenizer, self._documents[draw.randint(0, len(self._documents) - 1)])
            spare = len(encoded.ids) - tokens
            if spare >= 0:
                start = draw.randint(0, spare - 1) if spare else 0
                return encoded.part(start, start + tokens)
            if draws == len(self._documents) and not any(len(encode_text(tokenizer, one).ids) >= tokens for one in self._documents):
                break
        raise XmsimError(f"{self.name}: no document has {tokens} tokens; give a smaller --length")


def text_file(path: Path) -> RunningText:
    """A UTF-8 file as the text.

    Raises:
        XmsimError: not readable, or not UTF-8.
    """
    return RunningText(path.name, read_text(path))


def shipped_text(note: str = "") -> RunningText:
    """The excerpt of WikiText-2 that comes with xmsim."""
    return RunningText(SHIPPED_NAME, read_text(SHIPPED_TEXT), note)
