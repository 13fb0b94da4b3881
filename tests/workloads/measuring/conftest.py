"""A trace to measure on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from xmsim.traces.manifest import Bias, Manifest, ModelFacts
from xmsim.traces.store import Trace, open_trace
from xmsim.traces.writer import TraceWriter

HEADS, KV_HEADS, DIM = 4, 2, 16
TraceMaker = Callable[[Bias, tuple[int, ...]], Trace]


@pytest.fixture
def trace_with(tmp_path: Path) -> TraceMaker:
    """Makes a trace of two layers of normal noise."""

    def make(bias: Bias, valid_tokens: tuple[int, ...]) -> Trace:
        rng = np.random.default_rng(0)
        model = ModelFacts("noise", "llama", 2, HEADS, KV_HEADS, DIM, 64, 100, "0" * 64, "0" * 64)
        plan = Manifest(model, "float32", valid_tokens, layer_ids=(0, 1), head_ids=(0, 1, 2, 3), kv_head_ids=(0, 1), seed=0)
        writer = TraceWriter(tmp_path / "trace", plan)
        for layer in (0, 1):
            q, k, v = (
                rng.standard_normal((len(valid_tokens), n, max(valid_tokens), DIM), dtype=np.float32) for n in (HEADS, KV_HEADS, KV_HEADS)
            )
            writer.write_layer(layer, q, k, v, scale=0.25, bias=bias)
        return open_trace(tmp_path / "trace")

    return make
