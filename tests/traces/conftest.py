"""A small trace made of random numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xmsim.traces.manifest import Bias, Manifest, ModelFacts, TextFacts
from xmsim.traces.store import Trace, open_trace
from xmsim.traces.writer import TraceWriter

LAYERS, HEADS, KV_HEADS, HEAD_DIM = 3, 4, 2, 8
VALID_TOKENS = (6, 4)


@pytest.fixture
def plan() -> Manifest:
    model = ModelFacts(
        name="random",
        family="llama",
        layers=LAYERS,
        heads=HEADS,
        kv_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        hidden_size=32,
        vocabulary=64,
        config_sha256="0" * 64,
        weights_sha256="1" * 64,
    )
    return Manifest(
        model=model,
        dtype="float32",
        valid_tokens=VALID_TOKENS,
        layer_ids=tuple(range(LAYERS)),
        head_ids=tuple(range(HEADS)),
        kv_head_ids=tuple(range(KV_HEADS)),
        text=TextFacts("text.txt", "2" * 64),
        token_ids=tuple(tuple(range(valid)) for valid in VALID_TOKENS),
    )


def layer_tensors(layer: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(layer)
    shape = len(VALID_TOKENS), max(VALID_TOKENS), HEAD_DIM
    return {
        name: draw.standard_normal((shape[0], heads, *shape[1:]), np.float32)
        for name, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS))
    }


@pytest.fixture
def tensors() -> Callable[[int], dict[str, np.ndarray]]:
    return layer_tensors


@pytest.fixture
def write(plan: Manifest, tmp_path: Path) -> Callable[..., Trace]:
    """Write a whole trace; keywords replace entries of the plan."""

    def write_trace(folder: Path = tmp_path / "trace", **changes: Any) -> Trace:
        writer = TraceWriter(folder, replace(plan, **changes))
        for layer in writer.missing:
            writer.write_layer(layer, **layer_tensors(layer), scale=0.25, bias=Bias("causal"))
        return open_trace(folder)

    return write_trace
