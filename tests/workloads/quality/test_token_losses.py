"""The loss of a window, against the plain computation and against transformers' own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xmsim.workloads.models.loading import load_model
from xmsim.workloads.quality import token_losses
from xmsim.workloads.quality.token_losses import window_loss

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("one_thread")

WINDOW = [0, 7, 99, 3, 250, 41, 8, 8, 17, 200, 5, 64]
SIZES = {"vocab_size": 257, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture(scope="module")
def llama(small_llama: Path) -> Any:
    return load_model(str(small_llama)).model


@pytest.fixture(scope="module")
def capped() -> Any:
    """Gemma 2 caps its logits, so its output layer alone does not give them."""
    torch.manual_seed(0)
    config = transformers.Gemma2Config(**SIZES, num_key_value_heads=2, head_dim=8, final_logit_softcapping=2.0, initializer_range=0.3)
    return transformers.Gemma2ForCausalLM(config).eval()


def by_hand(model: Any, window: list[int], scored: int) -> float:
    """-log softmax of each target, in float64, one token after the other."""
    with torch.inference_mode():
        logits = model(torch.tensor([window])).logits[0].double().numpy()
    losses = [np.log(np.exp(row - row.max()).sum()) + row.max() - row[target] for row, target in zip(logits, window[1:], strict=False)]
    return float(np.mean(losses[-scored:]))


@pytest.mark.parametrize("scored", [1, 4, 11])
@pytest.mark.parametrize("name", ["llama", "capped"])
def test_the_loss_is_the_mean_cross_entropy_of_the_last_tokens(name: str, scored: int, request: pytest.FixtureRequest):
    model = request.getfixturevalue(name)
    with torch.inference_mode():
        assert window_loss(model, WINDOW)(WINDOW, scored) == pytest.approx(by_hand(model, WINDOW, scored), rel=1e-6)


def test_over_a_whole_window_it_is_the_loss_of_transformers(llama: Any):
    ids = torch.tensor([WINDOW])
    with torch.inference_mode():
        assert window_loss(llama, WINDOW)(WINDOW, len(WINDOW) - 1) == pytest.approx(llama(ids, labels=ids).loss.item(), rel=1e-6)


def test_slices_of_any_size_give_the_same_loss(llama: Any, monkeypatch: pytest.MonkeyPatch):
    loss = window_loss(llama, WINDOW)
    with torch.inference_mode():
        whole = loss(WINDOW, 11)
        for rows in (1, 2, 5):
            monkeypatch.setattr(token_losses, "SLICE_LOGITS", rows * 257)
            assert loss(WINDOW, 11) == pytest.approx(whole, rel=1e-6)


def test_no_more_logits_than_a_slice_are_made_where_the_output_layer_suffices(llama: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(token_losses, "SLICE_LOGITS", 3 * 257)
    loss = window_loss(llama, WINDOW)
    rows: list[int] = []
    watching = llama.get_output_embeddings().register_forward_hook(lambda _layer, _inputs, logits: rows.append(len(logits)))
    try:
        with torch.inference_mode():
            loss(WINDOW, 10)
    finally:
        watching.remove()
    assert rows == [3, 3, 3, 1]


def test_a_model_that_caps_its_logits_is_found_out(llama: Any, capped: Any):
    assert token_losses._output_layer_suffices(llama, WINDOW)
    assert not token_losses._output_layer_suffices(capped, WINDOW)


def test_a_model_that_knows_nothing_loses_the_logarithm_of_its_vocabulary(small_llama: Path):
    model = load_model(str(small_llama)).model
    model.get_output_embeddings().weight.data.zero_()
    with torch.inference_mode():
        assert window_loss(model, WINDOW)(WINDOW, 5) == pytest.approx(math.log(257), rel=1e-6)
