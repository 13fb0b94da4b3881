"""What this host is: the hardware and software that a measured number belongs to. Standard library only, torch if it is there."""

from __future__ import annotations

import ctypes
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from xmsim.workloads.measurement import Host

KERNEL_FEATURES = (
    "avx2",
    "avx512f",
    "avx512_bf16",
    "avx512_vnni",
    "avx512_vbmi2",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
)  # as /proc/cpuinfo spells them
AMX_GRANTED = "amx_granted"  # not a CPU flag: Linux lets this process use the tiles
_PACKAGES = ("numpy", "numba", "torch", "transformers", "safetensors", "tokenizers")


def describe_host() -> Host:
    """The host this process runs on; what cannot be found out is empty or 0."""
    return Host(
        cpu=_cpu_name(),
        cores=available_cores(),
        cpu_features=cpu_features(),
        memory_bytes=_memory_bytes(),
        gpu=gpu_name(),
        system=f"{platform.system()} {_kernel()} {platform.machine()}",
        python=platform.python_version(),
        packages={name: number for name in _PACKAGES if (number := installed_version(name))},
    )


def available_cores() -> int:
    """Logical processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load_warning() -> str:
    """A sentence where more wants to run than there are cores, so that times come out too long; empty: the host is quiet, or cannot say."""
    try:
        load = os.getloadavg()[0]  # of the last minute, this process's own threads with it
    except (AttributeError, OSError):  # Windows; a system that does not know
        return ""
    cores = os.cpu_count() or 1
    if load <= 1.5 * cores:
        return ""
    return f"this host is busy (load {load:.1f} on {cores} cores): times measured now are too long; measure again when it is quiet"


def cpu_features() -> tuple[str, ...]:
    """Those of KERNEL_FEATURES that the processor has, and AMX_GRANTED if its tiles may be used; empty where there is no /proc/cpuinfo."""
    flags = _cpuinfo("flags").split()
    found = tuple(name for name in KERNEL_FEATURES if name in flags)
    return (*found, AMX_GRANTED) if "amx_tile" in found and _amx_granted() else found


def gpu_name() -> str:
    """Name of the first CUDA device as torch sees it; empty when there is none, or no torch."""
    try:
        import torch
    except (ImportError, OSError):  # OSError: a torch whose own libraries are missing
        return ""
    return str(torch.cuda.get_device_name(0)) if torch.cuda.is_available() else ""


def installed_version(package: str) -> str:
    """Version of an installed package; empty when it is missing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _amx_granted() -> bool:
    """Ask Linux for the tile registers, as every user of AMX must; asking does no harm.

    Source: https://docs.kernel.org/arch/x86/xstate.html
    """
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return False
    return ctypes.CDLL(None).syscall(arch_prctl, request_permission, tile_data) == 0


def _cpu_name() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _kernel() -> str:
    """The two numbers of the release that matter; the rest names builds and hosts."""
    return ".".join(platform.release().split(".")[:2])


def _cpuinfo(key: str) -> str:
    """The first value of a key in /proc/cpuinfo; empty when it is not there."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key), "")


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on every system
        return 0
