from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xmsim.configs.errors import XmsimError
from xmsim.traces.errors import TraceError
from xmsim.traces.store import open_trace
from xmsim.workloads.extraction.extract import extract_trace
from xmsim.workloads.models.loading import LoadedModel, ModelError, load_model

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def loaded(small_llama: Path) -> LoadedModel:
    return load_model(str(small_llama))


def test_a_trace_names_its_model_its_text_and_its_tokens(small_llama: Path, short_text: Path, tmp_path: Path):
    trace = extract_trace(str(small_llama), text=short_text, tokens=30, windows=2, out=tmp_path / "trace")
    manifest = trace.manifest
    assert (manifest.model.name, manifest.model.family, manifest.model.layers) == ("model", "llama", 4)
    assert (manifest.model.heads, manifest.model.kv_heads, manifest.model.head_dim) == (4, 2, 8)
    assert manifest.text is not None and manifest.text.name == "text.txt"
    assert manifest.token_ids is not None and [len(ids) for ids in manifest.token_ids] == [30, 30]
    assert all(ids[0] == 0 for ids in manifest.token_ids)  # each window begins as the tokenizer begins a text
    assert trace.read_layer(3).q.shape == (2, 4, 30, 8)
    assert str(tmp_path) not in (trace.path / "manifest.json").read_text()  # a trace tells nobody where it was made


def test_the_shipped_text_is_read_by_default(loaded: LoadedModel, tmp_path: Path):
    trace = extract_trace(loaded, tokens=32, out=tmp_path / "trace")
    assert trace.source()["text"] == "wikitext2_excerpt.txt"


def test_windows_do_not_see_each_other(loaded: LoadedModel, tmp_path: Path):
    one = extract_trace(loaded, tokens=32, windows=1, out=tmp_path / "one").read_layer(3)
    two = extract_trace(loaded, tokens=32, windows=2, out=tmp_path / "two").read_layer(3)
    np.testing.assert_allclose(two.q[0], one.q[0], atol=1e-5)


def test_chosen_layers_and_heads_are_those_of_the_whole_trace(loaded: LoadedModel, tmp_path: Path):
    whole = extract_trace(loaded, tokens=32, out=tmp_path / "whole").read_layer(2)
    trace = extract_trace(loaded, tokens=32, layers=[2, 1], heads=[3, 0], out=tmp_path / "part")
    part = trace.read_layer(2)
    assert trace.layers == (1, 2)
    assert (part.head_ids, part.kv_head_ids) == ((0, 3), (0, 1))
    np.testing.assert_array_equal(part.head(0, 1).q, whole.head(0, 3).q)
    np.testing.assert_array_equal(part.head(0, 1).k, whole.head(0, 3).k)
    assert (part.q_max, part.k_max) == (whole.q_max, whole.k_max)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"layers": [0, 4]}, "model: no layer 4; it has layers 0 to 3"),
        ({"heads": [4, 5]}, "model: no head 4; it has heads 0 to 3"),
        ({"heads": [-1]}, "model: no head -1; it has heads 0 to 3"),
        ({"layers": []}, "model: no layer was chosen"),
        ({"heads": [0, 1, 2]}, "share a KV head, and the chosen ones take 2 of KV head 0, 1 of KV head 1"),
        ({"tokens": 65}, "model: reads at most 64 tokens, 65 were asked for; use --tokens 64 or fewer"),
        ({"tokens": 64, "windows": 10**6}, r"has \d+ tokens, too short for 1000000 × 64"),
        ({"storage": "int8"}, "no storage dtype int8"),
        ({"text": Path("nowhere.txt")}, "nowhere.txt: cannot be read"),
    ],
)
def test_a_choice_that_is_not_there_is_one_sentence_and_writes_nothing(
    loaded: LoadedModel, tmp_path: Path, options: dict[str, Any], sentence: str
):
    with pytest.raises(XmsimError, match=sentence) as refusal:
        extract_trace(loaded, **{"tokens": 32} | options, out=tmp_path / "trace")
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "trace").exists()


def stop_after(layers: int) -> Callable[[int, int], None]:
    def progress(done: int, in_all: int) -> None:
        if done == layers:
            raise KeyboardInterrupt

    return progress


def test_an_interrupted_extraction_is_resumed_and_equals_one_at_once(loaded: LoadedModel, tmp_path: Path):
    folder = tmp_path / "trace"
    with pytest.raises(KeyboardInterrupt):
        extract_trace(loaded, tokens=32, windows=2, out=folder, progress=stop_after(2))
    with pytest.raises(TraceError, match="incomplete, 2 of 4 layers"):
        open_trace(folder)
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("layer_*")}
    seen: list[tuple[int, int]] = []
    resumed = extract_trace(loaded, tokens=32, windows=2, out=folder, progress=lambda done, layers: seen.append((done, layers)))
    assert seen == [(2, 4), (3, 4), (4, 4)]
    assert before == {name: (folder / name).stat().st_mtime_ns for name in before}
    assert resumed.sha256 == extract_trace(loaded, tokens=32, windows=2, out=tmp_path / "at once").sha256


def test_a_finished_extraction_does_not_run_the_model_again(loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    trace = extract_trace(loaded, tokens=32, out=tmp_path / "trace")
    monkeypatch.setattr("xmsim.workloads.extraction.extract.run_layers", None)
    assert extract_trace(loaded, tokens=32, out=tmp_path / "trace") == trace


def test_a_model_of_other_weights_is_not_mixed_in(loaded: LoadedModel, small_llama: Path, tmp_path: Path):
    extract_trace(loaded, tokens=32, out=tmp_path / "trace")
    other = load_model(str(small_llama))
    with torch.no_grad():
        other.model.model.layers[3].self_attn.q_proj.weight[0, 0] += 1
    with pytest.raises(TraceError, match="holds a trace with another model; choose another folder"):
        extract_trace(other, tokens=32, out=tmp_path / "trace")


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ...")])
def test_full_memory_is_one_sentence(loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception):
    def fail(model: Any, token_ids: Any) -> None:
        raise error

    monkeypatch.setattr("xmsim.workloads.extraction.extract.run_layers", fail)
    with pytest.raises(ModelError, match="model: out of memory at 2 windows of 32 tokens; ask for fewer or shorter windows"):
        extract_trace(loaded, tokens=32, windows=2, out=tmp_path / "trace")


def test_an_error_of_torch_that_is_not_about_memory_is_not_hidden(loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(model: Any, token_ids: Any) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr("xmsim.workloads.extraction.extract.run_layers", fail)
    with pytest.raises(RuntimeError, match="shapes differ"):
        extract_trace(loaded, tokens=32, out=tmp_path / "trace")


KILLED_RUN = """
import os, signal, sys
from pathlib import Path
from xmsim.workloads.extraction.extract import extract_trace
def progress(done, layers):
    if done == 2:
        os.kill(os.getpid(), signal.SIGKILL)
extract_trace(sys.argv[1], tokens=32, out=Path(sys.argv[2]), progress=progress)
"""


def test_a_killed_extraction_leaves_whole_layers_and_is_resumed(loaded: LoadedModel, small_llama: Path, tmp_path: Path):
    killed = subprocess.run([sys.executable, "-c", KILLED_RUN, str(small_llama), str(tmp_path / "trace")], capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    assert sorted(path.name for path in (tmp_path / "trace").glob("layer_*")) == ["layer_000.safetensors", "layer_001.safetensors"]
    at_once = extract_trace(loaded, tokens=32, out=tmp_path / "at once")
    assert extract_trace(loaded, tokens=32, out=tmp_path / "trace").sha256 == at_once.sha256


# Peak memory above the loaded model, in bytes, of extractions at two depths, and of one that keeps every layer
PEAKS = """
import gc, json, sys
from pathlib import Path
import torch, transformers
from xmsim.workloads.extraction import extract
from xmsim.workloads.models.loading import LoadedModel

torch.set_num_threads(1)

def status(key):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024

def loaded(layers):
    config = transformers.LlamaConfig(vocab_size=64, hidden_size=256, intermediate_size=256, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=2048)
    return LoadedModel(transformers.LlamaForCausalLM(config).eval(), None, "model", "llama")

def peak(layers, run):
    model = loaded(layers)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = status("VmRSS")
    run(model)
    return status("VmHWM") - before

WINDOW = tuple(range(64)) * 16

def store(model, windows=1):
    out = Path(sys.argv[1]) / f"{model.model.config.num_hidden_layers} layers {windows} windows"
    extract.extract_windows(model, (WINDOW,) * windows, out=out)

def hoard(model):
    kept = []
    def keep(layer):
        kept.append((layer.q.clone(), layer.k.clone(), layer.v.clone()))
    with torch.inference_mode(), extract.capture(model, [1024], keep):
        extract.run_layers(model.model, (WINDOW,))

peak(1, store)  # what is loaded on first use
peaks = {"shallow": peak(2, store), "deep": peak(8, store), "hoarding": peak(8, hoard)}
print(json.dumps(peaks | {"three windows": peak(2, lambda model: store(model, 3))}))
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs a kernel that resets the peak of a process's memory")
def test_peak_memory_is_that_of_one_layer_whatever_the_depth(tmp_path: Path):
    # large blocks go back to the system when they are freed, so that resident memory is memory in use
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    child = subprocess.run([sys.executable, "-c", PEAKS, str(tmp_path)], capture_output=True, text=True, env=environment)
    assert child.returncode == 0, child.stderr
    peaks = json.loads(child.stdout)
    operands, probabilities = 3 * 4 * 256 * 1024, 4 * 4 * 1024 * 1024  # bytes of one layer's Q, K, V and of its P
    assert peaks["hoarding"] > peaks["shallow"] + 4 * operands  # the measure sees layers that are kept
    assert peaks["deep"] < peaks["shallow"] + operands
    assert peaks["three windows"] < peaks["shallow"] + 2 * probabilities  # one window's probabilities are alive at a time
    assert peaks["deep"] < 3 * probabilities + 3 * operands  # scores before and after a step of softmax, hidden states
