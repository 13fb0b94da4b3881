"""The page of the CUDA kernels: its predictions are those of the script, whose instruction counts are those of the compiled loops."""

import sys
from pathlib import Path

import pytest

from xmsim.reference.kernels.cuda import build

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def predictions(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import make_cuda_predictions

    yield make_cuda_predictions
    for name in ("make_cuda_predictions", "cuda_loops"):
        sys.modules.pop(name, None)


def test_the_table_of_predictions_is_that_of_the_script(predictions):
    assert predictions.table() in (ROOT / "docs" / "kernels" / "cuda.md").read_text(encoding="utf-8")


def test_a_prediction_is_no_faster_than_any_of_its_parts(predictions):
    for row in predictions.predictions():
        assert row.seconds >= max(row.memory, row.issue, row.other, row.extra) > 0


def test_the_counted_loops_are_those_that_nvcc_makes(predictions):
    import cuda_loops

    nvcc = build.find_nvcc()
    if nvcc is None:
        pytest.skip("no nvcc")
    found = {source: cuda_loops.compiled_loops(nvcc, build.SOURCES / source) for source in {loop.source for loop in predictions.LOOPS}}
    for loop in predictions.LOOPS:
        (lengths,) = [lengths for kernel, lengths in found[loop.source].items() if loop.kernel in kernel]
        assert any(length == pytest.approx(loop.instructions, rel=0.15) for length in lengths), (loop, lengths)


def test_the_wgmma_prefill_turns_scores_into_probabilities_while_values_are_multiplied(predictions):
    import cuda_loops

    nvcc = build.find_nvcc()
    if nvcc is None:
        pytest.skip("no nvcc")
    exponential, warpgroup, is_wait, may_run = 0x308, 0x9C5, 1 << 47, 1 << 72  # by the bits of sm_90's instructions
    kernels = cuda_loops.code_of(cuda_loops.compiled(nvcc, build.SOURCES / "attention_prefill_hopper.cu", "90a"))
    assert len(kernels) == 4
    for code in kernels.values():
        words = [int.from_bytes(code[at : at + 16], "little") for at in range(0, len(code), 16)]
        waits = [i for i, word in enumerate(words) if word & 0xFFF == warpgroup and word & is_wait]
        (scores_there,) = [i for i in waits if words[i] & may_run]  # one group of products, that of the values, may go on
        all_there = min(i for i in waits if i > scores_there)
        meanwhile = [word & 0xFFF for word in words[scores_there:all_there]]
        assert meanwhile.count(exponential) == 2 + 32  # for two rows of a lane, and for its 16 scores of each


def test_the_page_says_what_prefill_gives_without_drift(predictions):
    page = " ".join((ROOT / "docs" / "kernels" / "cuda.md").read_text(encoding="utf-8").split())
    in_step, apart = predictions.prefill_in_step()
    assert f"{in_step:.0f} TFLOP/s if they stay in step, {apart:.0f} if nothing overlapped at all" in page


def test_the_page_says_what_lists_of_live_tiles_cost(predictions):
    page = " ".join((ROOT / "docs" / "kernels" / "cuda.md").read_text(encoding="utf-8").split())
    given, made = predictions.prefill_rates(0.2)
    assert f"{1e3 * predictions.listing_seconds(32768):.1f} ms beside" in page
    assert f"{made:.0f} TFLOP/s with them, {given:.0f} with lists that are given" in page


def test_the_page_of_masks_says_what_salo_s_costs(predictions):
    page = (ROOT / "docs" / "kernels" / "cuda_masks.md").read_text(encoding="utf-8")
    (row,) = (row for row in predictions.mask_predictions(32768) if row.kernel == "SALO's mask")
    every_slot = predictions.ISSUE_SHARE * row.issue

    def cell(seconds: float) -> str:
        return f"{1e3 * seconds:.1f} ms, {100 * seconds / row.baseline:.0f} %"

    assert f"| SALO | {predictions.salo_slots() * 32 / 64**2:.1f} |" in page
    assert f"| SALO | {cell(every_slot)} | {cell(row.seconds)} |" in page


def test_a_backward_branch_is_read_from_its_instruction():
    import struct

    sys.path.insert(0, str(ROOT / "docs"))
    try:
        import cuda_loops
    finally:
        sys.path.remove(str(ROOT / "docs"))
    distance = -5 * 16 // 4  # to four instructions before the branch, in units of 4 bytes
    word = 0x947 | (distance & 0xFF) << 16 | ((distance >> 8) & (1 << 48) - 1) << 34
    itself = 0x947 | (-4 & 0xFF) << 16 | ((1 << 48) - 1) << 34
    code = bytes(16 * 4) + word.to_bytes(16, "little") + itself.to_bytes(16, "little")
    names = b"\0.text.kernel\0"
    header = bytearray(64)
    struct.pack_into("<Q", header, 0x28, 64 + len(code) + len(names))
    struct.pack_into("<HH", header, 0x3C, 2, 1)
    sections = [(1, 1, 0, 0, 64, len(code), 0, 0, 0, 0), (0, 3, 0, 0, 64 + len(code), len(names), 0, 0, 0, 0)]
    cubin = bytes(header) + code + names + b"".join(struct.pack("<IIQQQQIIQQ", *section) for section in sections)
    assert cuda_loops.loops_of(cubin) == {"kernel": [5]}
