"""The fast path in torch gives the judge's masks: on scores made to part them, in every number format, whatever the caller set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference.kinds import kinds

from xmsim.reference.attention import nm_keep, sanger_keep, topk_keep, walk, xm_causal_keep, xm_keep

torch = pytest.importorskip("torch")

Keep = Callable[[Any], Any]
DEVICES = [kind.device for kind in kinds() if kind.device]
KEEPERS: dict[str, Keep] = {
    "xm": xm_keep,
    "xm_causal": xm_causal_keep,
    "nm": nm_keep,
    "sanger": sanger_keep,
    "topk": partial(topk_keep, kept=20),
}
FORMATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
THRESHOLDS = [0.0, 1e-40, 1e-12, 0.1, 0.5, 1.0, 1.5, 2.0, 64.0, 1e300, np.inf]


@st.composite
def keepers(draw: st.DrawFn) -> Keep:
    """Any method with any parameters."""
    block = draw(st.sampled_from([1, 2, 3, 5, 16, 32, 64]))
    high = draw(st.integers(1, block))
    low, high_at = draw(st.integers(0, high)), draw(st.sampled_from(THRESHOLDS))
    low_at = draw(st.sampled_from([threshold for threshold in THRESHOLDS if threshold <= high_at]))
    xm = {"block": block, "kept_high": high, "kept_low": low, "threshold_high": high_at, "threshold_low": low_at}
    return draw(
        st.sampled_from(
            [
                partial(xm_keep, **xm),
                partial(xm_causal_keep, **xm),
                partial(nm_keep, kept=high, block=block),
                partial(sanger_keep, threshold=draw(st.sampled_from([0.0, 1e-40, 1e-4, 1 / 64, 0.02, 0.25, 0.5]))),
                partial(topk_keep, kept=draw(st.integers(1, 250))),
            ]
        )
    )


@st.composite
def hard_scores(draw: st.DrawFn) -> Any:
    """[rows, keys] in any format: ties, equal blocks, so that shares lie on thresholds, huge and tiny differences, forbidden pairs."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows, keys = draw(st.integers(1, 8)), draw(st.integers(1, 200))
    values = rng.standard_normal((rows, keys)) * draw(st.sampled_from([1e-6, 0.3, 3.0, 40.0, 1e4]))
    match draw(st.sampled_from(["distinct", "few values", "equal blocks", "equal", "levels"])):
        case "few values":
            values = rng.choice(values[0, :3], values.shape)
        case "equal blocks":
            period = draw(st.sampled_from([1, 2, 3, 5, 16, 32, 64]))
            values = np.tile(values[:, :period], -(-keys // period))[:, :keys]
        case "equal":
            values = np.broadcast_to(values[:, :1], values.shape)
        case "levels":  # probabilities 1, 1/2, 1/4, ... of the largest
            values = np.log(2) * rng.integers(-6, 1, values.shape)
    match draw(st.sampled_from(["all", "causal", "random", "few"])):
        case "causal":
            allowed = np.tri(rows, keys, keys - rows, dtype=bool)
        case "random":
            allowed = rng.random((rows, keys)) < 0.6
        case "few":
            allowed = rng.random((rows, keys)) < 0.05
        case _:
            allowed = np.ones((rows, keys), bool)
    return torch.from_numpy(np.where(allowed, values, -np.inf)).to(draw(st.sampled_from(FORMATS)))


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=400, deadline=None)
@given(scores=hard_scores(), keep=keepers())
def test_both_paths_agree_on_scores_made_to_part_them(device: str, scores: Any, keep: Keep) -> None:
    judged = keep((scores.float() if scores.dtype == torch.bfloat16 else scores).numpy())
    np.testing.assert_array_equal(keep(scores.to(device)).cpu().numpy(), judged)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("blocks", [5, 7, 11, 13])
def test_shares_that_only_float64_can_tell_from_a_threshold_are_told(device: str, blocks: int) -> None:
    rng = np.random.default_rng(blocks)
    rows = np.tile(rng.standard_normal((2000, 64), dtype=np.float32), blocks)  # the share of each block is 1 but for its rounding
    nudged = rows.copy()
    nudged[:, 5] += np.float32(1e-6)  # the first block's share is above 1 by a few 1e-8
    for scores in (rows, nudged):
        np.testing.assert_array_equal(xm_keep(torch.from_numpy(scores).to(device)).cpu().numpy(), xm_keep(scores))
    assert (xm_keep(nudged)[:, :64].sum(axis=-1) == 16).mean() > 0.9


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("threshold", [1e-300, 1e-50, 1e-45, 1e-43, 1e-40, 1e-33, 1e-28])
def test_masses_too_small_for_float32_are_told_from_a_threshold(device: str, threshold: float) -> None:
    scores = np.zeros((400, 2), np.float32)
    scores[:, 1] = np.log(threshold / 2) * np.linspace(0.995, 1.005, 400)  # one key a block: the share is twice its exponential
    for thresholds, low in (
        ({"threshold_high": threshold, "threshold_low": 0.0}, 0),
        ({"threshold_high": np.inf, "threshold_low": threshold}, 1),
    ):
        keep = partial(xm_keep, block=1, kept_high=1, kept_low=low, **thresholds)
        judged = keep(scores)
        assert 0.4 < judged[:, 1].mean() < 0.6
        np.testing.assert_array_equal(keep(torch.from_numpy(scores).to(device)).cpu(), judged)
    sanger = partial(sanger_keep, threshold=threshold / 2)
    np.testing.assert_array_equal(sanger(torch.from_numpy(scores).to(device)).cpu(), sanger(scores))


@pytest.mark.parametrize("device", DEVICES)
def test_probabilities_that_only_float64_can_tell_from_sangers_threshold_are_told(device: str) -> None:
    scores = np.random.default_rng(0).standard_normal((1000, 50), dtype=np.float32)
    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True).astype(float))
    threshold = float((exponentials / exponentials.sum(axis=-1, keepdims=True))[3, 7])
    for nearest in (np.nextafter(threshold, 0), threshold, np.nextafter(threshold, 1)):
        for keep in (partial(sanger_keep, threshold=nearest), partial(sanger_keep, threshold=nearest * (1 + 1e-9))):
            np.testing.assert_array_equal(keep(torch.from_numpy(scores).to(device)).cpu().numpy(), keep(scores))


@pytest.mark.parametrize("method", KEEPERS)
@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize("device", DEVICES)
def test_a_tensor_gives_the_same_mask_as_a_tensor(device: str, dtype: Any, method: str) -> None:
    scores = torch.randn(2, 5, 300, generator=torch.Generator().manual_seed(0)).to(dtype)
    keep = KEEPERS[method](scores.to(device))
    assert keep.dtype == torch.bool and keep.device.type == device
    array = scores.numpy() if dtype != torch.bfloat16 else scores.float().numpy()
    np.testing.assert_array_equal(keep.cpu().numpy(), KEEPERS[method](array))


@contextmanager
def default_format(dtype: Any) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("method", KEEPERS)
@pytest.mark.parametrize("device", DEVICES)
def test_what_the_caller_set_changes_no_mask(device: str, method: str) -> None:
    scores = torch.randn(3, 40, 259, generator=torch.Generator().manual_seed(1)).to(device) * 3
    keep = KEEPERS[method](scores)
    with torch.autocast(device, dtype=torch.bfloat16):
        assert torch.equal(KEEPERS[method](scores), keep)
    with default_format(torch.bfloat16):
        assert torch.equal(KEEPERS[method](scores), keep)
    with torch.inference_mode():
        assert torch.equal(KEEPERS[method](scores), keep)
    tracked = KEEPERS[method](scores.clone().requires_grad_())
    assert torch.equal(tracked, keep) and not tracked.requires_grad


@pytest.mark.parametrize("method", KEEPERS)
@pytest.mark.parametrize("device", DEVICES)
def test_scores_that_lie_in_memory_in_another_order_give_the_same_mask_and_stay_as_they_are(device: str, method: str) -> None:
    scores = torch.randn(90, 2, 140, generator=torch.Generator().manual_seed(2)).to(device)
    before = scores.clone()
    for view in (scores.transpose(0, 1), scores[::2, :, 5:], scores[:, :1].expand(90, 4, 140), scores.permute(1, 2, 0)):
        assert torch.equal(KEEPERS[method](view), KEEPERS[method](view.contiguous()))
    assert torch.equal(scores, before)


@pytest.mark.parametrize("method", KEEPERS)
def test_rows_are_looked_at_a_few_at_a_time(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = torch.round(torch.randn(3, 70, 100, generator=torch.Generator().manual_seed(3)) * 2)
    whole = KEEPERS[method](scores)
    monkeypatch.setattr(walk, "_CPU_ENTRIES", 1000)
    assert torch.equal(KEEPERS[method](scores), whole)
