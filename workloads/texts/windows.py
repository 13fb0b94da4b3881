"""Text as the windows of tokens that a model reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xmsim.configs.errors import XmsimError
from xmsim.configs.files import read_bytes

MOST_TEXT_BYTES = 2**30  # of a text, packed or not: it is read whole
SHIPPED_TEXT = Path(__file__).parent / "wikitext2_excerpt.txt"


def read_text(path: Path) -> str:
    """A UTF-8 text file of at most MOST_TEXT_BYTES.

    Raises:
        XmsimError: not readable, not UTF-8, or larger.
    """
    try:
        return decoded(read_bytes(path, MOST_TEXT_BYTES))
    except OSError as error:
        raise XmsimError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise XmsimError(f"{path}: not UTF-8 text (byte {error.start}); save the file as UTF-8") from error


def decoded(data: bytes) -> str:
    """UTF-8 as text, whatever the lines end with; raises UnicodeDecodeError."""
    return data.decode().replace("\r\n", "\n").replace("\r", "\n")


def token_windows(tokenizer: Any, text: str, *, tokens: int, windows: int, name: str = "the text") -> tuple[tuple[int, ...], ...]:
    """Cut a text into consecutive windows of `tokens` token ids that do not overlap.

    Each window begins and ends with the tokens that the tokenizer puts around a text (BERT's [CLS] and [SEP], Llama's
    beginning of sequence), which count as part of it. Errors call the text `name`.

    Raises:
        XmsimError: the text is too short, or no window, or one too short for these tokens, was asked for.
    """
    opening, closing = _frame(tokenizer)
    length = tokens - len(opening) - len(closing)
    shortest = max(2, len(opening) + len(closing) + 1)
    if tokens < shortest or windows < 1:
        raise XmsimError(f"{windows} windows of {tokens} tokens cannot be cut; ask for at least 1 window of {shortest} tokens")
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    if len(ids) < windows * length:
        raise XmsimError(
            f"{name} has {len(ids)} tokens, too short for {windows} × {tokens}; give a longer text, or ask for fewer or shorter windows"
        )
    return tuple((*opening, *ids[start : start + length], *closing) for start in range(0, windows * length, length))


def _frame(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Token ids that the tokenizer puts before and after a text."""
    bare, framed = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
    before = next((at for at in range(len(framed)) if framed[at : at + len(bare)] == bare), 0)
    return framed[:before], framed[before + len(bare) :]
