"""The compiled CPU kernels: found, loaded and described. Imports only numpy and ctypes, and uses torch's threads once torch is there.

The library has a plain C interface and knows neither Python nor torch, so one file serves every version of both. Without it (no compiler
when xmsim was installed) the kernels fall back to NumPy or torch, and a notice says so once.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ctypes import c_int, c_int64, c_uint64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from xmsim.configs.errors import XmsimError

LIBRARY = "libxmsim_cpu.so"
LIBRARY_VARIABLE = "XMSIM_CPU_LIBRARY"  # another build of it, e.g. one with sanitizers, or "none"

Isa = Literal["portable", "avx2", "avx512", "amx"]  # ascending, in the order of isa.h

_HUGE_PAGE_BYTES = 1 << 21
_LINE_BYTES = 64


class CpuError(XmsimError, RuntimeError):
    """Compiled CPU kernels that cannot be used."""


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels; None where they were not built.

    Raises:
        CpuError: there is a file that cannot be loaded here.
    """
    path = library_path(LIBRARY, LIBRARY_VARIABLE)
    if path is None:
        warnings.warn(
            "xmsim: no compiled CPU kernels here, NumPy and torch are used instead; for them install xmsim again where a C++ compiler is",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise CpuError(
            f"the compiled CPU kernels cannot be loaded ({error}); correct {LIBRARY_VARIABLE}, or install xmsim again"
        ) from error


@cache
def kernel(name: str, returns: Any, *arguments: Any) -> Callable[..., Any] | None:
    """The C function of this name with these ctypes types (None returns nothing); None without compiled kernels.

    Nothing is checked on the other side: whoever calls has looked at shapes, types, contiguity and sizes before.

    Raises:
        CpuError: the compiled kernels cannot be loaded, or are older than this code.
    """
    loaded = library()
    if loaded is None:
        return None
    if not hasattr(loaded, name):
        raise CpuError(f"the compiled CPU kernels have no {name}: they are older than xmsim's Python code; install xmsim again")
    function: Callable[..., Any] = getattr(loaded, name)
    function.restype, function.argtypes = returns, arguments  # type: ignore[attr-defined]
    return function


def library_path(name: str, variable: str) -> Path | None:
    """Where a compiled library lies: as the environment says, beside the package, or where an editable install put what it built."""
    named = os.environ.get(variable)
    if named:
        return None if named == "none" else Path(named)
    homes = [Path(__file__).parents[2], *(Path(entry) / "xmsim" for entry in sys.path)]
    return next((path for home in homes if (path := home / "_native" / name).is_file()), None)


def offered_isa() -> Isa | None:
    """The highest instruction set that the kernels may use on this host; None without compiled kernels."""
    offered = kernel("xm_offered_isa", c_int)
    return get_args(Isa)[offered()] if offered else None


@contextmanager
def limited_isa(most: Isa) -> Iterator[None]:
    """Use no instruction set above `most`, nor above that of a limit around this one, so that every path can be tested and timed."""
    limit, used = kernel("xm_limit_isa", None, c_int), kernel("xm_isa", c_int)
    if limit is None or used is None:
        yield
        return
    before = used()
    limit(min(before, get_args(Isa).index(most)))
    try:
        yield
    finally:
        limit(before)


def default_threads() -> int:
    """As many threads as torch uses, once it is loaded; before that one for each core this process may use."""
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "get_num_threads"):
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    _share_torch_threads()
    return int(torch.get_num_threads())


def pin_threads(threads: int) -> None:
    """Bind each of so many threads, this one first, to a core of its own: unbound, two of them may share one for a whole run."""
    pin = kernel("xm_pin_team", None, c_void_p, c_int)
    if pin is not None and hasattr(os, "sched_getaffinity"):
        cores = np.array(sorted(os.sched_getaffinity(0))[:threads], np.int32)
        pin(address(cores), len(cores))


@contextmanager
def pinned_threads(threads: int) -> Iterator[None]:
    """Bind threads for a while; afterwards this thread, and those that it makes, may run anywhere again. Those of a team stay bound."""
    if not hasattr(os, "sched_getaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    pin_threads(threads)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@cache
def _share_torch_threads() -> None:
    """Let the threads that torch keeps run our kernels too: two sets of threads that wait by spinning would take each other's cores.

    Does nothing where torch brought no GNU OpenMP; the kernels then make threads of their own for each call.
    """
    use_team = kernel("xm_use_team", None, c_void_p)
    openmp = _loaded_openmp()
    if use_team is not None and openmp is not None:
        use_team(ctypes.cast(openmp.GOMP_parallel, c_void_p))
        if hasattr(os, "register_at_fork"):  # a child has none of torch's threads, and would wait for them for ever
            os.register_at_fork(after_in_child=lambda: use_team(None))


def _loaded_openmp() -> ctypes.CDLL | None:
    """The GNU OpenMP library that torch brought into this process."""
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    except OSError:
        return None
    paths = {line.split(maxsplit=5)[5] for line in maps.splitlines() if "libgomp" in line}
    path = next((path for path in sorted(paths) if "torch" in path), None)
    return None if path is None else ctypes.CDLL(path)


def huge_empty(shape: tuple[int, ...], dtype: np.dtype | type) -> np.ndarray:
    """An array of zeros in huge pages where the system has them: large weights then read up to 1.7 times as fast.

    It starts on a 2 MiB boundary, or on a cache line if it is smaller than such a page.
    """
    dtype = np.dtype(dtype)
    nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if nbytes < _HUGE_PAGE_BYTES:
        bytes_ = np.zeros(nbytes + _LINE_BYTES, np.uint8)
        first = -bytes_.ctypes.data % _LINE_BYTES
        return bytes_[first : first + nbytes].view(dtype).reshape(shape)
    # private: shared anonymous memory has a switch of its own for huge pages, which most systems leave off
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if os.name == "posix" else {}
    memory = mmap.mmap(-1, nbytes + _HUGE_PAGE_BYTES, **private)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a system without huge pages serves small ones
            memory.madvise(mmap.MADV_HUGEPAGE)
    bytes_ = np.frombuffer(memory, np.uint8)
    first = -bytes_.ctypes.data % _HUGE_PAGE_BYTES
    return bytes_[first : first + nbytes].view(dtype).reshape(shape)


def address(array: np.ndarray) -> int:
    """Where the first element of a contiguous array lies."""
    if not array.flags.c_contiguous:
        raise ValueError("array: a kernel needs contiguous memory; pass numpy.ascontiguousarray(array)")
    return int(array.ctypes.data)


def read_gigabytes_per_second(nbytes: int, threads: int, repeats: int = 20) -> float:
    """The fastest of some passes over so many bytes: what this host's memory gives a kernel that only reads.

    Raises:
        RuntimeError: no compiled kernels.
    """
    read = kernel("xm_read", c_uint64, c_void_p, c_int64, c_int)
    if read is None:
        raise RuntimeError("reading bandwidth needs the compiled kernels")
    words = huge_empty((nbytes // 8,), np.uint64)
    words[:] = 1
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        read(address(words), len(words), threads)
        best = min(best, time.perf_counter() - start)
    return words.nbytes / best / 1e9
