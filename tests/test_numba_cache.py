"""Compiled code is kept by what it was compiled from, and never runs for anything else."""

from __future__ import annotations

from pathlib import Path

import pytest

import xmsim


def test_the_cache_folder_changes_with_compiled_sources_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xmsim, "__file__", str(tmp_path / "__init__.py"))
    (tmp_path / "sim").mkdir()
    compiled, plain = tmp_path / "sim" / "engine.py", tmp_path / "sim" / "words.py"
    compiled.write_text("@njit\ndef f(): ...\n")
    plain.write_text("a = 1\n")
    before = xmsim._compiled_sources_digest()
    plain.write_text("a = 2\n")
    assert xmsim._compiled_sources_digest() == before
    compiled.write_text("@njit\ndef f(): return 1\n")
    assert xmsim._compiled_sources_digest() != before
