"""Runs of a record that no workload can be made of are refused; masks too large for a prediction are left out."""

from __future__ import annotations

from typing import Any

import pytest

from xmsim.accel_models.host.constants import MissingConstantError
from xmsim.accel_models.host.run_shape import MOST_MASK_WORDS, MOST_THREADS, check_run
from xmsim.configs.errors import RecordError
from xmsim.workloads.measurement import Timing
from xmsim.workloads.measuring.host_check_record import HostRun, Minute

PREFILL = {"tokens": 4096, "heads": 4, "kv_heads": 1, "head_dim": 64, "kept": 8}


def run(shape: dict[str, Any], operation: str = "prefill", threads: int = 2, ms: float = 1.0, line_ns: float | None = None) -> HostRun:
    return HostRun(operation, "sparse", "bfloat16", threads, shape, Timing(5, ms, ms, ms, ms, ms), Minute(line_ns, None))


def test_the_shapes_that_we_measure_pass() -> None:
    check_run(run(PREFILL, line_ns=2.5), "a.json")
    check_run(run({"in_features": 4096, "out_features": 14336, "tokens": 64, "sparsity": 0.5}, "linear"), "a.json")
    check_run(run({"tokens": 2**20, "heads": 32, "kv_heads": 8, "head_dim": 128, "kv_density": 0.1}, "decode"), "a.json")


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"tokens": 0}, "tokens"),
        ({"heads": 2.0}, "heads"),
        ({"head_dim": True}, "head_dim"),
        ({"kept": 65}, "kept"),
        ({"kv_heads": 3}, "share 3 KV heads"),
    ],
)
def test_a_size_that_none_has_is_refused_by_name(changed: dict[str, Any], named: str) -> None:
    with pytest.raises(RecordError, match=rf"a\.json: prefill, sparse: .*{named}"):
        check_run(run(PREFILL | changed), "a.json")


def test_threads_times_and_minutes_that_none_has_are_refused() -> None:
    for wrong in (run(PREFILL, threads=MOST_THREADS + 1), run(PREFILL, ms=0.0), run(PREFILL, line_ns=1e300)):
        with pytest.raises(RecordError, match="was the file edited"):
            check_run(wrong, "a.json")
    with pytest.raises(RecordError, match="sparsity is no number from 0 to 1"):
        check_run(run({"in_features": 1, "out_features": 1, "tokens": 1, "sparsity": float("nan")}, "linear"), "a.json")


def test_a_mask_is_made_up_to_a_number_of_words() -> None:
    tokens = 8192
    heads = MOST_MASK_WORDS // (tokens * tokens // 64)
    check_run(run(PREFILL | {"tokens": tokens, "heads": heads}), "a.json")
    with pytest.raises(MissingConstantError, match="more pairs"):
        check_run(run(PREFILL | {"tokens": tokens, "heads": heads + 1}), "a.json")
