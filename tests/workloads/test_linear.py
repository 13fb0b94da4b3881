"""Linear layers as machines see them: from a mask, and from a trace's weight bitmaps and histograms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import xmsim.workloads
from xmsim.configs.errors import XmsimError
from xmsim.reference.activations import magnitude_threshold
from xmsim.workloads.linear import LinearWorkload, linear_workloads


def test_it_is_a_public_name():
    assert xmsim.workloads.LinearWorkload is LinearWorkload


def test_products_are_counted_over_nonzero_weights_and_inputs_that_take_part():
    keep = np.zeros((3, 70), bool)
    keep[0, [0, 69]] = keep[2, 69] = True
    workload = LinearWorkload.from_keep(keep, name="up", tokens=4, activation_density=0.5)
    assert (workload.out_features, workload.in_features, workload.nonzeros) == (3, 70, 3)
    assert workload.words.shape == (3, 2) and workload.weight_density == 3 / 210
    assert (workload.dense_products, workload.expected_products) == (4 * 210, 4 * 3 * 0.5)
    np.testing.assert_array_equal(workload.keep(), keep)
    assert workload.column_nonzeros()[[0, 1, 69]].tolist() == [1, 0, 2]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"words": np.zeros((3, 1), np.int64)}, "words must be uint64"),
        ({"words": np.zeros((3, 1), np.uint64)}, "words has 1 words a row, 70 inputs need 2"),
        ({"words": np.full((3, 2), 1 << 40, np.uint64)}, "words has weights beyond the 70 inputs"),
        ({"tokens": 0}, "at least one output, input and token"),
        ({"activation_density": 1.5}, r"activation_density: 1\.5 is not a share"),
    ],
)
def test_parts_that_do_not_fit_are_refused(arguments, sentence: str):
    fitting = {"name": "up", "words": np.zeros((3, 2), np.uint64), "in_features": 70}
    with pytest.raises(ValueError, match=sentence):
        LinearWorkload(**(fitting | arguments))


def test_a_trace_gives_its_weights_and_the_density_of_its_activations(small_llama: Path, tmp_path: Path):
    torch = pytest.importorskip("torch")
    from xmsim.workloads.extraction.extract import extract_trace
    from xmsim.workloads.models.loading import load_model

    loaded = load_model(str(small_llama))
    with torch.no_grad():
        loaded.model.model.layers[2].mlp.up_proj.weight[:, ::2] = 0
    trace = extract_trace(loaded, tokens=40, layers=[2], out=tmp_path / "trace", weights=True)
    dense = {one.name.rsplit(".", 1)[1]: one for one in linear_workloads(trace, 2, tokens=40)}
    assert list(dense) == ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    assert dense["up_proj"].weight_density == 0.5 and dense["up_proj"].activation_density == 1.0
    assert dense["down_proj"].dense_products == dense["down_proj"].expected_products == 40 * 48 * 32
    with pytest.raises(XmsimError, match="no activation histograms"):
        linear_workloads(trace, 2, dynamic_sparsity=0.5)
    trace = extract_trace(loaded, tokens=40, layers=[2], out=tmp_path / "trace", weights=True, activations=True)
    decode = linear_workloads(trace, 2, dynamic_sparsity=0.5, threshold=magnitude_threshold)
    assert all(one.activation_density == pytest.approx(0.5, abs=0.01) and one.tokens == 1 for one in decode)
