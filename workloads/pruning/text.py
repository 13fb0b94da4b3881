"""The samples of text that a model reads while pruning looks at the inputs of its layers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xmsim.configs.errors import XmsimError
from xmsim.workloads.pruning.record import CalibrationText
from xmsim.workloads.tuning.text import TUNING_TEXT, RandomWindows, TokenIds, encode_long_text, read_packed_text


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Samples of one length, and what a record says of them."""

    windows: tuple[TokenIds, ...]
    facts: CalibrationText


def read_calibration(path: Path | None, tokenizer: Any, *, samples: int, length: int, seed: int) -> Calibration:
    """Draw samples that begin anywhere in a text: a function of text, tokenizer and these numbers alone, whatever the method.

    Args:
        path: a UTF-8 file, or one that xz packed; None: the encyclopaedia prose and Wikipedia articles that come with xmsim.
        length: tokens of a sample.
    Raises:
        XmsimError: not readable, or shorter than all samples together.
    """
    path = path or TUNING_TEXT
    if samples < 1 or length < 2:
        raise XmsimError(f"{samples} samples of {length} tokens cannot be drawn; ask for at least 1 sample of 2 tokens")
    content = read_packed_text(path)
    ids = encode_long_text(tokenizer, content)
    if len(ids) < samples * length:
        raise XmsimError(
            f"{path} has {len(ids)} tokens, too short to calibrate on {samples} samples of {length}; "
            "give a longer --text, or smaller --samples or --length"
        )
    windows = tuple(RandomWindows(ids, length=length, batch=samples, steps=1, seed=seed).at(0))
    digest = hashlib.sha256(np.stack(windows).astype("<i8").tobytes()).hexdigest()
    return Calibration(windows, CalibrationText(path.name, hashlib.sha256(content.encode()).hexdigest(), samples, length, seed, digest))
