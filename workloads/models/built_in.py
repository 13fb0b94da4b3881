"""xm-tiny, the language model that ships with xmsim."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from xmsim.configs.errors import XmsimError

NAME = "xm-tiny"
FOLDER = Path(__file__).parents[1] / "xm_tiny" / "model"


def training_record() -> dict[str, Any]:
    """What the training script wrote: plan, parameters, trained_tokens, curve, and the scores on valid and test text.

    Raises:
        XmsimError: the file is missing or damaged.
    """
    path = FOLDER / "training.json"
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise XmsimError(f"{path}: the training record of {NAME} cannot be read ({error}); install xmsim again") from error
    return record
