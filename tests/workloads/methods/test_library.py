"""Methods from YAML: what ships, what is refused, and the masks they make of a layer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from xmsim.configs.errors import ConfigError, XmsimError
from xmsim.configs.schema import Config, read_config
from xmsim.reference.attention import group_max_scores, group_sum_scores, nm_keep, predict_scores, xm_keep
from xmsim.traces.manifest import Bias
from xmsim.traces.store import LayerTrace
from xmsim.workloads.methods.library import MethodReference, load_method, shipped_methods

TOKENS, VALID = 150, (150, 133)
BIASES = {
    "causal": Bias("causal"),
    "sliding_window": Bias("sliding_window", window=20),
    "alibi": Bias("alibi", slopes=(0.5, 0.25, 0.125, 0.0625)),
    "none": Bias("none"),
}


def layer_with(bias: Bias) -> LayerTrace:
    """Two windows of four query heads on two KV heads; the second window ends in padding."""
    rng = np.random.default_rng(8)
    q = rng.standard_normal((2, 4, TOKENS, 16), dtype=np.float32) * 2
    k, v = (rng.standard_normal((2, 2, TOKENS, 16), dtype=np.float32) for _ in range(2))
    maxima = float(np.abs(q).max()), float(np.abs(k).max())
    return LayerTrace(3, q, k, v, VALID, 0.25, bias, *maxima, head_ids=(0, 1, 2, 3), kv_head_ids=(0, 1))


def scores_of(layer: LayerTrace, window: int, head: int) -> np.ndarray:
    """Scaled and biased scores, pair by pair."""
    valid = layer.valid_tokens[window]
    scores = np.full((valid, valid), -np.inf, np.float32)
    products = layer.q[window, head, :valid] @ layer.k[window, head // 2, :valid].T
    for i, j in np.ndindex(valid, valid):
        seen = {"causal": j <= i, "alibi": j <= i, "none": True, "sliding_window": i - 20 < j <= i}[layer.bias.kind]
        if seen:
            added = np.float32(layer.bias.slopes[head] * j) if layer.bias.slopes else np.float32(0)
            scores[i, j] = products[i, j] * np.float32(0.25) + added
    return scores


def test_the_presets_of_the_design_ship_and_name_the_source_of_each_value() -> None:
    assert {"dense", "xm", "xm2", "xm_32", "nm", "sanger", "salo", "topk", "window"} <= set(shipped_methods())
    for name in shipped_methods():
        method = load_method(name)
        assert method.name == name and method.prediction is None
        assert set(method.config.sources) == set(method.parameters) - {"method", "prediction"}


def test_shipped_values_are_those_of_the_dynax_artifact() -> None:
    def numbers(name: str) -> dict:
        return {key: value for key, value in load_method(name).parameters.items() if key not in ("method", "prediction")}

    assert numbers("xm") == {"block": 64, "kept_high": 16, "kept_low": 8, "threshold_high": 1.0, "threshold_low": 0.1}
    assert numbers("xm2") == numbers("xm") | {"threshold_high": 1.5, "threshold_low": 0.2}
    assert numbers("xm_32") == numbers("xm") | {"block": 32, "kept_high": 8, "kept_low": 4}
    assert numbers("nm") == {"block": 64, "kept": 16}
    assert numbers("sanger") == {"threshold": 1e-4}
    assert numbers("topk") == {"kept": 400}
    assert numbers("salo") == {"block": 64, "window": 8, "global_tokens": 1, "picks": 3, "dilation": 1}


ARTIFACT = {"is_sparse": True, "is_quant": False, "quant_methed": "1_4_6bit", "m": 64, "n": 16, "threshold_0": 1.0, "threshold_1": 0.1}
ARTIFACT |= {"threshold_sanger": 1e-4, "topk": 400}


def artifact_file(folder: Path, **keys: object) -> Path:
    path = folder / "xm_sparse_config.json"
    path.write_text(json.dumps(ARTIFACT | keys, indent=4))
    return path


@pytest.mark.parametrize("name", ["xm", "nm", "sanger", "topk", "salo"])
def test_the_artifacts_json_is_the_shipped_method(name: str, tmp_path: Path) -> None:
    method = load_method(artifact_file(tmp_path, sparse_methed=name))
    assert method.parameters == load_method(name).parameters
    assert method.name == "xm_sparse_config"


def test_the_artifacts_json_decides_thresholds_prediction_and_whether_anything_is_sparse(tmp_path: Path) -> None:
    stricter = artifact_file(tmp_path, sparse_methed="xm", threshold_0=1.5, threshold_1=0.2)
    assert load_method(stricter).parameters == load_method("xm2").parameters
    for mode, group, bits in (("1_2_4bit", 2, 4), ("1_4_6bit", 4, 6)):
        quantised = artifact_file(tmp_path, sparse_methed="xm", is_quant=True, quant_methed=mode)
        assert load_method(quantised).parameters == load_method("xm", prediction={"group": group, "bits": bits}).parameters
    assert load_method(artifact_file(tmp_path, is_sparse=False)).parameters == load_method("dense").parameters


@pytest.mark.parametrize(
    "keys, sentence",
    [
        ({"sparse_methed": "xmm"}, "11:5: sparse_methed: no xmm; did you mean xm?"),
        ({}, "1:1: sparse_methed: missing; a file of the DynaX artifact has it"),
        ({"sparse_methed": "xm", "is_quant": True, "quant_methed": "2_4bit"}, "4:5: quant_methed: no 2_4bit; did you mean 1_2_4bit?"),
        ({"sparse_methed": "nm", "n": 65}, "1:1: the file: kept: 65 must be between 1 and block, 64"),
        (
            {"sparse_methed": "topk", "topk": "many"},
            "10:5: kept: input should be a valid integer, unable to parse string as an integer (got 'many')",
        ),
    ],
)
def test_a_wrong_artifact_file_is_answered_with_the_place(keys: dict, sentence: str, tmp_path: Path) -> None:
    path = artifact_file(tmp_path, **keys)
    with pytest.raises(ConfigError) as caught:
        load_method(path)
    assert str(caught.value) == f"{path}:{sentence}"


@pytest.mark.parametrize("kind", BIASES)
@pytest.mark.parametrize("name", shipped_methods())
def test_a_mask_stays_within_what_the_dense_model_computes(name: str, kind: str) -> None:
    layer = layer_with(BIASES[kind])
    method = load_method(name)
    for window, valid in enumerate(VALID):
        keep, allowed = method.keep(layer, window), method.allowed(layer, window)
        assert keep.shape == (4, valid, valid) and allowed.shape == (valid, valid)
        assert not (keep & ~allowed).any()
        assert keep.any(axis=-1).all()
        if name == "dense":
            np.testing.assert_array_equal(keep, np.broadcast_to(allowed, keep.shape))


@pytest.mark.parametrize("kind", BIASES)
def test_a_mask_is_that_of_the_scores_with_the_models_bias(kind: str) -> None:
    layer = layer_with(BIASES[kind])
    for window, head in ((0, 1), (1, 2)):
        scores = scores_of(layer, window, head)
        np.testing.assert_array_equal(load_method("xm").keep(layer, window)[head], xm_keep(scores))
        np.testing.assert_array_equal(load_method("nm", kept=4).keep(layer, window)[head], nm_keep(scores, kept=4))
        np.testing.assert_array_equal(load_method("dense").allowed(layer, window), scores > -np.inf)


@pytest.mark.parametrize("prediction", [None, {"group": 2, "bits": 4}, {"group": 2, "bits": 4, "scale_per": "head"}])
@pytest.mark.parametrize("name", shipped_methods())
def test_a_part_of_a_mask_is_that_part_of_the_whole(name: str, prediction: dict | None) -> None:
    layer = layer_with(BIASES["causal"])
    method = load_method(name)
    if prediction and method.config.reads_scores:
        method = load_method(name, prediction=prediction)
    for window, tokens in enumerate(VALID):
        whole = method.keep(layer, window)
        np.testing.assert_array_equal(method.keep(layer, window, heads=[3, 0]), whole[[3, 0]])
        for queries in (range(1), range(63, 131), range(64, 128), range(tokens - 1, tokens)):
            np.testing.assert_array_equal(method.keep(layer, window, heads=[2], queries=queries), whole[[2], queries.start : queries.stop])


def test_queries_outside_the_window_are_refused() -> None:
    with pytest.raises(XmsimError, match=r"^layer 3, window 1: queries 100 to 134 do not lie within its 133$"):
        load_method("xm").keep(layer_with(BIASES["causal"]), 1, queries=range(100, 134))


def test_a_shared_list_is_the_same_for_the_heads_of_a_group_and_made_from_all_of_them() -> None:
    layer = layer_with(BIASES["causal"])
    for name, combined in (("xm_shared_sum", group_sum_scores), ("xm_shared_max", group_max_scores)):
        scores = np.stack([scores_of(layer, 0, head) for head in range(4)])
        keep = load_method(name).keep(layer, 0)
        np.testing.assert_array_equal(keep, xm_keep(combined(scores, kv_heads=2)).repeat(2, axis=0))


def test_a_scale_per_head_quantises_each_head_with_its_own_maximum() -> None:
    layer = layer_with(BIASES["causal"])
    layer.q[:, 1] *= 0.1
    keep = load_method("xm", prediction={"group": 2, "bits": 4, "scale_per": "head"}).keep(layer, 0, heads=[1])
    q, k = layer.q[:, 1:2], layer.k[:, :1]  # alone, a head is a layer of its own
    predicted = predict_scores(q, k, group=2, bits=4, scale=0.25)[0]
    np.testing.assert_array_equal(keep, xm_keep(np.where(np.tri(TOKENS, dtype=bool), predicted, np.float32(-np.inf))))
    assert (keep != load_method("xm", prediction={"group": 2, "bits": 4}).keep(layer, 0, heads=[1])).any()


def test_prediction_quantises_with_the_scale_of_the_layer() -> None:
    layer = layer_with(BIASES["causal"])
    method = load_method("xm", prediction={"group": 4, "bits": 6})
    assert method.prediction is not None and (method.prediction.group, method.prediction.bits) == (4, 6)
    predicted = predict_scores(layer.q, layer.k, group=4, bits=6, scale=0.25)  # of both windows and all heads together
    scores = np.where(np.tri(133, dtype=bool), predicted[1, :, :133, :133], np.float32(-np.inf))
    keep = method.keep(layer, 1)
    np.testing.assert_array_equal(keep, xm_keep(scores))
    assert (keep != load_method("xm").keep(layer, 1)).any()


def test_a_name_or_a_path_may_say_how_scores_are_predicted(tmp_path: Path) -> None:
    assert load_method("xm:1_4_6bit") == load_method("xm", prediction={"group": 4, "bits": 6})
    path = tmp_path / "mine.yaml"
    path.write_text("method: nm\nblock: 4\nkept: 2\n")
    method = load_method(f"{path}:1_2_4bit")
    assert method.name == "mine" and method.prediction is not None and (method.prediction.group, method.prediction.bits) == (2, 4)
    with pytest.raises(ConfigError, match=r"^method dense with its overrides: prediction: unknown key; known are method, sources$"):
        load_method("dense:1_2_4bit")


def test_a_layer_that_a_method_cannot_serve_is_one_sentence() -> None:
    layer = layer_with(BIASES["causal"])
    with pytest.raises(XmsimError, match=r"^method xm on layer 3, window 0(, head 0)?: group: 3 must divide the head dimension, 16$"):
        load_method("xm", prediction={"group": 3, "bits": 4}).keep(layer, 0)
    layer.q[1, 2, 5, 5] = np.nan
    with pytest.raises(XmsimError, match=r"^method nm on layer 3, window 1, head 2: scores: NaN"):
        load_method("nm").keep(layer, 1)


@pytest.mark.parametrize(
    "name, overrides, sentence",
    [
        ("xm_33", {}, "no method xm_33; did you mean xm_32?, or give a .yaml file"),
        ("xm", {"kept_hig": 3}, "method xm with its overrides: kept_hig: unknown key; did you mean kept_high?"),
        ("xm", {"kept_high": 65}, "method xm with its overrides: kept_high: 65 must be between 1 and block, 64"),
        (
            "dense",
            {"prediction": {"group": 1, "bits": 4}},
            "method dense with its overrides: prediction: unknown key; known are method, sources",
        ),
        (
            "xm",
            {"prediction": {"group": 2, "bits": 9}},
            "method xm with its overrides: prediction.bits: input should be less than or equal to 8 (got 9)",
        ),
    ],
)
def test_a_wrong_name_or_override_is_answered_with_the_way_out(name: str, overrides: dict, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_method(name, **overrides)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("method: xmm\n", "1:1: method: no kind xmm; did you mean xm?"),
        (
            "kept: 3\n",
            "1:1: method: missing; add it, one of block_pattern, dense, fixed_pattern, nm, salo, sanger, "
            "topk, window, xm, xm_causal, xm_shared_max, xm_shared_sum",
        ),
        ("method: topk\nkept: 0\n", "2:1: kept: input should be greater than 0 (got 0)"),
        ("method: nm\nblock: 4\nkept: 5\n", "1:1: the file: kept: 5 must be between 1 and block, 4"),
    ],
)
def test_a_wrong_file_is_answered_with_the_place(text: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_method(path)
    assert str(caught.value) == f"{path}:{sentence}"


def test_a_file_of_ones_own_is_a_method_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("method: nm\nblock: 4\nkept: 2\n")
    method = load_method(path)
    assert (method.name, method.block, method.parameters["kept"]) == ("mine", 4, 2)


class MachineConfig(Config):
    method: MethodReference


def test_a_machines_file_names_a_method_and_overrides_it(tmp_path: Path) -> None:
    path = tmp_path / "machine.yaml"
    path.write_text("method: {name: xm_32, prediction: {group: 2, bits: 4}}\n")
    config = read_config(path, MachineConfig)
    assert config.method.load() == load_method("xm_32", prediction={"group": 2, "bits": 4})
    assert config.model_dump(mode="json") == {"method": {"name": "xm_32", "prediction": {"group": 2, "bits": 4}}}
    path.write_text("\nmethod: {name: xm_32, predict: {group: 2, bits: 4}}\n")
    with pytest.raises(ConfigError) as caught:
        read_config(path, MachineConfig)
    assert str(caught.value) == f"{path}:2:1: method: method xm_32 with its overrides: predict: unknown key; did you mean prediction?"


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("name", ["xm", "xm_causal", "nm", "sanger", "topk", "salo", "xm_shared_sum"])
def test_on_predicted_scores_compiled_kernels_and_the_judge_keep_the_same_pairs(
    name: str, bias: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = layer_with(BIASES[bias])
    asked = [{}, {"heads": [3, 0, 1]}, {"heads": [1, 0, 3, 2]}, {"queries": range(70, 129)}]
    for scale_per in ("layer", "head"):
        method = load_method(name, prediction={"group": 2, "bits": 4, "scale_per": scale_per})
        native = [method.keep(layer, window, **part) for window in (0, 1) for part in asked]
        last = [method.keep_last(layer, window) for window in (0, 1)] if scale_per == "layer" else []
        with monkeypatch.context() as patch:
            patch.setattr("xmsim.workloads.methods.library.library", lambda: None)
            judged = [method.keep(layer, window, **part) for window in (0, 1) for part in asked]
            last_judged = [method.keep_last(layer, window) for window in (0, 1)] if scale_per == "layer" else []
        for ours, expected in zip([*native, *last], [*judged, *last_judged], strict=True):
            np.testing.assert_array_equal(ours, expected)
