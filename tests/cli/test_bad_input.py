"""Bad input is one clear sentence on stderr, exit status 2, and nothing half-written."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import xmsim.configs.files
from xmsim.accel_models.accelerator import Accelerator
from xmsim.cli import main

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "trace_v1"
SHIPPED = Path(xmsim.configs.files.__file__).parent / "accelerators"


@pytest.fixture
def refused(monkeypatch, capsys, tmp_path):
    """Run `xmsim ...` in an empty folder; gives the sentence with which it refused."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        before = sorted(path for path in tmp_path.rglob("*"))
        monkeypatch.setattr(sys, "argv", ["xmsim", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            main()
        output = capsys.readouterr()
        assert stopped.value.code == 2
        assert "Traceback" not in output.err
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert sorted(path for path in files if path not in before) == [], "something was left behind"
        return output.err

    return run


@pytest.fixture
def trace(tmp_path):
    return Path(shutil.copytree(GOLDEN, tmp_path / "trace"))


@pytest.fixture
def machine(tmp_path):
    """Write a machine's YAML, the shipped one with some text replaced."""

    def write(old, new, name="dynax_s"):
        text = (SHIPPED / f"{name}.yaml").read_text()
        assert old in text
        path = tmp_path / "mine.yaml"
        path.write_text(text.replace(old, new))
        return path

    return write


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("clock_mhz", "clock_mzh", "mine.yaml:3:1: clock_mzh: unknown key; did you mean clock_mhz?"),
        ("pruning: {block", "pruning: {blok", "mine.yaml:6:11: pruning.blok: unknown key; did you mean block?"),
        ("clock_mhz: 500", "clock_mhz: on", "mine.yaml:3:1: clock_mhz: input should be a valid number"),
        ("dividers: 128", "dividers: 128\ndividers: 64", "duplicate key dividers, first set on line 10"),
        ("model: dynax", "model: dynay", "mine.yaml:2:1: model: no model dynay in xmsim (did you mean dynax?), and no "),
        ("name: xm_32", "name: xm_33", "no method xm_33; did you mean xm_32?"),
        ("dividers: 128", "dividers: [128", "mine.yaml:"),
        ("clock_mhz: 500", "clock_mhz: 1e300", "mine.yaml:3:1: clock_mhz: input should be less than or equal to 100000"),
        ("gigabytes_per_second: 64", "gigabytes_per_second: 1e-300", "dram.gigabytes_per_second: input should be greater than or equal to"),
        ("latency_ns: 100", "latency_ns: .inf", "dram.latency_ns: input should be"),
        ("stream_blocks: 8", "stream_blocks: 1e12", "kv.stream_blocks: input should be less than or equal to 65536"),
        ("block: 32, kept: 8", "block: 8, kept: 32", "mine.yaml:6:1: pruning: kept: 32 of every 8 keys cannot be kept"),
    ],
)
def test_a_faulty_machine_file_is_named_with_line_and_column(refused, trace, machine, old, new, message):
    assert message in refused("simulate", trace, "--machine", machine(old, new))


def test_1e9_is_a_number_in_a_machine_file(trace, machine, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["xmsim", "simulate", str(trace), "-m", str(machine("dividers: 128", "dividers: 1e3"))])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 0
    assert json.loads((tmp_path / "results" / "mine.json").read_text())["machine"]["config"]["dividers"] == 1000


def test_an_unknown_machine_or_method_is_answered_with_the_nearest(refused, trace):
    assert "no machine dynax; did you mean dynax_s?" in refused("simulate", trace, "-m", "dynax")
    assert "no method xm_23; did you mean xm_32?" in refused("simulate", trace, "-m", "dense", "--method", "xm_23")


def test_a_layer_that_is_not_there_is_answered_with_those_that_are(refused, trace):
    assert "--layers 7: no layer 7; layers are 0" in refused("simulate", trace, "-m", "dense", "--layers", "7")
    assert "write numbers and ranges" in refused("simulate", trace, "-m", "dense", "--layers", "one")


@pytest.mark.parametrize("size", [0, 10, 300])
def test_a_truncated_layer_file_is_named(refused, trace, size):
    layer = sorted(trace.glob("*.safetensors"))[0]
    layer.write_bytes(layer.read_bytes()[:size])
    assert layer.name in refused("simulate", trace, "-m", "dense")


def test_an_edited_layer_file_is_named(refused, trace):
    layer = sorted(trace.glob("*.safetensors"))[0]
    data = bytearray(layer.read_bytes())
    data[-1] ^= 1
    layer.write_bytes(data)
    assert layer.name in refused("simulate", trace, "-m", "dense")


def test_a_folder_that_is_no_trace_is_named(refused, tmp_path):
    for verb in (["simulate", tmp_path, "-m", "dense"], ["trace", "info", tmp_path], ["measure", tmp_path]):
        assert "manifest.json" in refused(*verb)


def test_a_later_version_is_refused_in_one_sentence(refused, tmp_path):
    future = json.loads((GOLDEN.parent / "records" / "result.v1.json").read_text()) | {"version": 99}
    (tmp_path / "future.json").write_text(json.dumps(future))
    assert "version 99 of xmsim.result is newer than this xmsim reads (3); upgrade xmsim" in refused("compare", tmp_path / "future.json")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "other"}', "\x00", "9" * 5000, "[" * 5000])
def test_a_file_that_is_no_record_is_named(refused, tmp_path, text):
    (tmp_path / "odd.json").write_text(text)
    assert "odd.json" in refused("compare", tmp_path / "odd.json")


def test_a_text_that_is_too_short_is_answered_with_its_length(refused, tmp_path):
    (tmp_path / "short.txt").write_text("Ten words are not enough for a thousand tokens, alas.")
    assert "short.txt" in refused("extract", "xm-tiny", "--text", tmp_path / "short.txt", "--out", tmp_path / "out")


def test_a_full_disk_leaves_nothing_behind(refused, trace, monkeypatch):
    def full(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(xmsim.configs.files.os, "fsync", full)
    assert "no space left on the disk" in refused("simulate", trace, "-m", "dense")


def out_of_torchs_memory():
    import torch

    torch.empty(1 << 60)


def out_of_gpu_memory():
    import torch

    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def out_of_memory():
    raise MemoryError


@pytest.mark.parametrize("fails", [out_of_memory, out_of_torchs_memory, out_of_gpu_memory])
def test_too_little_memory_is_one_sentence(refused, trace, monkeypatch, fails):
    monkeypatch.setattr(Accelerator, "result", lambda *_arguments, **_options: fails())
    assert refused("simulate", trace, "-m", "dense") == "xmsim: not enough memory; use fewer tokens, windows or layers\n"


def test_an_interrupt_leaves_nothing_behind(refused, trace, monkeypatch):
    def interrupted(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(Accelerator, "result", interrupted)
    assert "interrupted" in refused("simulate", trace, "-m", "dense")


def test_ctrl_c_at_a_running_demo_is_one_sentence(tmp_path):
    pytest.importorskip("torch")
    demo = subprocess.Popen(
        [sys.executable, "-m", "xmsim", "demo", "--tokens", "256", "--out", str(tmp_path)],
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job would hand down that it is ignored
    )
    assert "extract" in demo.stdout.readline()
    demo.send_signal(signal.SIGINT)
    _, errors = demo.communicate(timeout=120)
    assert demo.returncode == 2
    assert errors.strip().splitlines()[-1].startswith("xmsim: interrupted") and "Traceback" not in errors
    assert not list(tmp_path.rglob("*.tmp"))


def test_output_that_cannot_be_written_is_one_sentence(refused, trace, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert "cannot be written" in refused("simulate", trace, "-m", "dense", "--out", tmp_path / "file" / "results")


def test_the_command_line_itself_answers_with_status_two(refused):
    assert "No such command" in refused("simulat")
    assert "Missing option" in refused("extract", "x")


def test_a_simulation_without_a_trace_or_a_machine_says_how_to_name_them(refused, trace):
    for words in ((), ("dynax_s",), (SHIPPED / "dense.yaml", "sanger")):
        assert "no trace; name the folder that xmsim extract wrote with --trace" in refused("simulate", *words)
    for words in ((trace,), ("--trace", trace)):
        assert f"no machine for {trace}; name one or more of dense, " in refused("simulate", *words)


def test_two_machines_of_one_name_are_refused_before_one_overwrites_the_other(refused, trace):
    for words in (("dense", "dense"), ("dense", "-m", SHIPPED / "dense.yaml")):
        assert "would write one result file, that of dense; leave one out, or rename its file" in refused("simulate", "-t", trace, *words)


def test_a_decode_that_the_trace_is_too_short_for_is_answered_with_the_longest(refused, trace):
    assert "decode at most 3" in refused("simulate", "dense", "-t", trace, "--decode", "4")


def test_a_sample_of_one_head_is_answered_with_the_least(refused, trace):
    assert "take at least 2" in refused("simulate", "dense", "-t", trace, "--sample-heads", "1")
