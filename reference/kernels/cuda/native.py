"""The compiled CUDA kernels: found, loaded and called on the current stream of a tensor's device.

The library has a plain C interface and knows neither Python nor torch. There are two builds of one source: `libxmsim_cuda.so` by nvcc, and
an emulator by a C++ compiler, which runs the same threads on the CPU and takes tensors that lie there; tests use it where no GPU is.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import c_char_p, c_int, c_int64, c_void_p
from functools import cache
from typing import Any

from xmsim.configs.errors import XmsimError
from xmsim.reference.kernels.native import library_path

LIBRARY = "libxmsim_cuda.so"
LIBRARY_VARIABLE = "XMSIM_CUDA_LIBRARY"  # another build of it, e.g. the emulator, or "none"
_LATE = "; it, or a kernel before it (CUDA_LAUNCH_BLOCKING=1 says which), ended all CUDA work of this process: start it again"
_ADVICE = {  # by CUDA's code of an error, where its own words do not say the way out
    209: "; the kernels need a GPU of compute capability 8.0 or more",
    **dict.fromkeys((700, 714, 715, 716, 717, 718, 719), _LATE),  # wrong addresses and instructions, known after the launch
}


class CudaError(XmsimError, RuntimeError):
    """A CUDA call that failed, or no way to make one."""


@cache
def cuda_library() -> ctypes.CDLL | None:
    """The compiled kernels; None where they were not built.

    Raises:
        CudaError: there is a file that cannot be loaded here.
    """
    path = library_path(LIBRARY, LIBRARY_VARIABLE)
    try:
        return None if path is None else ctypes.CDLL(str(path))
    except OSError as error:
        raise CudaError(f"the CUDA kernels cannot be loaded ({error}): build them again by python -m {__package__}.build") from error


def is_emulated() -> bool:
    """Whether the kernels that are loaded run on the CPU."""
    return hasattr(cuda_library(), "xm_emulate_last_thread_first")


def cuda_kernel(name: str, *arguments: Any) -> Callable[..., None]:
    """The launcher of this name, called as `launcher(tensor, *arguments)`: on the device of that tensor, and its current stream.

    Arguments are of these ctypes types, with the stream as a last one that the call adds. Nothing is checked on the other side: whoever
    calls has looked at devices, types, strides, alignment, sizes and the range of indices before.

    Raises:
        CudaError: no compiled kernels, older ones, or (on the call) CUDA's own error.
    """
    library = cuda_library()
    if library is None:
        raise CudaError(f"the CUDA kernels are not built: install xmsim again where nvcc is, or run python -m {__package__}.build")
    if not hasattr(library, name):
        raise CudaError(f"the compiled CUDA kernels have no {name}: they are older than xmsim's Python code; build them again")
    function = getattr(library, name)
    function.restype, function.argtypes = c_int, (*arguments, c_void_p)

    def call(tensor: Any, *values: Any) -> None:
        if is_emulated():
            status = function(*values, None)
        else:
            import torch

            with torch.cuda.device(tensor.device):
                status = function(*values, torch.cuda.current_stream().cuda_stream)
        if status:
            raise CudaError(f"{name}: {_error(status)}")

    return call


def check_device(**tensors: Any) -> None:
    """Refuse tensors that do not all lie on one GPU (on the CPU, where the kernels are emulated).

    Raises:
        ValueError: naming the tensor.
    """
    wanted = "cpu" if is_emulated() else "cuda"
    devices = {name: tensor.device for name, tensor in tensors.items()}
    for name, device in devices.items():
        if device.type != wanted:
            raise ValueError(f"{name}: lies on {device}, the CUDA kernels need {wanted}; move it with .to({wanted!r})")
        if device != next(iter(devices.values())):
            raise ValueError(f"{name}: lies on {device}, {next(iter(devices))} on {devices[next(iter(devices))]}; both must share a device")


def check_tensor(name: str, tensor: Any, *, dtypes: tuple[Any, ...], axes: int, alignment: int = 16) -> None:
    """Refuse a tensor that a kernel cannot read where it lies.

    Raises:
        ValueError: another type or number of axes, not contiguous, or not aligned to so many bytes.
    """
    if tensor.dtype not in dtypes:
        raise ValueError(f"{name}: {tensor.dtype} is not one of {', '.join(map(str, dtypes))}")
    if tensor.dim() != axes:
        raise ValueError(f"{name}: {axes} axes are needed, got shape {list(tensor.shape)}")
    if not tensor.is_contiguous():
        raise ValueError(f"{name}: must be contiguous; pass .contiguous()")
    if tensor.data_ptr() % alignment:
        raise ValueError(f"{name}: must start on a multiple of {alignment} bytes; pass .clone()")


def copy(source: Any, target: Any, *, blocks: int = 1056) -> None:
    """Copy one tensor's bytes into another of the same size; the ceiling of what memory gives."""
    check_device(source=source, target=target)
    for name, tensor in (("source", source), ("target", target)):
        check_tensor(name, tensor, dtypes=(source.dtype,), axes=1)
    nbytes = source.numel() * source.element_size()
    if target.numel() != source.numel() or nbytes % 16:
        raise ValueError(
            f"target: {target.numel()} elements, source {source.numel()}; both need the same number, of a multiple of 16 bytes"
        )
    cuda_kernel("xm_cuda_copy", c_void_p, c_void_p, c_int64, c_int)(source, source.data_ptr(), target.data_ptr(), nbytes, blocks)


def _error(status: int) -> str:
    describe = cuda_library().xm_cuda_error  # type: ignore[union-attr]
    describe.restype, describe.argtypes = c_char_p, (c_int,)
    return str(describe(status).decode()) + _ADVICE.get(status, "")
