"""Every test runs on one thread, because the suite itself runs on all cores."""

import fcntl
import os

import pytest

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")


def pytest_configure(config):
    config.addinivalue_line("markers", "gpu: needs a GPU that torch can use; skips with the reason where there is none")


@pytest.fixture(scope="session")
def emulator(tmp_path_factory, worker_id):
    """The library of the CUDA kernels' emulator, built once for all workers of a run."""
    from xmsim.reference.kernels.cuda import build

    if build.find_cxx() is None:
        pytest.skip("no C++ compiler builds the emulator")
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "cuda_emulator"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = next(folder.glob("*.so"), None)
        return found or build.build_emulator(folder)
