"""Clusters: the same outcomes from real local ones, and a sentence where there is none."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from xmsim.accel_models.sweep.runs import run_points
from xmsim.accel_models.sweep.simulate import Outcome
from xmsim.accel_models.sweep.sweep_file import read_sweep
from xmsim.accel_models.sweep.workers import Workers, workers
from xmsim.configs.errors import XmsimError

TRACE = Path(__file__).resolve().parents[1] / "golden" / "trace_v2"
SWEEP = "machines: [dynax_s]\naxes:\n  clock_mhz: [400, 500]\n  execute_array.count: [1, 2]\n  kv.buffer_bytes: [128, 131072]\n"


def outcomes(folder: Path, by: Workers) -> list[Outcome]:
    path = folder / "sweep.yaml"
    path.write_text(SWEEP)
    sweep = read_sweep(path, [TRACE])
    found = run_points(sweep.points(), by, folder / "masks", done=(), error_bars=False)
    return sorted(found, key=lambda outcome: outcome.key)


def alone(folder: Path) -> list[Outcome]:
    folder.mkdir()
    found = outcomes(folder, Workers("loky", 1))
    assert sum(outcome.error is None for outcome in found) == 4 and len(found) == 8
    return found


@contextmanager
def dask_cluster() -> Iterator[str]:
    """A scheduler and a worker process on this machine; its address."""
    distributed = pytest.importorskip("distributed")
    private = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "scheduler_kwargs": {"dashboard": False}}
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, silence_logs=logging.ERROR, **private) as cluster:
        yield cluster.scheduler_address


def test_a_dask_cluster_gives_the_same_outcomes(tmp_path: Path) -> None:
    with dask_cluster() as address, workers(1, address) as staff:
        assert staff.backend == "dask"
        assert outcomes(tmp_path, staff) == alone(tmp_path / "alone")


@contextmanager
def ray_cluster() -> Iterator[str]:
    """A head node on this machine, without a dashboard; its address."""
    pytest.importorskip("ray")
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    port = 21000 + os.getpid() % 4000
    start = ["start", "--head", "--num-cpus=1", "--node-ip-address=127.0.0.1", f"--port={port}", "--include-dashboard=false"]
    folder = tempfile.mkdtemp(prefix="ray")  # short: names of sockets go into it
    private = [f"--ray-client-server-port={port + 4000}", f"--temp-dir={folder}", "--block"]
    node = subprocess.Popen([*ray, *start, *private], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"ray://127.0.0.1:{port + 4000}"
    finally:
        node.terminate()
        node.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def test_a_ray_cluster_gives_the_same_outcomes(tmp_path: Path) -> None:
    with ray_cluster() as address:
        deadline = time.monotonic() + 60
        while True:
            try:
                with workers(1, address) as staff:
                    assert staff.backend == "ray"
                    assert outcomes(tmp_path, staff) == alone(tmp_path / "alone")
                return
            except XmsimError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(1)


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("host:8786", "give ray://HOST:PORT of a Ray cluster or tcp://HOST:PORT of a Dask scheduler"),
        ("tcp://127.0.0.1:9", "no Dask scheduler answers there; start one with `dask scheduler`"),
        ("tcp://127.0.0.1:port", "no Dask scheduler answers there"),
    ],
)
def test_an_address_where_no_cluster_is_gets_a_sentence(address: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr("xmsim.accel_models.sweep.workers.CONNECT_SECONDS", 1)
    with pytest.raises(XmsimError, match=re.escape(f"--cluster {address}: {sentence}")), workers(1, address):
        pass


@pytest.mark.parametrize(("library", "address"), [("distributed", "tcp://127.0.0.1:9"), ("ray", "ray://127.0.0.1:9")])
def test_a_library_that_is_not_installed_is_named(library: str, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    extra = {"distributed": "dask"}.get(library, library)
    with pytest.raises(XmsimError, match=re.escape(f'pip install "xmsim[{extra}]"')), workers(1, address):
        pass


def test_a_task_that_is_refused_stops_the_map_with_its_sentence() -> None:
    def refuse_three(number: int) -> int:  # inside, so that it travels to a process that cannot import tests
        if number == 3:
            raise XmsimError("number 3")
        return number

    with workers(2) as staff, pytest.raises(XmsimError, match="number 3"):
        list(staff.map(refuse_three, range(8)))


def test_nobody_is_started_where_nothing_is_to_do() -> None:
    assert list(Workers("no such backend", 5).map(abs, [])) == []


def test_a_killed_worker_is_a_sentence() -> None:
    def kill_this_process(number: int) -> None:
        os.kill(os.getpid(), 9)

    with workers(2) as staff, pytest.raises(XmsimError, match="a worker was killed, most likely for want of memory"):
        list(staff.map(kill_this_process, range(2)))


MARKS = """\
import sys, time
from pathlib import Path
from xmsim.accel_models.sweep.workers import workers

def leave_a_mark(number, folder=Path(sys.argv[1])):
    (folder / str(number)).touch()
    time.sleep(0.3)

with workers(2) as staff:
    for _ in staff.map(leave_a_mark, range(60)):
        print("done", flush=True)
"""


def test_workers_of_a_killed_process_begin_nothing_more(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", MARKS, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(4):
            process.stdout.readline()
        process.kill()
    begun = len(list(tmp_path.iterdir()))
    time.sleep(1.5)
    assert 4 <= begun <= 8 and len(list(tmp_path.iterdir())) == begun
