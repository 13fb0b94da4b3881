"""The time of one more token of a model that is loaded already."""

from __future__ import annotations

from pathlib import Path

import pytest

from xmsim.configs.errors import XmsimError

pytest.importorskip("torch")

from xmsim.reference.kernels import SpdpLinear
from xmsim.workloads.measuring import decode_timing
from xmsim.workloads.measuring.decode_timing import tpot_in_turn_ms, tpot_ms
from xmsim.workloads.models.linear_exchange import exchanged_layers, set_thresholds, sparsify
from xmsim.workloads.models.loading import ModelError, load_model

pytestmark = pytest.mark.usefixtures("one_thread")


def test_each_repeat_gives_the_median_of_its_tokens(small_llama: Path, monkeypatch: pytest.MonkeyPatch):
    model = load_model(str(small_llama), tokenizer=False)
    rounds = iter([[100.0] * 3, [1.0, 3.0, 2.0], [4.0, 9.0, 4.0]])
    monkeypatch.setattr(decode_timing, "generate_once", lambda network, prompt, new_tokens: (0.5, next(rounds)))
    timing = tpot_ms(model, new_tokens=3, warmup=1, repeat=2, threads=1)
    assert (timing.n, timing.median_ms) == (2, 3.0)


def test_states_take_turns_in_every_round_and_the_last_one_stays(small_llama: Path):
    model, seen = load_model(str(small_llama), tokenizer=False), []
    turns = {name: (lambda name=name: seen.append(name)) for name in ("sparse", "dense")}
    times = tpot_in_turn_ms(model, turns, input_tokens=4, new_tokens=1, warmup=1, repeat=2, threads=1)
    assert seen == ["sparse", "dense"] * 3
    assert {name: timing.n for name, timing in times.items()} == {"sparse": 2, "dense": 2}


def test_a_model_on_spdp_layers_decodes_with_its_thresholds_and_keeps_them(small_llama: Path, monkeypatch: pytest.MonkeyPatch):
    model = sparsify(load_model(str(small_llama), tokenizer=False), format="spdp")
    layers = {layer.name: model.model.get_submodule(layer.name) for layer in exchanged_layers(model)}
    set_thresholds(layers, dict.fromkeys(layers, 0.25))
    seen: set[float] = set()
    product = SpdpLinear.product
    monkeypatch.setattr(SpdpLinear, "product", lambda layer, x: seen.add(layer.threshold) or product(layer, x))
    assert tpot_ms(model, input_tokens=4, new_tokens=2, warmup=0, repeat=2, threads=1).median_ms > 0
    assert seen == {0.25} and {layer.threshold for layer in layers.values()} == {0.25}
    with pytest.raises(ModelError, match="no histogram of what this layer reads"):
        set_thresholds(layers, {})


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"repeat": 1}, "repeat: 1 is too few; choose at least 2"),
        ({"new_tokens": 0}, "new_tokens: 0 is too few"),
        ({"input_tokens": 10**6}, r"1000000 \+ 16 tokens do not fit"),
        ({"threads": 4096}, "threads: 4096 is not possible here"),
    ],
)
def test_what_cannot_be_timed_is_refused(small_llama: Path, options: dict[str, int], sentence: str):
    with pytest.raises(XmsimError, match=sentence):
        tpot_ms(load_model(str(small_llama), tokenizer=False), **options)
