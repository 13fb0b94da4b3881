"""Loading and calling of the CUDA kernels, with what they refuse."""

import pytest

from xmsim.configs.errors import XmsimError
from xmsim.reference.kernels.cuda import native

torch = pytest.importorskip("torch")


def test_copy_copies_every_byte(device, either_order):
    source = torch.randn(1 << 12, device=device)
    target = torch.full_like(source, torch.nan)
    native.copy(source, target, blocks=3)
    assert torch.equal(source, target)


def test_copy_of_nothing_launches_nothing(device):
    empty = torch.empty(0, device=device)
    native.copy(empty, empty)


def test_tensors_elsewhere_unaligned_and_strided_are_refused(device):
    good = torch.zeros(64, device=device)
    with pytest.raises(ValueError, match=r"target: must be contiguous; pass \.contiguous\(\)"):
        native.copy(good, torch.zeros(128, device=device)[::2])
    with pytest.raises(ValueError, match="source: must start on a multiple of 16 bytes"):
        native.copy(torch.zeros(65, device=device)[1:], good)
    with pytest.raises(ValueError, match="target: 32 elements, source 64"):
        native.copy(good, torch.zeros(32, device=device))
    with pytest.raises(ValueError, match=r"target: torch\.int32 is not one of torch\.float32"):
        native.copy(good, torch.zeros(64, dtype=torch.int32, device=device))
    with pytest.raises(ValueError, match="source: lies on meta, the CUDA kernels need"):
        native.copy(torch.zeros(64, device="meta"), good)


def test_without_compiled_kernels_the_way_out_is_said(monkeypatch):
    monkeypatch.setenv(native.LIBRARY_VARIABLE, "none")
    native.cuda_library.cache_clear()
    with pytest.raises(native.CudaError, match="the CUDA kernels are not built: install xmsim again where nvcc is"):
        native.cuda_kernel("xm_cuda_copy")
    native.cuda_library.cache_clear()


def test_a_library_that_cannot_be_loaded_is_one_sentence(monkeypatch, tmp_path):
    (tmp_path / "cut.so").write_bytes(b"\x7fELF")
    monkeypatch.setenv(native.LIBRARY_VARIABLE, str(tmp_path / "cut.so"))
    native.cuda_library.cache_clear()
    with pytest.raises(XmsimError, match=r"the CUDA kernels cannot be loaded \(.*: build them again by"):
        native.cuda_kernel("xm_cuda_copy")
    native.cuda_library.cache_clear()


def test_an_older_library_is_refused(device):
    with pytest.raises(native.CudaError, match="have no xm_cuda_later: they are older"):
        native.cuda_kernel("xm_cuda_later")
