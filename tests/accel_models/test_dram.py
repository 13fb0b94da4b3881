"""Machines on a DRAM with banks: the laws of every machine hold, and what the DRAM does is in the result."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmsim.accel_models import load_accelerator, shipped_accelerators
from xmsim.accel_models.accelerator import Accelerator, DramConfig
from xmsim.accel_models.dram_layout import (
    dram_layout,
    key_address,
    key_value_address,
    low_bit_key_address,
    output_address,
    query_address,
    value_address,
)
from xmsim.configs.errors import ConfigError
from xmsim.configs.shipped import find_config
from xmsim.configs.technology_tables import technology_tables
from xmsim.sim.dram_preset import load_preset
from xmsim.workloads.attention import AttentionWorkload


def machine_with(name: str, **dram: object) -> Accelerator:
    machine = load_accelerator(name)
    return type(machine)(machine.name, machine.config.model_copy(update={"dram": DramConfig(**dram)}))


def causal_workload(seed: int = 0, *, heads: int = 4, kv_heads: int = 2, tokens: int = 130, density: float = 0.3) -> AttentionWorkload:
    keep = np.tril(np.random.default_rng(seed).random((heads, tokens, tokens)) < density)
    return AttentionWorkload.from_keep(keep, head_dim=64, kv_heads=kv_heads)


@pytest.mark.parametrize("name", shipped_accelerators())
@settings(max_examples=6, deadline=None)
@given(
    seed=st.integers(0, 99),
    tokens=st.integers(1, 150),
    density=st.sampled_from([0.0, 0.1, 1.0]),
    kind=st.sampled_from(["ddr4_3200", "lpddr5_6400", "hbm3_6400"]),
)
def test_the_laws_of_a_run_hold_and_heads_add_up(name, seed, tokens, density, kind):
    machine, workload = machine_with(name, kind=kind, latency_ns=20), causal_workload(seed, tokens=tokens, density=density)
    result = machine.simulate(workload)
    assert result.roofline_cycles <= result.cycles <= result.serial_cycles
    assert result.traffic == load_accelerator(name).simulate(workload).traffic
    actions, traffic = result.actions["dram"], result.traffic["dram"]
    assert actions["activate"] == actions["row_miss"] + actions["row_conflict"] > 0
    for verb in ("read", "write"):
        assert actions[f"{verb}_bits"] >= 8 * traffic[f"{verb}_bytes"]
        assert actions[f"{verb}_bits"] % (8 * machine.dram_channel().banks.burst_bytes) == 0
    for action, count in actions.items():
        assert sum(head.actions["dram"][action] for head in result.heads) == count


@pytest.mark.parametrize("name", ["dynax_s", "sanger", "salo_v2", "dense"])
def test_both_engines_give_the_same_result(name):
    machine, workload = machine_with(name, kind="lpddr4_3200", channels=2, latency_ns=20), causal_workload()
    assert machine.simulate(workload, engine="event") == machine.simulate(workload, engine="compiled")


def test_more_channels_never_lower_the_roofline_bandwidth_and_are_faster_where_memory_binds():
    workload = causal_workload(tokens=512)
    narrow, wide = (machine_with("salo_v2", kind="lpddr5_6400", channels=channels, latency_ns=20).simulate(workload) for channels in (1, 8))
    assert wide.roofline_cycles <= narrow.roofline_cycles and 2 * wide.cycles < narrow.cycles


@pytest.mark.parametrize("kind", ["ddr4_3200", "lpddr5_6400", "hbm2_2000"])
@pytest.mark.parametrize("name", ["dynax_s", "dynax_l", "sanger", "salo", "salo_v2", "dense"])
def test_a_line_is_priced_with_about_as_many_activations_as_banks_count(name, kind):
    keep = np.tril(np.random.default_rng(0).random((12, 512, 512)) < 0.15)
    dram = machine_with(name, kind=kind, latency_ns=30).simulate(AttentionWorkload.from_keep(keep, head_dim=64)).actions["dram"]
    row_bits = 8 * load_preset(kind).organisation.row_bytes
    least, _, most = technology_tables().dram.activations_per_row.ratio
    assert least <= dram["activate"] * row_bits / (dram["read_bits"] + dram["write_bits"]) <= most


def test_a_line_counts_no_rows():
    assert "dram" not in load_accelerator("dynax_s").simulate(causal_workload()).actions


def test_a_record_has_all_numbers_of_the_kind():
    config = machine_with("dynax_s", kind="hbm2_2000", channels=3, latency_ns=20).facts().config["dram"]
    assert config == {"kind": "hbm2_2000", "channels": 3, "latency_ns": 20.0, "preset": load_preset("hbm2_2000").model_dump(mode="json")}
    assert load_accelerator("dynax_s").facts().config["dram"] == {"gigabytes_per_second": 64.0, "latency_ns": 100.0}


@pytest.mark.parametrize(
    ("dram", "sentence"),
    [
        ("{latency_ns: 100}", "dram: give either gigabytes_per_second or kind"),
        ("{gigabytes_per_second: 1, kind: ddr4_3200, latency_ns: 1}", "dram: give either gigabytes_per_second or kind"),
        ("{gigabytes_per_second: 1, channels: 2, latency_ns: 1}", "dram: channels are those of a kind; name one, or leave them out"),
        ("{kind: hbm2, latency_ns: 1}", "dram: no kind of DRAM hbm2; did you mean hbm2"),
        ("{kind: lpddr5_6400, channels: 70000, latency_ns: 1}", "dram: 70000 channels of 16 banks are more .* channels that are: 65536"),
    ],
)
def test_a_dram_that_is_not_one_of_the_two_is_refused(tmp_path, dram, sentence):
    text = find_config("accelerators", "dense", "machine").read_text(encoding="utf-8")
    lines = [f"dram: {dram}" if line.startswith("dram:") else line for line in text.splitlines()]
    path = tmp_path / "own.yaml"
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ConfigError, match=sentence):
        load_accelerator(path)


def test_regions_of_a_layer_follow_each_other_without_overlap():
    workload = causal_workload()
    layout = dram_layout(workload, word_bytes=2, low_bits=6)
    row, tokens = 64 * 2, workload.keys
    ends = [
        query_address(layout, 0, 0),
        query_address(layout, workload.heads, 0),
        key_value_address(layout, 0, 0),
        key_value_address(layout, workload.kv_heads, 0),
        low_bit_key_address(layout, 0, 0),
        low_bit_key_address(layout, workload.kv_heads, 0),
        output_address(layout, 0, 0),
    ]
    assert ends == sorted(ends) and all(begin % 4096 == 0 for begin in ends[::2])
    assert key_value_address(layout, 1, 3) - key_value_address(layout, 0, 0) == (tokens + 3) * 2 * row
    assert value_address(layout, 0, 0) - key_address(layout, 0, tokens - 1) == row
    assert value_address(layout, 0, tokens) == key_address(layout, 1, 0) == key_value_address(layout, 1, 0)
    assert low_bit_key_address(layout, 0, 4) - low_bit_key_address(layout, 0, 0) == 4 * 64 * 6 // 8


@pytest.mark.parametrize("name", shipped_accelerators())
def test_every_request_lies_in_the_layer_and_outputs_are_written_to_places_of_their_own(name):
    workload = causal_workload()
    machine = load_accelerator(name)
    schedule = machine.schedule(workload)
    writes = schedule.visit_write == 1
    begin, end = schedule.visit_address[writes], (schedule.visit_address + schedule.visit_bytes)[writes]
    order = np.argsort(begin)
    assert np.all(end[order][:-1] <= begin[order][1:])
    assert end.max() - begin.min() == 2 * workload.heads * workload.queries * workload.head_dim
    assert schedule.visit_address.min() >= 0 and schedule.visit_address.max() < end.max()


@pytest.mark.parametrize(
    ("dram", "bytes_per_cycle", "ticks"),
    [
        ({"gigabytes_per_second": 64}, 96, 96),
        ({"kind": "lpddr5_6400"}, Fraction(384, 5), 6),  # 51.2 GB/s; a cycle has 6 / 5 clocks of 800 MHz
    ],
)
def test_a_clock_of_sixteen_digits_is_the_one_it_stands_for(dram, bytes_per_cycle, ticks):
    machine = machine_with("dynax_s", latency_ns=30, **dram)
    machine = type(machine)("other", machine.config.model_copy(update={"clock_mhz": 666.6666666666666}))
    channel = machine.dram_channel()
    assert (channel.bytes_per_cycle, channel.ticks_per_cycle) == (bytes_per_cycle, ticks)
    assert machine.simulate(causal_workload(), engine="event") == machine.simulate(causal_workload())


@settings(max_examples=200, deadline=None)
@given(gigabytes_per_second=st.floats(1e-3, 1e6), clock_mhz=st.floats(1, 1e5))
def test_any_bandwidth_at_any_clock_is_kept_to_eight_digits_in_terms_of_nine(gigabytes_per_second, clock_mhz):
    kept = DramConfig(gigabytes_per_second=gigabytes_per_second, latency_ns=0).channel(clock_mhz).bytes_per_cycle
    assert float(kept) == pytest.approx(gigabytes_per_second * 1000 / clock_mhz, rel=1e-8)
    assert max(kept.numerator, kept.denominator) <= 10**9 * (1 + 1e-8)
