"""Histograms of activations: TEAL's own, streaming, on disk."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.reference.activations.golden_activations import DISTRIBUTIONS, GOLDEN

from xmsim.configs.errors import RecordError
from xmsim.reference.activations import (
    ActivationCounter,
    ActivationHistogram,
    histogram,
    read_histograms,
    symmetric_threshold,
    write_histograms,
)


def collected(values, bins):
    counter = ActivationCounter()
    for part in values:
        counter.add(part)
    return counter.histogram(bins=bins)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_counts_and_bins_are_those_of_the_authors(name):
    values = DISTRIBUTIONS[name]
    few = ActivationHistogram.from_values(values, bins=200)
    assert np.array_equal(few.counts, GOLDEN[f"{name}_counts_200"])
    assert np.allclose(few.centers, GOLDEN[f"{name}_centers_200"], rtol=1e-6, atol=1e-6)
    many = ActivationHistogram.from_values(values)
    assert len(many.counts) == GOLDEN[f"{name}_nbins_10000"]
    assert np.array_equal(many.counts[:8], GOLDEN[f"{name}_counts_10000_head"])
    assert np.allclose(many.centers[[0, 1, -2, -1]], GOLDEN[f"{name}_edges_minmax"], rtol=1e-6)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_what_the_authors_store_gives_the_edges_back(name):
    stored = ActivationHistogram.from_centers(GOLDEN[f"{name}_counts_200"], GOLDEN[f"{name}_centers_200"])
    assert np.allclose(stored.edges, ActivationHistogram.from_values(DISTRIBUTIONS[name], bins=200).edges, atol=1e-6)


@pytest.mark.parametrize("bins", [200, 10_000])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_streaming_gives_the_golden_thresholds(name, bins):
    streamed = collected(DISTRIBUTIONS[name], bins)
    found = [symmetric_threshold(streamed, float(sparsity)) for sparsity in GOLDEN["sparsity"]]
    assert found == pytest.approx(GOLDEN[f"{name}_thr_{bins}"], rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bins", [200, 10_000])
def test_counting_is_exact_in_16_bits(monkeypatch, dtype, bins):
    monkeypatch.setattr(histogram, "KEPT_VALUES", 5000)
    values = torch.from_numpy(DISTRIBUTIONS["laplace"]).to(dtype)
    streamed, whole = collected(values, bins), ActivationHistogram.from_values(values, bins=bins)
    assert np.array_equal(streamed.counts, whole.counts)
    assert np.array_equal(streamed.edges, whole.edges)


def test_counting_float32_moves_thresholds_by_about_a_ten_thousandth(monkeypatch):
    monkeypatch.setattr(histogram, "KEPT_VALUES", 5000)
    values = np.random.default_rng(5).standard_normal((4, 100_000)).astype(np.float32)
    streamed, whole = collected(values, 10_000), ActivationHistogram.from_values(values)
    for sparsity in (0.25, 0.5, 0.9):
        assert symmetric_threshold(streamed, sparsity) == pytest.approx(symmetric_threshold(whole, sparsity), rel=3e-4)


def test_a_buffer_that_is_used_again_does_not_change_what_was_collected():
    counter, buffer = ActivationCounter(), np.ones(8, np.float32)
    counter.add(buffer)
    buffer[:] = 5
    assert counter.histogram(bins=4).edges.max() == 1


def test_few_and_equal_values_have_a_histogram():
    assert ActivationHistogram.from_values(np.array([1.0, 2, 3], np.float32), bins=4).counts.sum() == 3
    assert symmetric_threshold(ActivationHistogram.from_values(np.zeros(500, np.float32)), 0.5) == 0


def test_histograms_come_back_from_disk(tmp_path):
    path = tmp_path / "layer.safetensors"
    histograms = {name: ActivationHistogram.from_values(values, bins=200) for name, values in DISTRIBUTIONS.items()}
    write_histograms(path, histograms)
    back = read_histograms(path)
    assert list(back) == list(histograms)
    for name, written in histograms.items():
        assert np.array_equal(back[name].counts, written.counts)
        assert np.array_equal(back[name].edges, written.edges)


def test_a_damaged_file_is_answered_with_one_sentence(tmp_path):
    path = tmp_path / "layer.safetensors"
    write_histograms(path, {"q": ActivationHistogram.from_values(DISTRIBUTIONS["gauss"], bins=200)})
    data = path.read_bytes()
    path.write_bytes(data.replace(b'\\"q\\"', b'\\"k\\"'))
    with pytest.raises(RecordError, match="not whole histograms"):
        read_histograms(path)
    path.write_bytes(data[:-8])
    with pytest.raises(RecordError, match="was it truncated or edited"):
        read_histograms(path)
    path.write_bytes(data.replace(b'"version":"1"', b'"version":"2"'))
    with pytest.raises(RecordError, match=r"version 2 of xmsim\.histograms is newer"):
        read_histograms(path)
    with pytest.raises(RecordError, match="No such file"):
        read_histograms(Path(tmp_path / "none"))


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="values: there is NaN or infinity"):
        ActivationHistogram.from_values(np.array([1, np.inf], np.float32))
    with pytest.raises(ValueError, match="values: there are none"):
        ActivationCounter().histogram()
    with pytest.raises(ValueError, match="bins: 2 is too few"):
        ActivationHistogram.from_values(np.ones(4, np.float32), bins=2)
    with pytest.raises(ValueError, match="centers: shape"):
        ActivationHistogram.from_centers(np.ones(5), np.ones(6))
    with pytest.raises(ValueError, match="counts: all are zero"):
        ActivationHistogram.from_centers(np.zeros(5), np.arange(5))
    with pytest.raises(ValueError, match="edges: 5 ascending"):
        ActivationHistogram(np.ones(4), np.array([0.0, 2, 1, 3, 4]))
    counter = ActivationCounter()
    with pytest.raises(ValueError, match="NaN"):
        counter.add(np.array([1, np.nan], np.float32))
    with pytest.raises(ValueError, match="there are none"):
        counter.histogram()
