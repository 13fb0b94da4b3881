"""How long masks of one layer take, [8 heads, 2048, 2048] and causal: of given scores by arrays and by tensors, and natively from q and k.

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
from xmsim.reference.kernels import native
from xmsim.reference.kernels.masks import LowBit, Mask, ScoreSource, nm_mask, salo_mask, sanger_mask, topk_mask, xm_mask

HEADS, TOKENS, HEAD_DIM = 8, 2048, 64
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


NATIVE: dict[str, Callable[[ScoreSource], Mask]] = {
    "xm": partial(xm_mask, block=64, kept_high=16, kept_low=8, threshold_high=1.0, threshold_low=0.1),
    "nm": partial(nm_mask, kept=16, block=64),
    "sanger": partial(sanger_mask, threshold=2e-3),
    "topk": partial(topk_mask, kept=400),
    "salo": partial(salo_mask, block=64, window=8, global_tokens=1, picks=3, dilation=1),
}


@pytest.mark.parametrize("prediction", [None, LowBit(group=2, bits=4)], ids=["exact", "4_bit"])
@pytest.mark.parametrize("method", NATIVE)
def test_mask_and_its_scores_by_the_native_kernel(benchmark: BenchmarkFixture, method: str, prediction: LowBit | None) -> None:
    if native.library() is None:
        pytest.skip("no compiled kernels")
    q, k = np.random.default_rng(0).standard_normal((2, HEADS, TOKENS, HEAD_DIM), dtype=np.float32)
    source = ScoreSource(q, k, HEAD_DIM**-0.5, prediction)
    mask = benchmark.pedantic(NATIVE[method], args=(source,), rounds=9, warmup_rounds=1)
    assert mask.kernel == "native" and mask.words.any()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dense_attention_of_torch(benchmark: BenchmarkFixture, dtype: str) -> None:
    """What the making of a mask is held against."""
    torch = pytest.importorskip("torch")
    operands = torch.randn(3, 1, HEADS, TOKENS, HEAD_DIM).to(getattr(torch, dtype))
    out = benchmark.pedantic(
        partial(torch.nn.functional.scaled_dot_product_attention, *operands, is_causal=True), rounds=9, warmup_rounds=1
    )
    assert torch.isfinite(out).all()
