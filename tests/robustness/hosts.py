"""Constants of hosts, and measured kernels that are predicted from them: valid files, and the reading."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
RECORDS = ROOT / "tests" / "golden" / "records"
MEASURED = ROOT / "reports" / "measured"


def read_stated_host(path: Path) -> None:
    from xmsim.accel_models.host.constants import load_host

    host = load_host(path)
    for threads in (1, 32):
        host.sharpness(threads)
    predict_all(host, ("linear",))


def read_stated_gpu(path: Path) -> None:
    from xmsim.accel_models.host import gpu_model
    from xmsim.workloads.attention import AttentionWorkload

    gpu = gpu_model.load_gpu(path)
    workload = AttentionWorkload.from_keep(np.tri(64, dtype=bool)[None], head_dim=64)
    gpu_model.prefill_dense(gpu, workload)
    gpu_model.prefill_skipping(gpu, workload)
    gpu_model.prefill_gathering(gpu, workload, shared=False)
    gpu_model.xm_mask(gpu, workload)


def predict_all(host: Any, operations: tuple[str, ...]) -> None:
    from xmsim.accel_models.host.constants import MissingConstantError
    from xmsim.accel_models.host.host_run import predict
    from xmsim.accel_models.host.measured_runs import measured_runs

    for name in ("linear", "attention"):
        for run in measured_runs(MEASURED / f"{name}_cpu.json")[1][:40:7]:
            if run.operation in operations:
                try:
                    predict(host, run)
                except MissingConstantError:
                    continue


def write_host_check(folder: Path) -> None:
    shutil.copy(RECORDS / "host_check.v1.json", folder / "host_check.json")


def with_calibration(name: str) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        shutil.copy(RECORDS / name, folder / "record.json")
        shutil.copy(RECORDS / "calibration.v1.json", folder / "host.json")

    return prepare


def write_benchmark_and_calibration(folder: Path) -> None:
    """Runs of each kind, few enough to be predicted at once."""
    linear, attention, masks = (json.loads((MEASURED / f"{name}_cpu.json").read_bytes()) for name in ("linear", "attention", "masks"))
    runs = [*linear["runs"][:7], attention["runs"][3], *attention["runs"][20:27], *masks["runs"][10:13]]
    (folder / "record.json").write_text(json.dumps(linear | {"runs": runs}))
    shutil.copy(RECORDS / "calibration.v1.json", folder / "host.json")


def predict_by_host(folder: Path) -> None:
    predict_file(folder / "record.json", folder / "host.json")


def predict_file(path: Path, host: Path | None = None) -> None:
    from xmsim.accel_models.host.cross_check import cross_check
    from xmsim.reports.cross_check import accuracies, coverage, markdown
    from xmsim.workloads.measuring.host_check_record import write_cross_check

    found = cross_check([path], host)
    write_cross_check(path.parent / "out" / "cross_check.json", found)
    accuracies(found), coverage(found), markdown(found)
