"""The GPU model against the floors that its note derives by hand. No measurement stands behind it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from xmsim.accel_models.host import gpu_model
from xmsim.accel_models.host.constants import load_host
from xmsim.accel_models.host.cpu_linear import LinearShape
from xmsim.accel_models.host.gpu_model import load_gpu
from xmsim.configs.errors import ConfigError
from xmsim.configs.shipped import find_config
from xmsim.workloads.attention import AttentionWorkload

TOKENS = 4096


@pytest.fixture(scope="module")
def gpu() -> gpu_model.GpuConfig:
    return load_gpu("h200")


def causal(keep: np.ndarray, heads: int = 32, kv_heads: int = 8) -> AttentionWorkload:
    one = AttentionWorkload.from_keep(keep[None] & np.tri(len(keep), dtype=bool), head_dim=128).words
    return AttentionWorkload(np.broadcast_to(one, (heads, *one.shape[1:])), len(keep), 128, kv_heads)


@pytest.fixture(scope="module")
def dense() -> AttentionWorkload:
    return causal(np.ones((TOKENS, TOKENS), bool))


@pytest.fixture(scope="module")
def eighth() -> AttentionWorkload:
    return causal(np.tile(np.arange(64) < 8, (TOKENS, TOKENS // 64)))


def test_it_says_that_nothing_validates_it(gpu: gpu_model.GpuConfig) -> None:
    assert gpu.validated is False
    assert set(gpu.sources) >= set(type(gpu).model_fields) - {"kind", "validated", "sources"}


def test_dense_prefill_of_a_llama_layer_takes_the_time_of_600_tflops(gpu: gpu_model.GpuConfig, dense: AttentionWorkload) -> None:
    found = gpu_model.prefill_dense(gpu, dense)
    assert found.bound_by == "tensor"
    assert found.ms - 3e-3 == pytest.approx(0.23, abs=0.005)


def test_every_tile_alive_leaves_nothing_to_skip(gpu: gpu_model.GpuConfig, dense: AttentionWorkload, eighth: AttentionWorkload) -> None:
    assert gpu_model.live_tiles(eighth) == gpu_model.live_tiles(dense) == 32 * 64 * 65 // 2
    assert gpu_model.prefill_skipping(gpu, eighth).ns > gpu_model.prefill_dense(gpu, dense).ns


def test_dead_tiles_are_skipped(gpu: gpu_model.GpuConfig) -> None:
    window = causal(np.subtract.outer(np.arange(1024), np.arange(1024)) < 64)
    assert gpu_model.live_tiles(window) == 32 * (2 * 16 - 1)


def test_gathering_by_row_loses_and_by_group_wins_at_one_in_eight(
    gpu: gpu_model.GpuConfig, dense: AttentionWorkload, eighth: AttentionWorkload
) -> None:
    whole = gpu_model.prefill_dense(gpu, dense).ms
    own, shared = (gpu_model.prefill_gathering(gpu, eighth, shared=shared).parts_ns["shared memory"] / 1e6 for shared in (False, True))
    assert own == pytest.approx(0.56, abs=0.02) and shared == pytest.approx(0.14, abs=0.01)
    assert shared < whole < own


def test_an_exact_mask_costs_most_of_a_dense_layer(gpu: gpu_model.GpuConfig, dense: AttentionWorkload) -> None:
    floor, first = (gpu_model.xm_mask(gpu, dense, overlapped=overlapped).ms for overlapped in (True, False))
    assert 0.06 < floor < first
    assert first == pytest.approx(0.2, abs=0.03)


def test_a_long_cache_is_read_at_the_speed_of_memory(gpu: gpu_model.GpuConfig) -> None:
    words = np.full((32, 1, 131072 // 64), np.uint64(2**64 - 1))
    whole = AttentionWorkload(words, 131072, 128, 8)
    assert gpu_model.decode(gpu, whole).ns / 1e3 == pytest.approx(128 + 3, rel=0.01)
    tenth = AttentionWorkload(np.where(np.arange(2048) % 10 == 0, words, np.uint64(0)), 131072, 128, 8)
    assert 3 < gpu_model.decode(gpu, whole).ns / gpu_model.decode(gpu, tenth, predictor_bits=4).ns < 5


def test_a_bitmap_is_bound_by_instructions_before_its_bytes(gpu: gpu_model.GpuConfig) -> None:
    half = LinearShape(4096, 14336, 1, 4096 * 14336 // 2)
    dense, sparse = (gpu_model.linear(gpu, half, stored=stored, element="bfloat16") for stored in ("dense", "sparse"))
    assert dense.bound_by == "memory" and sparse.bound_by == "instructions"
    assert dense.parts_ns["memory"] / sparse.parts_ns["instructions"] == pytest.approx(1.23, abs=0.02)
    assert sparse.parts_ns["memory"] / dense.parts_ns["memory"] == pytest.approx(0.5625)


def test_a_number_without_a_source_is_refused(tmp_path: Path) -> None:
    text = find_config("hosts", "h200", "host").read_text().replace("  launch_us: assumed", "  launchus: assumed")
    (tmp_path / "gpu.yaml").write_text(text)
    with pytest.raises(ConfigError, match="sources: launch_us has none"):
        load_gpu(tmp_path / "gpu.yaml")


def test_a_gpu_is_no_cpu_and_a_cpu_no_gpu() -> None:
    with pytest.raises(ConfigError, match=r"h200\.yaml: this host is gpu, a cpu is needed here"):
        load_host("h200")
    with pytest.raises(ConfigError, match="this host is cpu, a gpu is needed here"):
        load_gpu("sapphire_rapids_32")


def test_it_cannot_be_called_validated(tmp_path: Path) -> None:
    text = find_config("hosts", "h200", "host").read_text().replace("validated: false", "validated: true")
    (tmp_path / "gpu.yaml").write_text(text)
    with pytest.raises(ConfigError, match="validated"):
        load_gpu(tmp_path / "gpu.yaml")
