"""How long the loops of compiled CUDA kernels are: instructions from the target of each backward branch to the branch, from a cubin alone.

No disassembler is needed: an instruction of these GPUs has 16 bytes, its operation in the lowest 12 bits; a relative branch (0x947) has its
distance in units of 4 bytes, counted from the next instruction, in bits 16 to 23 and, signed, 34 to 81.
"""

from __future__ import annotations

import struct
import subprocess
import tempfile
from pathlib import Path

_BRANCH = 0x947
_INSTRUCTION_BYTES = 16
_SECTION = "<IIQQQQIIQQ"  # of ELF: name, type, flags, address, offset, size, link, info, alignment, entry size


def compiled_loops(nvcc: Path, source: Path, machine: str = "90a") -> dict[str, list[int]]:
    """{mangled kernel: lengths of its loops, in the order of their ends} of a CUDA source."""
    return loops_of(compiled(nvcc, source, machine))


def compiled_operations(nvcc: Path, source: Path, machine: str = "90a") -> dict[str, list[int]]:
    """{mangled kernel: its instructions' operations, in their order} of a CUDA source."""
    return {
        name: [int.from_bytes(code[at : at + 2], "little") & 0xFFF for at in range(0, len(code), _INSTRUCTION_BYTES)]
        for name, code in code_of(compiled(nvcc, source, machine)).items()
    }


def compiled(nvcc: Path, source: Path, machine: str) -> bytes:
    """A cubin."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernels.cubin"
        target = f"-gencode=arch=compute_{machine},code=sm_{machine}"
        subprocess.run([nvcc, "-std=c++17", "-O3", target, "-cubin", source, "-o", cubin], check=True, capture_output=True)
        return cubin.read_bytes()


def loops_of(cubin: bytes) -> dict[str, list[int]]:
    """{mangled kernel: lengths of its loops, in the order of their ends} of a cubin."""
    return {name: _backward(code) for name, code in code_of(cubin).items()}


def code_of(cubin: bytes) -> dict[str, bytes]:
    """{mangled kernel: its instructions} of a cubin."""
    (start,), (count, names_at) = struct.unpack_from("<Q", cubin, 0x28), struct.unpack_from("<HH", cubin, 0x3C)
    sections = [struct.unpack_from(_SECTION, cubin, start + 64 * i) for i in range(count)]
    found = {}
    for name_at, _, _, _, offset, size, *_ in sections:
        first = sections[names_at][4] + name_at
        name = cubin[first : cubin.index(b"\0", first)].decode()
        if name.startswith(".text."):
            found[name.removeprefix(".text.")] = cubin[offset : offset + size]
    return found


def _backward(code: bytes) -> list[int]:
    lengths = []
    for at in range(0, len(code), _INSTRUCTION_BYTES):
        word = int.from_bytes(code[at : at + _INSTRUCTION_BYTES], "little")
        if word & 0xFFF != _BRANCH:
            continue
        high = word >> 34 & (1 << 48) - 1
        distance = (high - (1 << 48) if high >> 47 else high) << 8 | word >> 16 & 0xFF
        instructions = distance * 4 // _INSTRUCTION_BYTES
        if instructions < -1:  # -1 is the branch to itself that ends a kernel
            lengths.append(-instructions)
    return lengths
