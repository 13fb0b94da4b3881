"""Every test runs on one thread, because the suite itself runs on all cores."""

import os

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")


def pytest_configure(config):
    config.addinivalue_line("markers", "gpu: needs a GPU that torch can use; skips with the reason where there is none")
