"""Every CUDA source compiles for both GPUs, without spills and within the registers that its occupancy needs."""

import re
import subprocess
from pathlib import Path

import pytest

from xmsim.reference.kernels.cuda import build

SOURCES = sorted(build.SOURCES.glob("*.cu"))
MOST_REGISTERS = {  # of a thread; a kernel that is new here needs a limit
    "copy_words": 32,
    "list_tiles": 40,
    "attend_kept": 168,  # three blocks of 128 threads on a multiprocessor
    "merge_shares": 40,
    "append_token": 64,
    "score_keys": 128,  # two blocks of 256 threads on a multiprocessor
    "weigh_blocks": 64,
    "select_keys": 128,
    "prefill_hopper": 128,  # 512 threads on a multiprocessor, which share registers out anew
    "pack_unions": 128,
    "prefill_shared": 168,  # 384 threads on a multiprocessor, which share registers out anew
    "prefill_tiles": 240,  # two blocks of 128 threads on a multiprocessor
    "dense_rows": 40,
    "teal_columns": 64,  # two blocks of 512 threads on a multiprocessor
    "spdp_columns": 128,  # one block of 512 threads, with 32 reads of a lane under way
    "macko_rows": 64,  # two blocks of 512 threads
    "tca_bme_rows": 128,  # two blocks of 256 threads, whose shared memory lets no third in
    "unpack_groups": 40,
    "make_codes": 32,
    "keep_blocksILi256E": 255,
    "PackedSlots": 168,  # on sm_90a 128, for four blocks of 128 threads, which its launch bounds enforce; on sm_80 three blocks
    "keep_blocks": 255,  # two blocks, whose slots of float32 scores let no third in
    "note_rowsILi256E": 255,
    "note_rows": 168,  # three blocks
    "keep_aboveILi256E": 255,
    "keep_aboveILi128ELb1E": 255,
    "keep_above": 168,
    "keep_tiles": 128,
    "keep_sharedILi256E": 255,
    "keep_shared": 168,  # three blocks
    "keep_exact": 168,
}
KERNEL = re.compile(
    r"Function properties for (\S+)\n\s*(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads\n.*?Used (\d+) registers"
)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
@pytest.mark.parametrize("target", build.TARGETS)
def test_kernels_compile_without_spills_and_within_their_registers(source, target, tmp_path):
    nvcc = build.find_nvcc()
    if nvcc is None:
        pytest.skip("no nvcc")
    report = build.compile_object(nvcc, source, tmp_path / "object.o", [target]).report
    for loss in ("wgmma.mma_async instructions are serialized", "is injected in around line", "'setmaxnreg' ignored"):
        assert loss not in report
    for mangled, *counts, registers in KERNEL.findall(report):
        name = next((name for name in MOST_REGISTERS if name in mangled), None)
        assert name, f"{mangled}: give it a limit in MOST_REGISTERS"
        assert counts == ["0", "0", "0"], f"{name}: stack and spills {counts}"
        assert int(registers) <= MOST_REGISTERS[name], f"{name}: {registers} registers"


@pytest.mark.parametrize("source", ["attention_prefill_hopper.cu", "attention_prefill_shared.cu"])
def test_prefill_on_hopper_compiles_to_products_of_warpgroups(source, tmp_path):
    nvcc = build.find_nvcc()
    if nvcc is None:
        pytest.skip("no nvcc")
    ptx = tmp_path / "kernel.ptx"
    options = ["-std=c++17", "-O3", "-arch=compute_90a", "-ptx", build.SOURCES / source, "-o", ptx]
    subprocess.run([nvcc, *options], check=True, capture_output=True)
    text = ptx.read_text()
    for shape in ("m64n64k16", "m64n128k16"):  # scores and 64 channels, 128 channels
        for element in ("bf16", "f16"):
            assert f"wgmma.mma_async.sync.aligned.{shape}.f32.{element}.{element}" in text
    assert "fence.proxy.async" in text and "cp.async.cg" in text
    assert "ld.local" not in text and "st.local" not in text and "mma.sync" not in text.replace("wgmma", "")


EARLY = [source for source in SOURCES if "launch_early(" in source.read_text(encoding="utf-8")]


@pytest.mark.parametrize("source", EARLY, ids=lambda source: source.stem)
def test_kernels_that_start_early_only_prefetch_before_they_wait(source, tmp_path):
    nvcc = build.find_nvcc()
    if nvcc is None:
        pytest.skip("no nvcc")
    ptx = tmp_path / "kernel.ptx"
    options = ["-std=c++17", "-O3", "-arch=compute_90a", "-ptx", source, "-o", ptx]
    subprocess.run([nvcc, *options], check=True, capture_output=True)
    kernels = ptx.read_text().split(".entry ")[1:]
    assert kernels
    for kernel in kernels:
        before, waits, _ = kernel.partition("griddepcontrol.wait")
        assert waits and "griddepcontrol.launch_dependents" in before
        assert not re.findall(r"\b(?:ld\.global|st\.global|cp\.async|atom|red)\b", before)


ROOT = Path(__file__).resolve().parents[4]
ONLY_ON_A_GPU = (ROOT / "benchmarks" / "gpu_rates.cu", Path(__file__).with_name("simt_probe.cu"))


@pytest.mark.parametrize("source", ONLY_ON_A_GPU, ids=lambda source: source.stem)
def test_what_runs_on_a_gpu_alone_compiles(source, tmp_path):
    nvcc = build.find_nvcc()
    if nvcc is None:
        pytest.skip("no nvcc")
    assert build.compile_object(nvcc, source, tmp_path / "object.o").path.exists()


# of sm_90a, as disassemblers name them: the wait for the kernel before, and what reads or writes global memory
ACQBULK, MEMORY = 0x82E, {0x381: "LDG", 0x981: "LDG", 0x980: "LD", 0xFAE: "LDGSTS", 0x386: "STG", 0x986: "STG", 0x985: "ST"}


@pytest.mark.parametrize("source", EARLY, ids=lambda source: source.stem)
def test_a_kernel_that_starts_early_reads_and_writes_nothing_before_it_has_waited(source, monkeypatch):
    """Reads of what no thread writes may be moved by a compiler, and what the kernel before writes is no such thing."""
    nvcc = build.find_nvcc()
    if nvcc is None:
        pytest.skip("no nvcc")
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import cuda_loops

    waiting = [operations for operations in cuda_loops.compiled_operations(nvcc, source).values() if ACQBULK in operations]
    assert waiting
    for operations in waiting:
        assert not [MEMORY[one] for one in operations[: operations.index(ACQBULK)] if one in MEMORY]
        assert any(one in MEMORY for one in operations[operations.index(ACQBULK) :])  # the codes are those of this compiler


def test_the_emulator_is_built_with_the_options_of_the_environment(tmp_path, monkeypatch):
    if build.find_cxx() is None:
        pytest.skip("no C++ compiler")
    monkeypatch.setenv("CXXFLAGS", "-include 'no such file.h'")
    with pytest.raises(build.BuildError, match=r"no such file\.h"):
        build.build_emulator(tmp_path, [build.SOURCES / "device.cu"])


def test_without_nvcc_or_a_compiler_the_way_out_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "find_nvcc", lambda: None)
    monkeypatch.setattr(build, "find_cxx", lambda: None)
    with pytest.raises(build.BuildError, match="no nvcc: install the CUDA toolkit and put nvcc on PATH"):
        build.build_library(tmp_path)
    with pytest.raises(build.BuildError, match=r"no C\+\+ compiler: install g\+\+ or clang"):
        build.build_emulator(tmp_path)
    assert not list(tmp_path.iterdir())
