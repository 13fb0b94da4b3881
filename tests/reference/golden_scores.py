"""The scores that the DynaX authors' masks were made from, and the masks as they are stored (tests/golden/README.md)."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parents[1] / "golden"
KINDS = {"n1": 0, "n3": 1, "t3": 2, "llm": 3}


def causal_scores(kind: str, tokens: int) -> np.ndarray:
    """The score recipe of the golden masks, with -inf above the diagonal."""
    rng = np.random.default_rng(1000 * tokens + KINDS[kind])
    normal = rng.standard_normal((1, 2, tokens, tokens), dtype=np.float32)
    if kind == "n3":
        normal = normal * np.float32(3)
    elif kind == "t3":
        normal = (rng.standard_t(3.0, size=normal.shape) * 1.5).astype(np.float32)
    elif kind == "llm":
        i, j = np.arange(tokens)[:, None], np.arange(tokens)
        near = (4 * np.exp(-np.abs(i - j) / 16)).astype(np.float32)
        sink = (6 * (j == 0)).astype(np.float32)
        normal = normal * np.float32(1.5) + (near + sink)
    golden = np.load(GOLDEN / f"dynax_mask_{kind}_{tokens}.npz")
    assert sha256(normal.tobytes()).hexdigest() == str(golden["input_sha256"])
    return np.where(np.tri(tokens, dtype=bool), normal, np.float32(-np.inf))


def unpacked(bits: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A mask from `np.packbits` of all its entries, whatever the axis."""
    return np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape).astype(bool)
