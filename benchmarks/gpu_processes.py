"""Commands that may crash or hang, each with a time limit: what a process leaves behind is a sentence and what it wrote."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_KILLED_SECONDS = 10  # for a killed process to go; one that waits for a GPU may never


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    failure: str  # a sentence; "" where it did what it should
    seconds: float


def run_limited(command: Sequence[str | Path], log: Path, seconds: float, environment: Mapping[str, str]) -> Ended:
    """Run a command until it ends or its time is up, with what it prints in a file; variables are added to this process's own."""
    begin = time.monotonic()
    with log.open("w", encoding="utf-8") as out:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            try:
                process.wait(_KILLED_SECONDS)
            except subprocess.TimeoutExpired:
                return Ended(
                    f"still there {_KILLED_SECONDS} s after it was killed at its limit of {seconds:.0f} s", time.monotonic() - begin
                )
            return Ended(f"stopped at its limit of {seconds:.0f} s", time.monotonic() - begin)
    seconds_taken = time.monotonic() - begin
    if not status:
        return Ended("", seconds_taken)
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last = lines[-1].strip() if lines else "without a word"
    return Ended(last if status > 0 else f"ended by {signal.Signals(-status).name}: {last}", seconds_taken)
