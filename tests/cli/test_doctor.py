"""xmsim doctor."""

from __future__ import annotations

import platform
import sys

import pytest

from xmsim.cli import doctor as module
from xmsim.cli.doctor import doctor
from xmsim.workloads.measuring import host


def printed(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    doctor()
    return {line[:14].strip(): line[14:] for line in capsys.readouterr().out.splitlines()}


def test_every_fact_has_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    facts = printed(capsys)
    assert list(facts) == [
        *("Python", "xmsim", "torch", "transformers", "system", "CPU", "AVX-512", "AVX-512 BF16", "AVX-512 VNNI", "AMX"),
        *("CPU kernels", "GPU", "C++ compiler", "nvcc", "minilm model"),
    ]
    assert facts["Python"] == platform.python_version() and all(facts.values())


def test_without_torch_it_says_how_to_get_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    found = host.installed_version
    monkeypatch.setattr(host, "installed_version", lambda package: "" if package in ("torch", "transformers") else found(package))
    facts = printed(capsys)
    assert facts["torch"] == facts["transformers"] == "missing: pip install 'xmsim[capture]'"
    assert facts["GPU"] == "not known without torch"


@pytest.mark.skipif(platform.system() != "Linux", reason="features are read from /proc/cpuinfo")
def test_amx_is_reported_with_what_the_kernel_says(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "cpu_features", lambda: ("avx512f", "amx_tile", "amx_bf16"))
    facts = printed(capsys)
    assert facts["AVX-512"] == "yes" and facts["AVX-512 VNNI"] == "no"
    assert facts["AMX"] == "yes (amx_tile, amx_bf16); not granted by the kernel"
    monkeypatch.setattr(host, "cpu_features", lambda: ("amx_tile", host.AMX_GRANTED))
    assert printed(capsys)["AMX"] == "yes (amx_tile); granted by the kernel"


def test_a_missing_compiler_is_not_found(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.shutil, "which", lambda name: "/opt/clang++" if name == "clang++" else None)
    facts = printed(capsys)
    assert facts["C++ compiler"] == "/opt/clang++" and facts["nvcc"] == "not found"
