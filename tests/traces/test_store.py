from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from xmsim.traces.errors import TraceError
from xmsim.traces.manifest import Bias, Manifest
from xmsim.traces.store import Trace, open_trace
from xmsim.traces.writer import TraceWriter

Write = Callable[..., Trace]
Tensors = Callable[[int], dict[str, np.ndarray]]
RELATIVE_ERROR = {"float32": 0.0, "bfloat16": 2**-8, "float16": 2**-10}


@pytest.mark.parametrize("dtype", RELATIVE_ERROR)
def test_a_layer_comes_back_as_it_was_up_to_rounding(write: Write, tensors: Tensors, dtype: str):
    layer = write(dtype=dtype).read_layer(1)
    for name, given in tensors(1).items():
        stored = getattr(layer, name)
        assert stored.dtype == np.float32
        np.testing.assert_allclose(stored[0], given[0], rtol=RELATIVE_ERROR[dtype], atol=1e-7 if dtype == "float16" else 0)


@pytest.mark.parametrize("dtype", RELATIVE_ERROR)
def test_the_safetensors_package_reads_the_same_numbers(write: Write, dtype: str):
    pytest.importorskip("torch")
    trace = write(dtype=dtype)
    layer = trace.read_layer(2)
    with safe_open(trace.path / "layer_002.safetensors", framework="pt") as file:
        for name in ("q", "k", "v"):
            np.testing.assert_array_equal(file.get_tensor(name).float().numpy(), getattr(layer, name))


def test_bfloat16_is_read_without_torch(write: Write):
    trace = write(dtype="bfloat16")
    code = """
import sys
sys.modules["torch"] = None
from xmsim.traces.store import open_trace
print(open_trace(sys.argv[1]).read_layer(0).q.sum())
"""
    printed = subprocess.run([sys.executable, "-c", code, str(trace.path)], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == str(trace.read_layer(0).q.sum())


def test_padding_is_stored_as_zeros_and_trimmed_from_heads(write: Write):
    layer = write().read_layer(0)
    assert layer.q[0].all() and layer.q[1, :, :4].all()
    assert not layer.q[1, :, 4:].any() and not layer.v[1, :, 4:].any()
    assert layer.head(1, 3).q.shape == layer.head(1, 3).v.shape == (4, 8)


def test_a_head_reads_the_key_value_head_of_its_group(write: Write, tensors: Tensors):
    layer = write().read_layer(0)
    for head, kv_head in enumerate((0, 0, 1, 1)):
        np.testing.assert_array_equal(layer.head(0, head).q, tensors(0)["q"][0, head])
        np.testing.assert_array_equal(layer.head(0, head).k, tensors(0)["k"][0, kv_head])


def test_chosen_heads_are_stored_and_the_scale_stays_that_of_the_whole_layer(write: Write, tensors: Tensors, tmp_path: Path):
    whole = write()
    part = write(tmp_path / "part", head_ids=(2, 3), kv_head_ids=(1,), layer_ids=(1,))
    layer = part.read_layer(1)
    np.testing.assert_array_equal(layer.q[0], tensors(1)["q"][0, 2:])
    np.testing.assert_array_equal(layer.head(0, 1).k, tensors(1)["k"][0, 1])
    assert (layer.q_max, layer.k_max) == (whole.read_layer(1).q_max, whole.read_layer(1).k_max)


def test_the_largest_magnitudes_are_those_of_valid_tokens_as_stored(plan: Manifest, tensors: Tensors, tmp_path: Path):
    values = tensors(0)
    values["q"][1, 2, 3, 4] = -9.06  # bfloat16: 9.0625
    values["k"][1, 0, 5, 0] = 50  # padding of window 1
    writer = TraceWriter(tmp_path / "trace", replace(plan, dtype="bfloat16", layer_ids=(0,)))
    writer.write_layer(0, **values, scale=1.0, bias=Bias("causal"))
    layer = open_trace(tmp_path / "trace").read_layer(0)
    assert layer.q_max == 9.0625
    assert layer.k_max == np.abs(layer.k).max() < 6


def test_slopes_are_those_of_the_stored_heads(plan: Manifest, tensors: Tensors, tmp_path: Path):
    writer = TraceWriter(tmp_path / "trace", replace(plan, layer_ids=(0,), head_ids=(1, 3)))
    writer.write_layer(0, **tensors(0), scale=1.0, bias=Bias("alibi", slopes=(0.5, 0.25, 0.125, 0.0625)))
    assert open_trace(tmp_path / "trace").read_layer(0).bias == Bias("alibi", slopes=(0.25, 0.0625))


@pytest.mark.parametrize(
    ("bias", "rows"),
    [
        (Bias("none"), ["1111", "1111", "1111", "1111"]),
        (Bias("causal"), ["1000", "1100", "1110", "1111"]),
        (Bias("alibi", slopes=(0.5,)), ["1000", "1100", "1110", "1111"]),
        (Bias("sliding_window", window=2), ["1000", "1100", "0110", "0011"]),
    ],
)
def test_a_bias_allows_the_pairs_that_the_dense_model_computes(bias: Bias, rows: list[str]):
    assert ["".join("01"[int(pair)] for pair in row) for row in bias.allowed(4)] == rows


def test_the_hash_is_that_of_the_content_wherever_the_folder_lies(write: Write, tmp_path: Path):
    here, there, other = write(), write(tmp_path / "elsewhere"), write(tmp_path / "other", dtype="float16")
    assert here.sha256 == there.sha256 != other.sha256
    assert there.source() == {"path": "elsewhere", "sha256": here.sha256, "model": "random", "text": "text.txt"}


@pytest.mark.parametrize(
    ("window", "head", "sentence"),
    [
        (2, 0, "layer 1: no window 2; the trace has windows 0 to 1"),
        (0, 4, "layer 1: no head 4; the trace has heads 0 to 3"),
        (0, -1, "layer 1: no head -1; the trace has heads 0 to 3"),
    ],
)
def test_a_head_that_is_not_there_is_an_error_with_the_range(write: Write, window: int, head: int, sentence: str):
    with pytest.raises(TraceError, match=sentence):
        write().read_layer(1).head(window, head)


def test_a_layer_that_is_not_there_is_an_error_with_those_that_are(write: Write):
    with pytest.raises(TraceError, match="no layer 3; the trace has layers 0, 1, 2"):
        write().read_layer(3)


def test_a_folder_without_a_trace_says_how_to_make_one(tmp_path: Path):
    with pytest.raises(TraceError, match="make one with `xmsim extract"):
        open_trace(tmp_path)


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"", lambda data: data[:-1] + bytes([data[-1] ^ 1])])
def test_a_truncated_or_edited_layer_file_is_refused(write: Write, damage: Callable[[bytes], bytes]):
    trace = write()
    path = trace.path / "layer_001.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    trace.read_layer(0)
    with pytest.raises(TraceError, match=r"layer_001\.safetensors: .* truncated or edited"):
        trace.read_layer(1)


def test_a_missing_layer_file_is_refused(write: Write):
    trace = write()
    (trace.path / "layer_001.safetensors").unlink()
    with pytest.raises(TraceError, match=r"layer_001\.safetensors: cannot be read"):
        trace.read_layer(1)


def edited(*keys: str | int, to: Any) -> Callable[[dict[str, Any]], None]:
    def edit(body: dict[str, Any]) -> None:
        place: Any = body
        for key in keys[:-1]:
            place = place[key]
        if to is ...:
            del place[keys[-1]]
        else:
            place[keys[-1]] = to

    return edit


@pytest.mark.parametrize(
    ("edit", "fact"),
    [
        (edited("version", to=3), "version 3 of xmsim.trace is newer"),
        (edited("format", to="xmsim.result"), "this is a xmsim.result file"),
        (edited("model", to=...), "model: field required"),
        (edited("model", "heads", to=0), "model.heads"),
        (edited("model", "kv_heads", to=3), "do not divide"),
        (edited("model", "color", to="red"), "model.color"),
        (edited("dtype", to="int8"), "dtype"),
        (edited("valid_tokens", to=[6, 5]), "token_ids must hold as many tokens"),
        (edited("valid_tokens", to=[]), "valid_tokens"),
        (edited("valid_tokens", to="six"), "valid_tokens"),
        (edited("layer_ids", to=[0, 1, 2, 3]), "layer_ids must rise and stay below 3"),
        (edited("head_ids", to=[1, 0, 2, 3]), "head_ids must rise"),
        (edited("head_ids", to=[0, 1, 2]), "equally many query heads"),
        (edited("layers", 0, "layer", to=1), "layers must rise"),
        (edited("layers", 0, "sha256", to="abc"), "layers.0.sha256"),
        (edited("layers", 0, "softmax_scale", to=float("nan")), "softmax_scale"),
        (edited("layers", 0, "softmax_scale", to=-1), "softmax_scale"),
        (edited("layers", 0, "q_max", to=None), "layers.0.q_max"),
        (edited("layers", 0, "bias", "kind", to="rotary"), "layers.0.bias.kind"),
        (edited("layers", 0, "bias", "window", to=4), "a window belongs to a sliding_window bias"),
        (edited("layers", 0, "bias", to={"kind": "alibi", "slopes": [0.5]}), "one slope a stored head"),
        (edited("layers", to={}), "layers"),
        (edited("layers", to=[]), "incomplete, 0 of 3 layers"),
        (edited("layers", 2, to=...), "incomplete, 2 of 3 layers"),
    ],
)
def test_an_edited_manifest_is_refused_in_one_sentence(write: Write, edit: Callable[[dict[str, Any]], None], fact: str):
    path = write().path / "manifest.json"
    body = json.loads(path.read_text())
    edit(body)
    path.write_text(json.dumps(body))
    with pytest.raises(TraceError) as refusal:
        open_trace(path.parent)
    assert fact in str(refusal.value)
    assert str(refusal.value).startswith(str(path.parent)) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00", '{"format": 1}'])
def test_a_manifest_that_is_no_record_is_refused(write: Write, text: str):
    path = write().path / "manifest.json"
    path.write_text(text)
    with pytest.raises(TraceError, match=r"manifest\.json"):
        open_trace(path.parent)


@pytest.mark.parametrize("edit", [edited("dtype", to="float16"), edited("model", "head_dim", to=4), edited("model", "head_dim", to=2**30)])
def test_a_manifest_that_disagrees_with_its_files_is_refused(write: Write, edit: Callable[[dict[str, Any]], None]):
    path = write().path / "manifest.json"
    body = json.loads(path.read_text())
    edit(body)
    path.write_text(json.dumps(body))
    with pytest.raises(TraceError, match=r"layer_000\.safetensors: not what manifest.json says"):
        open_trace(path.parent).read_layer(0)


def test_a_trace_of_version_1_is_read_as_the_day_it_was_written():
    golden = Path(__file__).parents[1] / "golden" / "trace_v1"
    trace = open_trace(golden)
    layer = trace.read_layer(1)
    assert json.loads((golden / "manifest.json").read_text())["version"] == 1
    assert (trace.layers, trace.windows, trace.manifest.dtype) == ((0, 1, 2), 2, "bfloat16")
    assert (layer.valid_tokens, layer.scale, layer.bias) == ((6, 4), 0.25, Bias("causal"))
    assert (layer.q_max, layer.k_max) == (2.921875, 3.296875)
    np.testing.assert_array_equal(
        layer.head(0, 3).k[5], [-1.296875, -1.0, 0.038818359375, 0.55859375, -1.0234375, 0.5234375, 0.50390625, 0.7890625]
    )
    assert trace.sha256 == "86457cf6b4ea065e9c7b47716b038df83a66b6f4811eaf91d5ba22c1bab629ad"


def test_a_trace_of_version_2_is_read_as_the_day_it_was_written():
    trace = open_trace(Path(__file__).parents[1] / "golden" / "trace_v2")
    facts = trace.manifest.facts(1)
    assert [(mask.method, mask.kept_pairs, mask.made.kernel) for mask in facts.masks] == [("xm_32", 68, "native"), ("topk", 96, "native")]
    predicted = trace.find_mask(1, facts.masks[0].parameters)
    assert predicted == facts.masks[0]
    np.testing.assert_array_equal(trace.read_mask(1, predicted)[1, :, :4, 0], [[1, 2, 1, 2], [1, 2, 2, 2], [1, 2, 1, 1], [1, 2, 4, 8]])
    weights = trace.read_weights(1)
    assert {name: (bits.shape, bits.sum()) for name, bits in weights.items()} == {"layers.1.q": ((3, 70), 103), "layers.1.k": ((2, 5), 3)}
    assert trace.sha256 == "661d7d5bbad72ea25fe87784fed1d9d7e369f292b355f687489d27d1b15c704e"
