"""A process that reads damaged inputs within bounds of memory and time, and says what became of each.

Run as a module it is that process: one line in, the name of a reader and a folder; one line out, the outcome as JSON.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

MEMORY_BYTES = 256 * 2**20  # above what the process holds before it reads; the valid inputs have less than 100 KB
SECONDS = 10  # of the processor, for one input
LONGEST_SENTENCE = 2000
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an input: read, refused in a sentence, or a fault of the program."""

    kind: str  # read, refused or fault
    text: str = ""  # the sentence, or what went wrong


class BoundedProcess:
    """The process, started when first asked and started again when an input kills it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()

    def outcome(self, reader: str, folder: Path) -> Outcome:
        """Let the process read `folder`; nothing may change in it but what is under `out`."""
        before = _snapshot(folder)
        outcome = self._read(reader, folder)
        if outcome.kind != "fault" and _snapshot(folder) != before:
            return Outcome("fault", f"wrote outside out: {set(_snapshot(folder).items()) ^ set(before.items())}")
        return outcome

    def _read(self, reader: str, folder: Path) -> Outcome:
        process = self._process or self._start()
        assert process.stdin and process.stdout
        process.stdin.write(json.dumps([reader, str(folder)]) + "\n")
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], 6 * SECONDS)
        line = process.stdout.readline() if ready else ""
        if line:
            return Outcome(**json.loads(line))
        self._stop()
        return Outcome("fault", f"ended with status {process.returncode}" if ready else f"still busy after {6 * SECONDS} s")

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.robustness.bounded"]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        self._process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout
        started = self._process.stdout.readline()
        assert started == "ready\n", f"the process cannot read valid inputs: {started}"
        return self._process

    def _stop(self) -> None:
        if self._process:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of everything but what is under `out`; neighbours of the folder too."""
    found = {}
    for root in (folder, folder.parent):
        for path in root.rglob("*") if root == folder else root.iterdir():
            name = str(path.relative_to(folder.parent))
            if path != folder and not name.startswith(f"{folder.name}/out/") and name != f"{folder.name}/out":
                facts = path.lstat()
                found[name] = (facts.st_size, facts.st_mtime_ns)
    return found


class _TooLong(BaseException):
    """Not an Exception: no reader may take it for a fault of the file."""


def _alarm(number: int, frame: Any) -> None:
    raise _TooLong


def _outcome(read: Any, folder: Path) -> Outcome:
    from xmsim.configs.errors import XmsimError, printable

    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        read(folder)
        return Outcome("read")
    except XmsimError as error:
        sentence = printable(str(error))
        lines = sentence.splitlines() or [""]
        fault = not all(line.strip() and line.isprintable() and len(line) <= LONGEST_SENTENCE for line in lines)
        return Outcome("fault" if fault else "refused", f"no sentence: {sentence[:5000]}" if fault else sentence)
    except _TooLong:
        return Outcome("fault", f"more than {SECONDS} s\n{traceback.format_exc(limit=-12)}")
    except MemoryError:
        return Outcome("fault", f"more than {MEMORY_BYTES} bytes\n{traceback.format_exc(limit=-12)}")
    except Exception:
        return Outcome("fault", traceback.format_exc(limit=-8))
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _answer() -> None:
    from tests.robustness.readers import all_readers

    readers = all_readers()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing that a reader prints stands among the answers
    warnings.simplefilter("error", RuntimeWarning)  # of NumPy, on numbers that no result can hold
    for name, reader in readers.items():  # everything is imported and compiled before the bound is set
        with tempfile.TemporaryDirectory() as folder:
            reader.prepare(Path(folder))
            outcome = _outcome_unbounded(reader.read, Path(folder))
            if outcome:
                print(json.dumps(f"{name}: {outcome}"), file=answers, flush=True)
                return
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY_BYTES, held + MEMORY_BYTES))
    signal.signal(signal.SIGPROF, _alarm)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        name, folder = json.loads(line)
        outcome = _outcome(readers[name].read, Path(folder))
        print(json.dumps({"kind": outcome.kind, "text": outcome.text}), file=answers, flush=True)


def _outcome_unbounded(read: Any, folder: Path) -> str:
    try:
        read(folder)
    except Exception:
        return traceback.format_exc()
    return ""


if __name__ == "__main__":
    _answer()
