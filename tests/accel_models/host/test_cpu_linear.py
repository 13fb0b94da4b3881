"""Linear layers on a core, on cases small enough to count."""

from __future__ import annotations

import numpy as np
import pytest
from tests.accel_models.host.hosts import host

from xmsim.accel_models.host.constants import MissingConstantError, load_host
from xmsim.accel_models.host.cpu_linear import LinearShape, group_size, linear, weight_bytes
from xmsim.accel_models.host.prediction import by_turns_ns, overlapped_ns
from xmsim.configs.errors import ConfigError
from xmsim.workloads.linear import LinearWorkload

SQUARE = LinearShape(in_features=1024, out_features=1024, tokens=1, nonzeros=1 << 19)
ROWS = 1024 * 1024 // 32  # of 64 bytes, bfloat16
A_TOKEN_NS = 1024 / 64 * 8.0 + 1024 / 32 * 3.0  # its inputs made ready for a group of one, its outputs


def test_a_dense_layer_takes_its_bytes_where_memory_is_slower_than_products() -> None:
    found = linear(host(), SQUARE, element="bfloat16", stored="dense", threads=1)
    assert found.bound_by == "memory"
    assert found.ns == pytest.approx(1000 + ROWS * 2.0 + A_TOKEN_NS, rel=1e-3)  # a call, and a line of 2 ns a row


def test_a_dense_layer_takes_its_products_where_tokens_are_many() -> None:
    many = LinearShape(1024, 1024, 12, 1 << 20)
    found = linear(host(), many, element="bfloat16", stored="dense", threads=1)
    assert found.bound_by == "products"
    assert found.parts_ns["inputs"] == 12 * 1024 / 64 * 64.0 and found.parts_ns["outputs"] == 12 * 1024 / 32 * 3.0
    assert found.ns == pytest.approx(1000 + ROWS * 12 * 0.5 + found.parts_ns["inputs"] + found.parts_ns["outputs"], rel=1e-2)


def test_half_the_weights_at_a_bit_each_are_read_in_nine_sixteenths_of_the_time() -> None:
    slow = host(line_ns=100.0)
    dense, sparse = (
        linear(slow, SQUARE, element="bfloat16", stored=stored, threads=1).parts_ns["memory"] for stored in ("dense", "sparse")
    )
    assert sparse / dense == pytest.approx(0.5 + 1 / 16)
    assert weight_bytes(SQUARE, "int8", "sparse") == (1 << 19) + (1 << 17)


def test_memory_and_products_add_up_where_nothing_hides() -> None:
    found = linear(host(hidden=False), SQUARE, element="bfloat16", stored="dense", threads=1)
    assert found.ns == pytest.approx(1000 + ROWS * (2.0 + 0.5) + A_TOKEN_NS, rel=1e-3)


def test_more_groups_than_one_expand_a_row_once_and_read_it_from_a_cache() -> None:
    tokens = LinearShape(1024, 1024, 24, 1 << 19)
    assert group_size(24) == 12
    found = linear(host(), tokens, element="bfloat16", stored="sparse", threads=1)
    assert found.parts_ns["products"] == ROWS * (1.0 + 2 * 12 * 0.5)
    assert found.parts_ns["memory"] == pytest.approx(ROWS * 0.5625 * 4.0)  # lines of 4 ns, in chunks
    assert found.ns == pytest.approx(sum(found.parts_ns.values()))  # which nothing hides


def test_a_group_of_tokens_is_made_ready_by_one_thread() -> None:
    many = LinearShape(1024, 1024, 16, 1 << 19)
    one, two = (linear(host(), many, element="int8", stored="sparse", threads=threads).parts_ns for threads in (1, 2))
    assert one["inputs"] == 16 * 1024 / 64 * 64.0 == 2 * two["inputs"]  # two groups of eight
    single = LinearShape(1024, 1024, 8, 1 << 19)
    assert linear(host(), single, element="int8", stored="sparse", threads=2).parts_ns["inputs"] == one["inputs"] / 2


def test_a_call_costs_more_where_its_layer_leaves_no_cache_to_its_code() -> None:
    small, large = (
        linear(host(), LinearShape(4096, outputs, 1, 0), element="bfloat16", stored="dense", threads=1).parts_ns["call"]
        for outputs in (4096, 4128)
    )
    assert (small, large) == (1000, 5000)  # a cache of 32 MiB holds the first


@pytest.mark.parametrize(("tokens", "group"), [(1, 1), (5, 6), (9, 12), (13, 8), (16, 8), (24, 12), (64, 8), (96, 12)])
def test_groups_are_those_of_the_kernel(tokens: int, group: int) -> None:
    assert group_size(tokens) == group


def test_two_threads_share_the_blocks_and_pay_two_forks() -> None:
    one, two = (linear(host(), SQUARE, element="bfloat16", stored="dense", threads=threads) for threads in (1, 2))
    assert two.parts_ns["memory"] == one.parts_ns["memory"] / 2
    own = one.parts_ns["call"] + one.parts_ns["inputs"]  # one token is made ready by one thread
    assert two.ns - own == pytest.approx((one.ns - own) / 2 + 2 * 4001)


def test_a_workload_says_its_shape() -> None:
    keep = np.zeros((64, 128), bool)
    keep[:, ::4] = True
    assert LinearShape.of(LinearWorkload.from_keep(keep, tokens=3)) == LinearShape(128, 64, 3, 64 * 32)


def test_an_unknown_step_is_named() -> None:
    with pytest.raises(MissingConstantError, match=r"a host: no constant row \(element float16, .*calibrate again"):
        host().ns("row", element="float16", threads=1)


def test_the_knee_lies_between_the_longer_and_the_sum() -> None:
    assert overlapped_ns(3, 4, 1) == 7 and overlapped_ns(3, 4, 2) == 5 and overlapped_ns(3, 4, 60) == pytest.approx(4)
    assert overlapped_ns(0, 0, 2) == 0


def test_what_hides_is_told_where_memory_and_products_take_alike() -> None:
    noisy = host()
    for group, together in ((1, 2.4), (8, 4.9)):  # products of 0.5 and 4 ns, beside 2 ns of memory: their ends say nothing of the knee
        of = {"element": "bfloat16", "stored": "whole", "group": group, "words": "many", "threads": 1, "from": "memory"}
        noisy.steps_ns["row", tuple(sorted(of.items()))] = together
    assert noisy.sharpness(1) == host().sharpness(1)


def test_threads_that_meet_at_memory_now_and_then_wait_for_a_part_of_it() -> None:
    assert by_turns_ns(2.0, 4.0, 0.0) == 4.0 and by_turns_ns(2.0, 2.0, 7.0) == pytest.approx(2.0)
    found = by_turns_ns(2.0, 4.0, 3.0)
    assert found == 3.0 == 2.0 + (4.0 - 2.0) * found / (found + 3.0)


def test_constants_drift_with_the_minute() -> None:
    calm = host()
    busy = calm.drifted(core=2.0, memory_line_ns=6.0, threads=1)
    of = {"element": "bfloat16", "stored": "whole", "group": 4, "words": "few", "threads": 1}
    assert busy.ns("read", **{"from": "memory", "threads": 1}) == 6.0
    assert busy.ns("gather", **{"from": "memory", "row_bytes": 256, "threads": 1}) == 12.0
    assert busy.ns("row", **of, **{"from": "l1"}) == 2 * calm.ns("row", **of, **{"from": "l1"})


def test_of_a_slower_memory_only_what_products_do_not_hide_takes_longer() -> None:
    calm, many = host(), LinearShape(1024, 1024, 16, 1 << 20)
    busy = calm.drifted(core=1.0, memory_line_ns=2 * calm.ns("read", **{"from": "memory", "threads": 1}), threads=1)
    before, now = (linear(one, many, element="bfloat16", stored="dense", threads=1).parts_ns for one in (calm, busy))
    assert now["memory"] == pytest.approx(2 * before["memory"]) and before["memory"] > 0
    assert now["products"] == before["products"]
    assert busy.sharpness(1) == calm.sharpness(1)


@pytest.mark.parametrize("tokens", [1, 16])
def test_a_stated_host_of_many_cores_gains_what_the_bytes_allow(tokens: int) -> None:
    stated = load_host("sapphire_rapids_32")
    assert not stated.validated
    shape = LinearShape(4096, 14336, tokens, 4096 * 14336 // 2)
    dense, sparse = (linear(stated, shape, element="bfloat16", stored=stored, threads=32) for stored in ("dense", "sparse"))
    assert dense.bound_by == "memory"
    assert 1.4 < dense.ns / sparse.ns <= 1.78  # 1.78 is the ratio of the bytes


def test_amx_tiles_beat_registers_once_tokens_are_many() -> None:
    stated = load_host("sapphire_rapids_32")
    shape = LinearShape(4096, 4096, 32, 4096 * 4096)
    without = type(stated)(stated.name, False, stated.cache_bytes, {k: v for k, v in stated.steps_ns.items() if k[0] != "tiles"}, 2.3)
    tiles, registers = (linear(one, shape, element="bfloat16", stored="dense", threads=1) for one in (stated, without))
    assert registers.parts_ns["products"] == pytest.approx(16 * tiles.parts_ns["products"], rel=1e-3)  # 512 products a cycle against 32


def test_an_unknown_host_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="sapphire_rapids_32"):
        load_host("sapphire_rapids")
