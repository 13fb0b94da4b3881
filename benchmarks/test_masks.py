"""How long masks of one layer take, by arrays and by tensors: [8 heads, 2048, 2048] causal scores.

Run `pytest benchmarks`. Goals on two CPU cores: X:M by tensors in less than 1.0 s and by arrays in less than 6 s.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from xmsim.reference.attention import nm_keep, sanger_keep, topk_keep, xm_causal_keep, xm_keep

HEADS, TOKENS = 8, 2048
METHODS: dict[str, Callable[[Any], Any]] = {
    "xm": xm_keep,
    "xm_causal": xm_causal_keep,
    "nm": nm_keep,
    "sanger": sanger_keep,
    "topk": partial(topk_keep, kept=400),
}


@pytest.fixture(scope="module")
def scores() -> np.ndarray:
    scores = np.random.default_rng(0).standard_normal((HEADS, TOKENS, TOKENS), dtype=np.float32) * 3
    scores[:, ~np.tri(TOKENS, dtype=bool)] = -np.inf
    return scores


@pytest.mark.parametrize("method", METHODS)
def test_mask_of_an_array(benchmark: BenchmarkFixture, method: str, scores: np.ndarray) -> None:
    keep = benchmark.pedantic(METHODS[method], args=(scores,), rounds=5, warmup_rounds=1)
    assert keep.any()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_mask_of_a_tensor(benchmark: BenchmarkFixture, device: str, method: str, scores: np.ndarray) -> None:
    torch = pytest.importorskip("torch")
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    tensor = torch.from_numpy(scores).to(device)

    def keep_and_wait() -> Any:
        keep = METHODS[method](tensor)
        keep[..., :1].any().item()  # a device computes on while Python is told that it is done
        return keep

    keep = benchmark.pedantic(keep_and_wait, rounds=5, warmup_rounds=1)
    assert np.array_equal(keep.cpu().numpy(), METHODS[method](scores))
