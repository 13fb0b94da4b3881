"""Attention, masks and torch on a core, on cases small enough to count."""

from __future__ import annotations

import numpy as np
import pytest
from tests.accel_models.host.hosts import host

from xmsim.accel_models.host import cpu_attention, cpu_masks, torch_cpu
from xmsim.accel_models.host.constants import MissingConstantError
from xmsim.accel_models.host.cpu_linear import LinearShape
from xmsim.accel_models.host.host_run import workload_of
from xmsim.workloads.attention import AttentionWorkload


def test_lists_are_cut_into_pieces_of_64_and_filled_up_to_16() -> None:
    steps = cpu_attention.sparse_steps(np.array([0, 1, 16, 17, 64, 130]), 256)
    assert steps.attend == {64: 3.0, 16: 3.0, 32: 1.0}  # 130 is 64 + 64 + 2
    assert (steps.lists, steps.words) == (6, 24)


def test_counts_are_those_of_each_row_and_range() -> None:
    keep = np.zeros((1, 2, 300), bool)
    keep[0, 0, [0, 255, 256]] = True
    words = AttentionWorkload.from_keep(keep, head_dim=64, causal=False).words
    assert cpu_attention.range_counts(words, 256).tolist() == [[[2, 1], [0, 0]]]


def test_a_prefill_is_its_steps_its_lists_and_what_they_wait_for() -> None:
    workload = workload_of("prefill", {"tokens": 256, "heads": 4, "kv_heads": 1, "head_dim": 64, "kept": 64})
    found = cpu_attention.prefill(host(), workload, element="bfloat16", threads=1)
    rows = 4 * 256
    filled = 4 * sum(-(-n // 16) * 16 for n in range(1, 257))  # keys, with the last piece filled up
    assert found.parts_ns["products"] == filled  # a nanosecond a key
    tiles = sum(range(16, 257, 16))  # keys that the sixteen queries of a tile see
    assert found.parts_ns["memory"] == 2 * tiles * 128 / 64
    lists_over = sum(-(-n // 64) - 1 for n in range(1, 257)) * 4  # steps of a row after its first, each with a list of four words in it
    assert found.parts_ns["masks"] == rows * 4 * 8 / 64 * 16 - lists_over * 8
    assert found.ns == pytest.approx(sum(found.parts_ns.values()))


def test_fewer_kept_keys_never_take_longer() -> None:
    shape = {"tokens": 512, "heads": 4, "kv_heads": 1, "head_dim": 128}
    times = [
        cpu_attention.prefill(host(), workload_of("prefill", shape | {"kept": kept}), element="float32", threads=2).ns
        for kept in (2, 8, 32, 64)
    ]
    assert times == sorted(times)


def test_heads_that_share_a_list_read_its_keys_once() -> None:
    workload = workload_of("decode", {"tokens": 4096, "heads": 8, "kv_heads": 2, "head_dim": 128, "kv_density": 0.125})
    kept = int(np.bitwise_count(workload.words[0]).sum())
    assert kept == 512
    found = cpu_attention.decode(host(), workload, element="bfloat16", threads=1)
    assert found.parts_ns["memory"] == 2 * 2 * kept * 4 * 4.0  # KV heads, keys and values, lines a row, ns a line
    assert found.parts_ns["products"] == 8 * kept * 2.0


def test_dense_decoding_reads_everything_and_lists_nothing() -> None:
    workload = workload_of("decode", {"tokens": 4096, "heads": 8, "kv_heads": 2, "head_dim": 128})
    found = cpu_attention.decode(host(), workload, element="bfloat16", threads=1)
    assert (found.parts_ns["masks"], found.parts_ns["memory"]) == (0, 2 * 2 * 4096 * 4 * 4.0)


def test_prediction_reads_the_codes_and_writes_the_scores() -> None:
    workload = workload_of("prediction", {"tokens": 4096, "heads": 8, "kv_heads": 2, "head_dim": 128})
    found = cpu_attention.predict_xm(host(), workload, bits=4, threads=1)
    codes, scores = 2 * 4096 * 64 / 64, 2 * 8 * 4096 * 4 / 64
    assert found.parts_ns["memory"] == (codes + 2 * scores) * 2.0
    assert found.parts_ns["products"] + found.parts_ns["masks"] == 2 * 64 * 400


def test_one_thread_decides_a_list_again() -> None:
    workload = workload_of("prediction", {"tokens": 4096, "heads": 8, "kv_heads": 2, "head_dim": 128})
    once, again, both, ranked = (
        cpu_attention.predict_xm(host(), workload, bits=4, threads=2, classified_again=classified, ranked_again=ranked).ns
        for classified, ranked in ((0, 0), (1, 0), (2, 0), (0, 1))
    )
    assert again - once == pytest.approx(4096 * (100 + 4096 / 64)) and both == again
    assert ranked - once == pytest.approx(4096 * 20)


def test_a_decoding_step_finds_its_code_in_memory() -> None:
    workload = workload_of("decode", {"tokens": 4096, "heads": 8, "kv_heads": 2, "head_dim": 128})
    assert cpu_attention.decode(host(), workload, element="bfloat16", threads=1).parts_ns["call"] == 5000


def test_torch_decoding_lies_on_the_line_through_two_caches() -> None:
    workload = workload_of("decode", {"tokens": 16384, "heads": 8, "kv_heads": 2, "head_dim": 128})
    found = torch_cpu.decode(host(), workload, element="bfloat16", threads=1)
    assert found.parts_ns["products"] == pytest.approx(2 * (16384 * 10.0 + 8192))


def test_masks_and_torch_grow_with_the_pairs() -> None:
    workload = workload_of("mask", {"tokens": 128, "heads": 2, "kv_heads": 2, "head_dim": 96})
    pairs = 2 * 128 * 129 // 2
    assert cpu_masks.mask(host(), workload, rule="xm", bits=4, threads=2).ns == pytest.approx(pairs * (3 + 512 / 128) / 2)
    assert torch_cpu.prefill(host(), workload, element="float32", threads=1).parts_ns["products"] == pytest.approx(pairs * 1.5)
    with pytest.raises(MissingConstantError, match="rule topk"):
        cpu_masks.mask(host(), workload, rule="topk", bits=4, threads=2)


def test_torch_products_lie_between_the_tokens_that_were_measured() -> None:
    found = torch_cpu.linear(host(), LinearShape(64, 64, 12, 0), element="bfloat16", threads=1)
    assert found.parts_ns["products"] == pytest.approx(4096 * 1.2 + 1000)
    with pytest.raises(MissingConstantError, match="up to 128 tokens"):
        torch_cpu.linear(host(), LinearShape(64, 64, 129, 0), element="bfloat16", threads=1)


@pytest.mark.parametrize("density", [0.05, 0.114, 0.2, 1.0])
def test_a_decode_workload_has_the_density_of_its_run(density: float) -> None:
    workload = workload_of("decode", {"tokens": 32768, "heads": 4, "kv_heads": 1, "head_dim": 64, "kv_density": density})
    assert workload.densities().kv_density == pytest.approx(density, abs=0.002)


def test_a_prefill_workload_keeps_so_many_of_every_block() -> None:
    workload = workload_of("prefill", {"tokens": 256, "heads": 2, "kv_heads": 1, "head_dim": 64, "kept": 8})
    counts = workload.block_counts(64)
    assert (counts[:, 255, :] == 8).all() and counts[:, 0, 1:].max() == 0
    assert not np.array_equal(workload.words[0, 200], workload.words[0, 201])  # rows differ, as those of a real mask
