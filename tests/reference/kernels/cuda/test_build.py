"""Every CUDA source compiles for both GPUs, without spills and within the registers that its occupancy needs."""

import re

import pytest

from xmsim.reference.kernels.cuda import build

SOURCES = sorted(build.SOURCES.glob("*.cu"))
MOST_REGISTERS = {  # of a thread; a kernel that is new here needs a limit
    "copy_words": 32,
    "list_tiles": 40,
    "decode_blocks": 255,
    "merge_splits": 32,
    "score_keys": 64,
    "total_rows": 40,
    "weigh_blocks": 40,
    "total_lists": 32,
    "select_keys": 64,
    "prefill_tiles": 240,  # two blocks of 128 threads on a multiprocessor
    "list_active": 48,
    "sum_parts": 32,
    "dense_rows": 40,
    "teal_columns": 40,
    "spdp_columns": 40,
    "macko_rows": 40,
    "tca_bme_rows": 64,
    "unpack_groups": 40,
    "make_codes": 32,
    "keep_blocksILi64E": 128,  # four blocks of 128 threads on a multiprocessor
    "keep_blocksILi128E": 128,
    "keep_blocksILi256E": 255,
    "sum_rows": 128,
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
    for mangled, *counts, registers in KERNEL.findall(report):
        name = next((name for name in MOST_REGISTERS if name in mangled), None)
        assert name, f"{mangled}: give it a limit in MOST_REGISTERS"
        assert counts == ["0", "0", "0"], f"{name}: stack and spills {counts}"
        assert int(registers) <= MOST_REGISTERS[name], f"{name}: {registers} registers"


def test_without_nvcc_or_a_compiler_the_way_out_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "find_nvcc", lambda: None)
    monkeypatch.setattr(build, "find_cxx", lambda: None)
    with pytest.raises(build.BuildError, match="no nvcc: install the CUDA toolkit and put nvcc on PATH"):
        build.build_library(tmp_path)
    with pytest.raises(build.BuildError, match=r"no C\+\+ compiler: install g\+\+ or clang"):
        build.build_emulator(tmp_path)
    assert not list(tmp_path.iterdir())
