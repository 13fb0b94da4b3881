"""CUDA kernels under test: on the emulator, and where there is a GPU on it."""

import os

import pytest

from xmsim.reference.kernels.cuda import native


@pytest.fixture(scope="session")
def gpu():
    """A GPU that torch can use."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no GPU that torch can use")


@pytest.fixture(params=["emulated", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request, monkeypatch):
    """The device that tensors of a kernel's test go to: the CPU for the emulator, or a GPU."""
    if request.param == "emulated":
        monkeypatch.setenv(native.LIBRARY_VARIABLE, os.fspath(request.getfixturevalue("emulator")))
        native.cuda_library.cache_clear()
        yield "cpu"
        native.cuda_library.cache_clear()
    else:
        request.getfixturevalue("gpu")
        native.cuda_library.cache_clear()
        if native.cuda_library() is None:
            pytest.skip("the CUDA kernels are not built")
        yield "cuda"


@pytest.fixture(params=[False, True], ids=["first_thread_first", "last_thread_first"])
def either_order(request, device):
    """Run the emulator's threads in both orders: a result that depends on it lacks a barrier."""
    if device == "cpu":
        native.cuda_library().xm_emulate_last_thread_first(int(request.param))
        yield
        native.cuda_library().xm_emulate_last_thread_first(0)
    elif request.param:
        pytest.skip("a GPU's threads have no order to choose")
    else:
        yield
