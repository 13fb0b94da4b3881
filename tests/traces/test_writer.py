from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from xmsim.configs.errors import XmsimError
from xmsim.traces.errors import TraceError
from xmsim.traces.layer_file import file_sha256
from xmsim.traces.manifest import Bias, Manifest
from xmsim.traces.store import Trace, open_trace
from xmsim.traces.writer import TraceWriter

Write = Callable[..., Trace]
Tensors = Callable[[int], dict[str, np.ndarray]]


def test_nothing_is_written_before_the_first_layer(plan: Manifest, tmp_path: Path):
    TraceWriter(tmp_path / "trace", plan)
    assert not (tmp_path / "trace").exists()


def test_a_trace_is_resumed_without_writing_its_layers_again(plan: Manifest, tensors: Tensors, write: Write, tmp_path: Path):
    folder = tmp_path / "trace"
    writer = TraceWriter(folder, plan)
    writer.write_layer(1, **tensors(1), scale=0.25, bias=Bias("causal"))
    with pytest.raises(TraceError, match="incomplete, 1 of 3 layers are stored; run the same `xmsim extract` again"):
        open_trace(folder)
    first = (folder / "layer_001.safetensors").stat().st_mtime_ns
    assert TraceWriter(folder, plan).missing == (0, 2)
    assert write(folder).sha256 == write(tmp_path / "at once").sha256
    assert (folder / "layer_001.safetensors").stat().st_mtime_ns == first


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-1] + b"!")])
def test_a_damaged_layer_is_written_again(write: Write, plan: Manifest, damage: Callable[[Path], object]):
    trace = write()
    damage(trace.path / "layer_001.safetensors")
    assert TraceWriter(trace.path, plan).missing == (1,)
    assert write(trace.path) == trace


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"dtype": "float16"}, "dtype"),
        ({"layer_ids": (0, 1)}, "layer_ids"),
        ({"token_ids": None}, "token_ids"),
        ({"text": None}, "text"),
    ],
)
def test_a_trace_of_another_plan_is_left_alone(write: Write, plan: Manifest, changes: dict[str, object], named: str):
    trace = write()
    with pytest.raises(TraceError, match=f"holds a trace with another {named}; choose another folder"):
        TraceWriter(trace.path, replace(plan, **changes))
    assert open_trace(trace.path) == trace


def test_other_weights_are_another_plan(write: Write, plan: Manifest):
    with pytest.raises(TraceError, match="another model"):
        TraceWriter(write().path, replace(plan, model=replace(plan.model, weights_sha256="3" * 64)))


def test_a_folder_with_other_files_is_refused_and_left_alone(plan: Manifest, tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(TraceError, match="exists and is no trace"):
        TraceWriter(tmp_path, plan)
    with pytest.raises(TraceError, match="exists and is no trace"):
        TraceWriter(tmp_path / "thesis.tex", plan)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(plan: Manifest, tensors: Tensors, tmp_path: Path, value: float):
    values = tensors(0)
    values["v"][0, 1, 2, 3] = value
    with pytest.raises(TraceError, match="layer 0: v holds NaN or infinity"):
        TraceWriter(tmp_path / "trace", plan).write_layer(0, **values, scale=1.0, bias=Bias("causal"))
    assert not (tmp_path / "trace").exists()


def test_values_too_large_for_the_storage_dtype_are_refused(plan: Manifest, tensors: Tensors, tmp_path: Path):
    values = tensors(0)
    values["k"][0, 1, 2, 3] = -1e5
    with pytest.raises(TraceError, match=r"layer 0: \|k\| reaches 1e\+05, more than float16 holds; use --dtype float32"):
        TraceWriter(tmp_path / "trace", replace(plan, dtype="float16")).write_layer(0, **values, scale=1.0, bias=Bias("causal"))


def test_tensors_of_another_shape_are_refused(plan: Manifest, tensors: Tensors, tmp_path: Path):
    values = tensors(0)
    with pytest.raises(TraceError, match=r"layer 0: k has shape \[2, 1, 6, 8\], the configuration of random says \[2, 2, 6, 8\]"):
        TraceWriter(tmp_path / "trace", plan).write_layer(0, **values | {"k": values["k"][:, :1]}, scale=1.0, bias=Bias("causal"))


def test_a_full_disk_keeps_the_layers_before_and_the_run_resumes(
    plan: Manifest, tensors: Tensors, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "trace"
    writer = TraceWriter(folder, plan)
    writer.write_layer(0, **tensors(0), scale=0.25, bias=Bias("causal"))
    before = sorted(path.name for path in folder.iterdir())

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(XmsimError, match=r"layer_001\.safetensors: no space left on the disk"):
            writer.write_layer(1, **tensors(1), scale=0.25, bias=Bias("causal"))
    assert sorted(path.name for path in folder.iterdir()) == before
    assert write(folder).sha256 == write(tmp_path / "at once").sha256


# Write the trace of conftest.py and kill this process for good at the n-th call of a function
KILLED_RUN = """
import importlib, os, signal, sys
from importlib.util import module_from_spec, spec_from_file_location
from dataclasses import replace
from pathlib import Path
conftest, folder, target, at = sys.argv[1:]
spec = spec_from_file_location("small_trace", conftest)
small = module_from_spec(spec)
spec.loader.exec_module(small)
from xmsim.traces.writer import TraceWriter
module, name = target.rsplit(".", 1)
module, left = importlib.import_module(module), int(at)
original = getattr(module, name)
def deadly(*args, **keywords):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*args, **keywords)
writer = TraceWriter(Path(folder), small.plan.__wrapped__())
setattr(module, name, deadly)
for layer in writer.missing:
    writer.write_layer(layer, **small.layer_tensors(layer), scale=0.25, bias=small.Bias("causal"))
"""


@pytest.mark.parametrize(
    ("call", "at", "whole"),
    [
        ("xmsim.traces.layer_file.encode", 5, ()),  # in the middle of the first layer's file
        ("xmsim.traces.layer_file.encode", 20, (0,)),  # in the middle of the second's
        ("os.fsync", 1, ()),  # before the first manifest has its name
        ("os.fsync", 3, ()),  # the first layer is written, but has not its name
        ("os.fsync", 4, (0,)),  # it has its name, but the manifest does not know it
        ("os.fsync", 6, (0,)),  # now it does
        ("os.fsync", 7, (0,)),
    ],
)
def test_a_killed_run_leaves_whole_layers_and_is_resumed(write: Write, tmp_path: Path, call: str, at: int, whole: tuple[int, ...]):
    expected, folder = write(tmp_path / "at once"), tmp_path / "killed"
    conftest = Path(__file__).with_name("conftest.py")
    killed = subprocess.run([sys.executable, "-c", KILLED_RUN, str(conftest), str(folder), call, str(at)], capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr

    found = {path.name: file_sha256(path) for path in folder.glob("layer_*")}
    assert found == {f"layer_{layer:03d}.safetensors": expected.manifest.layers[layer].sha256 for layer in whole}

    assert write(folder).sha256 == expected.sha256
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in expected.path.iterdir())
