"""The description of this host."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

import pytest

from xmsim.workloads.measuring import host
from xmsim.workloads.measuring.host import AMX_GRANTED, cpu_features, describe_host, load_warning


def test_the_host_is_described_from_what_the_system_says() -> None:
    described = describe_host()
    assert described.cpu and described.python == platform.python_version()
    assert 1 <= described.cores <= (os.cpu_count() or 1)
    assert described.packages["numpy"] == version("numpy")
    if platform.system() == "Linux":
        assert described.memory_bytes > 2**28


def given_cpuinfo(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(host, "Path", lambda _: tmp_path / "cpuinfo")


def test_features_are_whole_words_and_amx_is_granted_by_the_kernel_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given_cpuinfo("model name\t: Some CPU\nflags\t\t: fpu avx2 avx512_vbmi2x amx_tile amx_int8\n", tmp_path, monkeypatch)
    monkeypatch.setattr(host, "_amx_granted", lambda: False)
    assert cpu_features() == ("avx2", "amx_tile", "amx_int8")
    monkeypatch.setattr(host, "_amx_granted", lambda: True)
    assert cpu_features() == ("avx2", "amx_tile", "amx_int8", AMX_GRANTED)
    given_cpuinfo("flags : avx2\n", tmp_path, monkeypatch)
    assert cpu_features() == ("avx2",)  # what the kernel grants is nothing without the unit


def test_a_system_without_cpuinfo_or_torch_is_described_without_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "Path", lambda _: tmp_path / "missing")
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    monkeypatch.setattr(platform, "processor", lambda: "")
    described = describe_host()
    assert (described.cpu, described.cpu_features, described.gpu) == (platform.machine(), (), "")


def test_amx_is_asked_for_on_linux_x86_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert host._amx_granted() in (True, False)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(host.ctypes, "CDLL", None)  # a call would raise
    assert host._amx_granted() is False


def test_a_busy_host_is_said_to_be_busy_and_a_quiet_one_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    for load, busy in ((6.0, False), (6.1, True)):
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load, 0.0, 0.0))
        assert ("load 6.1 on 4 cores" in load_warning()) == busy == bool(load_warning())
    monkeypatch.delattr(os, "getloadavg")
    assert load_warning() == ""
