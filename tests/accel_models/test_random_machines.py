"""Shipped machines with other dimensions, buffers, loads and DRAM: what must hold of any run, on masks with empty rows and hot ones."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from xmsim.accel_models import load_accelerator, shipped_accelerators
from xmsim.accel_models.accelerator import Accelerator, execute
from xmsim.accel_models.errors import WorkloadError
from xmsim.sim.log import EngineLog
from xmsim.workloads.attention import AttentionWorkload

DRAWN = 10  # machines of each shipped one
VALUES: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("rows", "count"), (1, 3, 8, 33, 64)),
    "columns": (2, 7, 32, 33),
    "pes": (1, 5, 16),
    "buffer_bytes": (40000, 300000),
    "key_buffer_bytes": (64, 4096, 2**20),
    "kv_buffer_bytes": (64, 65536),
    **dict.fromkeys(("outstanding_loads", "stream_blocks", "window_tiles", "rows_per_cycle", "dividers"), (1, 2, 3, 17)),
    **dict.fromkeys(("pattern_buffer_blocks", "elements_per_cycle", "query_tile"), (1, 7, 64)),
    "query_buffer_tiles": (2, 3),
    **dict.fromkeys(("global_rows", "global_columns"), (1, 2)),
    "clock_mhz": (100.0, 333.25, 666.6666666666666, 3333.3),
    "prediction_phase": ("simulated", "free"),
    "pipelining": ("block", "window"),
    "projections": ("none", "simulated"),
    "causal_tiles": ("computed", "skipped"),
    "control": ("broadcast", "skewed"),
    "row_sums": ("serial", "overlapped"),
    "split": ("row", "column"),
    "empty_rows": ("skipped", "kept"),
    "empty_passes": ("computed", "skipped"),
    "global_row": ("free", "wired"),
}
DRAMS = (
    {"gigabytes_per_second": 0.1, "latency_ns": 1e4},
    {"gigabytes_per_second": 51.2, "latency_ns": 33.3},
    {"gigabytes_per_second": 1e6, "latency_ns": 0},
    {"kind": "ddr4_3200", "channels": 1, "latency_ns": 0},
    {"kind": "hbm3_6400", "channels": 3, "latency_ns": 30},
)


def drawn(random: np.random.Generator, values: tuple[Any, ...]) -> Any:
    return values[random.integers(len(values))]


def drawn_machine(random: np.random.Generator, name: str) -> Accelerator:
    shipped = load_accelerator(name)

    def changed(data: dict[str, Any]) -> dict[str, Any]:
        result = {}
        for key, value in data.items():
            if isinstance(value, dict) and key not in ("method", "dram", "area", "technology", "sources"):
                value = changed(value)
            elif key in VALUES and random.random() < 0.4:
                value = drawn(random, VALUES[key])
            result[key] = value
        return result

    data = changed(shipped.config.model_dump(mode="json", exclude_none=True))
    if "pack" in data:
        data["pack"]["window_rows"] = data["prediction_array"]["rows"] * int(random.integers(1, 9))
    if random.random() < 0.8:
        data["dram"] = drawn(random, DRAMS)
    return type(shipped)(name, shipped.config.model_validate(data))


def drawn_workload(random: np.random.Generator) -> AttentionWorkload:
    keys, kv_heads, group = int(random.integers(1, 140)), int(random.integers(1, 3)), int(random.integers(1, 3))
    queries, causal = drawn(random, (1, keys, int(random.integers(1, keys + 1)))), bool(random.random() < 0.5)
    keep = random.random((kv_heads * group, queries, keys)) < drawn(random, (0.0, 0.05, 0.4, 1.0))
    keep &= random.random((kv_heads * group, queries, 1)) < 0.7  # empty rows
    keep[:, random.integers(queries)] = keep[:, :, 0] = True  # a hot row and a hot key
    if causal:
        keep &= np.arange(keys) <= np.arange(queries)[:, None] + keys - queries
    return AttentionWorkload.from_keep(keep, head_dim=drawn(random, (8, 64, 80, 128)), kv_heads=kv_heads, causal=causal)


@pytest.mark.parametrize("name", shipped_accelerators())
def test_a_run_of_any_machine_does_its_work_within_its_means_and_both_engines_agree_on_it(name):
    random = np.random.default_rng(0)
    ran = 0
    for _ in range(DRAWN):
        machine, workload = drawn_machine(random, name), drawn_workload(random)
        try:
            schedule = machine.layer_schedule(workload)
        except WorkloadError:  # a buffer too small for one tile
            continue
        ran += 1
        log, by_events = execute(schedule, "compiled"), execute(schedule, "event")
        for column in fields(EngineLog):
            np.testing.assert_array_equal(getattr(log, column.name), getattr(by_events, column.name), err_msg=column.name)
        result = machine.result(workload, schedule, log)
        assert result.roofline_cycles <= result.cycles <= result.serial_cycles
        for stage, servers in result.servers.items():
            parts = [result.busy[stage], *result.stalls[stage].values(), *result.idle[stage].values()]
            assert min(parts) >= 0 and sum(parts) == servers * result.cycles
        traffic, actions = result.traffic["dram"], result.actions
        assert sum(traffic.values()) <= result.cycles * machine.dram_channel().bytes_per_cycle
        written = sum(actions.get(buffer, {}).get("write_bytes", 0) for buffer in ("query_buffer", "kv_buffer", "key_buffer"))
        assert written == traffic["read_bytes"]  # what is read goes into a buffer, and nothing else does
        row_bytes = 2 * workload.head_dim
        outputs = workload.heads * workload.queries * row_bytes
        assert sum(head.traffic["dram"]["write_bytes"] for head in result.heads) == outputs
        kept_keys = int(workload.keep().reshape(workload.kv_heads, -1, workload.keys).any(axis=1).sum())
        serves_any_mask = "coverage" not in result.metrics
        read = sum(head.traffic["dram"]["read_bytes"] for head in result.heads)
        assert read >= outputs + serves_any_mask * 2 * kept_keys * row_bytes
        macs = (actions.get("execute_array") or actions["pe_array"])["mac"]
        assert macs <= result.cycles * machine.peak_macs_per_cycle()
        assert macs >= result.useful_macs * result.metrics.get("coverage", 1.0) * (1 - 1e-9) or result.projections
    assert ran >= DRAWN // 2
