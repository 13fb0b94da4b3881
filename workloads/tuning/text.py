"""The text that a model is tuned on: windows of tokens for each step, and a tail that is scored and not tuned on."""

from __future__ import annotations

import hashlib
import lzma
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xmsim.configs.errors import XmsimError
from xmsim.configs.files import read_bytes
from xmsim.workloads.texts.windows import MOST_TEXT_BYTES, decoded, read_text
from xmsim.workloads.tuning.recipe import RecipeConfig

TokenIds = npt.NDArray[np.int64]
TUNING_TEXT = Path(__file__).parents[1] / "texts" / "encyclopaedia_and_wikitext2_valid.txt.xz"
_MOST_DICTIONARY_BYTES = 1 << 27  # xz -9 asks for half of it
_CHUNK = 1 << 20  # characters that are encoded at once: a tokenizer's own memory is many times its text


class Windows(ABC):
    """The windows of every step, a function of (seed, step) alone, so that a run that goes on sees what it would have seen."""

    steps: int

    @abstractmethod
    def at(self, step: int) -> list[TokenIds]:
        """The windows of a step, counted from 0; each int64 [tokens]."""


class RandomWindows(Windows):
    """Windows that begin anywhere in the text."""

    def __init__(self, ids: TokenIds, *, length: int, batch: int, steps: int, seed: int) -> None:
        self.steps = steps
        self._ids, self._length, self._batch, self._seed = ids, length, batch, seed

    def at(self, step: int) -> list[TokenIds]:
        draw = np.random.default_rng([self._seed, step])
        starts = draw.integers(0, len(self._ids) - self._length + 1, size=self._batch)
        return [self._ids[start : start + self._length] for start in starts]


class ConsecutiveWindows(Windows):
    """The text cut into windows that do not overlap, the last one shorter; each epoch takes all of them, in an order of its own."""

    def __init__(self, ids: TokenIds, *, length: int, batch: int, epochs: int, seed: int) -> None:
        starts = range(0, len(ids) - 1, length)  # one token alone predicts nothing
        self._windows = [ids[start : start + length] for start in starts]
        self._steps_of_epoch = -(-len(starts) // batch)
        self.steps = epochs * self._steps_of_epoch
        self._batch, self._seed = batch, seed

    def at(self, step: int) -> list[TokenIds]:
        epoch, number = divmod(step, self._steps_of_epoch)
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._windows))
        return [self._windows[place] for place in order[number * self._batch : (number + 1) * self._batch]]


@dataclass(frozen=True, slots=True, eq=False)
class TuningText:
    """A text as tokens, cut as a recipe says."""

    name: str  # of its file
    sha256: str  # of its UTF-8 bytes
    tokens: int
    windows: Windows
    held_out: tuple[TokenIds, ...]


def read_tuning_text(path: Path, tokenizer: Any, recipe: RecipeConfig, *, seed: int) -> TuningText:
    """Read and encode a text; a file that ends in .xz is unpacked.

    Raises:
        XmsimError: not readable, not UTF-8, or too short for the recipe.
    """
    content = read_packed_text(path)
    ids = encode_long_text(tokenizer, content)
    held = recipe.held_out * recipe.length
    if len(ids) < held + recipe.length:
        raise XmsimError(
            f"{path} has {len(ids)} tokens, too short for {recipe.held_out} held-out windows and one to tune on, of {recipe.length}; "
            "give a longer text or a smaller --length"
        )
    tail = len(ids) - held
    return TuningText(
        name=path.name,
        sha256=hashlib.sha256(content.encode()).hexdigest(),
        tokens=len(ids),
        windows=_windows(ids[:tail], recipe, seed),
        held_out=tuple(ids[start : start + recipe.length] for start in range(tail, len(ids), recipe.length)),
    )


def _windows(ids: TokenIds, recipe: RecipeConfig, seed: int) -> Windows:
    if recipe.steps is not None:
        return RandomWindows(ids, length=recipe.length, batch=recipe.batch, steps=recipe.steps, seed=seed)
    assert recipe.epochs is not None  # a recipe has one of the two
    return ConsecutiveWindows(ids, length=recipe.length, batch=recipe.batch, epochs=recipe.epochs, seed=seed)


def encode_long_text(tokenizer: Any, text: str) -> TokenIds:
    """Token ids of a whole text, with what the tokenizer puts before one."""
    encoded = (tokenizer(chunk, add_special_tokens=number == 0, verbose=False) for number, chunk in enumerate(_chunks(text)))
    return np.concatenate([np.asarray(part["input_ids"], np.int64) for part in encoded])


def _chunks(text: str) -> Iterator[str]:
    """The text in parts that end with a line."""
    start = 0
    while True:
        end = text.find("\n", start + _CHUNK) + 1 or len(text)
        yield text[start:end]
        start = end
        if start >= len(text):
            return


def read_packed_text(path: Path) -> str:
    """A UTF-8 text file of at most MOST_TEXT_BYTES, unpacked if its name ends in .xz.

    Raises:
        XmsimError: not readable, not packed by xz, not UTF-8, or larger.
    """
    if path.suffix != ".xz":
        return read_text(path)
    try:
        return decoded(_unpacked(read_bytes(path, MOST_TEXT_BYTES)))
    except OSError as error:
        raise XmsimError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (lzma.LZMAError, EOFError) as error:
        raise XmsimError(f"{path}: not an .xz file, or a damaged one ({error}); make it again") from error
    except UnicodeDecodeError as error:
        raise XmsimError(f"{path}: not UTF-8 text (byte {error.start}); save the text as UTF-8") from error


def _unpacked(data: bytes) -> bytes:
    """All streams of an .xz file; what a few bytes unpack to may be without end, and is not."""
    parts: list[bytes] = []
    room = MOST_TEXT_BYTES
    while data or not parts:
        stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MOST_DICTIONARY_BYTES)
        parts.append(stream.decompress(data, room + 1))
        room -= len(parts[-1])
        if room < 0:
            raise lzma.LZMAError(f"it unpacks to more than {MOST_TEXT_BYTES} bytes")
        if not stream.eof:
            raise EOFError("it ends in the midst of a stream")
        data = stream.unused_data.lstrip(b"\0")  # padding
    return b"".join(parts)
