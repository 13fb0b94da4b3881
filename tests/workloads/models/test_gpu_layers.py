"""A model whose linear layers are exchanged for a GPU's, run by the emulator of the CUDA kernels: it computes what it did."""

import os

import pytest

torch = pytest.importorskip("torch")

from xmsim.reference.kernels.cuda import native  # noqa: E402
from xmsim.workloads import sparsify  # noqa: E402
from xmsim.workloads.models import linear_exchange  # noqa: E402
from xmsim.workloads.models.linear_exchange import exchanged_layers, kernel_layer, linear_layers, restore_layers, set_thresholds  # noqa: E402
from xmsim.workloads.models.loading import ModelError  # noqa: E402


@pytest.fixture
def on_gpu(monkeypatch, emulator):
    """Layers on the CPU count as on a GPU, and the emulator runs its kernels."""
    monkeypatch.setenv(native.LIBRARY_VARIABLE, os.fspath(emulator))
    monkeypatch.setattr(linear_exchange, "lies_on_gpu", lambda layer: True)
    native.cuda_library.cache_clear()
    yield
    native.cuda_library.cache_clear()


def network():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 80), torch.nn.SiLU(), torch.nn.Linear(80, 30)).requires_grad_(False).bfloat16()
    for layer in (model[0], model[2]):
        layer.weight.mul_(torch.rand(layer.weight.shape) < 0.5)
    return model


def test_exchanged_layers_on_a_gpu_compute_what_they_did_and_come_back(on_gpu):
    model = network()
    model.dtype = torch.bfloat16  # as models of transformers have it
    token, prompt = torch.randn(2, 1, 64).bfloat16(), torch.randn(1, 30, 64).bfloat16()
    wanted, weights = (model(token), model(prompt)), model[0].weight.clone()
    for form, stored in (("bitmap", "tcabme"), ("tcabme", "tcabme"), ("spdp", "spdp"), ("teal", "teal")):
        assert sparsify(model, format=form) is model
        layers = exchanged_layers(model)
        assert [(layer.name, layer.format, layer.dense_bytes) for layer in layers] == [("0", stored, 10240), ("2", stored, 4800)]
        assert layers[0].density == pytest.approx(0.5, abs=0.05)
        for x, y in zip((token, prompt), wanted, strict=True):
            torch.testing.assert_close(model(x), y, rtol=2e-2, atol=2e-2)
        restore_layers(model)
        assert torch.equal(model[0].weight, weights)


def test_thresholds_reach_the_layers_that_skip_inputs(on_gpu):
    x = torch.randn(1, 1, 64).bfloat16()
    for form in ("spdp", "teal"):
        model = network()
        wanted = model[0](x.masked_fill(x.abs() <= 0.5, 0))
        sparsify(model, include="0", format=form)
        set_thresholds({"0": model[0]}, {"0": 0.5})
        torch.testing.assert_close(model[0](x), wanted, rtol=2e-2, atol=2e-2)


def test_what_a_device_lacks_is_said(on_gpu, monkeypatch):
    with pytest.raises(ModelError, match=r"format packed does not run on a GPU, where the model lies; there are bitmap, tcabme, spdp"):
        sparsify(network(), format="packed")
    with pytest.raises(
        ModelError, match=r"0 cannot be stored as tcabme: weight: torch\.float32 .* a GPU's layers are matrices of bfloat16"
    ):
        sparsify(network().float(), format="tcabme")
    with pytest.raises(ModelError, match="0 cannot be stored as 2:4: weight: lies on cpu; torch compresses 2:4 weights on a GPU"):
        sparsify(network(), format="2:4")
    monkeypatch.setattr(linear_exchange, "lies_on_gpu", lambda layer: layer.weight.is_cuda)
    with pytest.raises(
        ModelError, match="format teal does not run on the CPU, where the model lies; there are bitmap, bitmap_int8, packed"
    ):
        kernel_layer(next(iter(linear_layers(network()).values())), "teal")
