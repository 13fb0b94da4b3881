"""A linear layer from a bitmap by columns: what it computes in prefill and in decode, and what it skips."""

import pytest
import torch

from xmsim.reference.formats import ColumnBitmap
from xmsim.reference.kernels import SpdpLinear
from xmsim.reference.weights import magnitude_keep


def linear(dtype=torch.float32, in_features=100, out_features=70, bias=True):
    torch.manual_seed(0)
    layer = torch.nn.Linear(in_features, out_features, bias=bias, dtype=dtype).requires_grad_(requires_grad=False)
    layer.weight.mul_(magnitude_keep(layer.weight, sparsity=0.5))
    return layer


@pytest.mark.parametrize("shape", [(100,), (1, 100), (3, 1, 100), (5, 100), (2, 5, 100)], ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 2e-3)])
def test_it_computes_what_the_layer_computed_one_token_or_many(shape, dtype, tolerance):
    layer, x = linear(dtype), torch.randn(shape).to(dtype)
    torch.testing.assert_close(SpdpLinear.from_linear(layer)(x), layer(x), rtol=tolerance, atol=tolerance)


def test_only_in_decode_inputs_at_or_below_the_threshold_count_as_zero():
    layer = linear()
    ours = SpdpLinear.from_linear(layer)
    ours.threshold = 0.7
    token, prompt = torch.randn(2, 1, 100), torch.randn(2, 3, 100)
    token[0, 0, 0] = 0.7
    torch.testing.assert_close(ours(token), layer(token * (token.abs() > 0.7)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours(prompt), layer(prompt), rtol=1e-5, atol=1e-5)


def test_weights_keep_their_format_and_the_bias_follows_the_model():
    ours = SpdpLinear.from_linear(linear()).to(torch.bfloat16)
    assert ours.bias.dtype == torch.bfloat16 and ours.to_dense().dtype == torch.float32
    assert ours(torch.randn(1, 100).bfloat16()).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="packed weights are read on the CPU"):
        ours.to("meta")


def test_packed_weights_are_taken_as_they_are():
    layer = linear(bias=False)
    packed = ColumnBitmap.from_dense(layer.weight)
    ours = SpdpLinear.from_packed(packed)
    assert ours.packed() is packed and ours.nbytes == packed.nbytes and ours.bias is None
    assert torch.equal(ours.to_dense(), layer.weight)
    assert "in_features=100, out_features=70, bias=False, dtype=float32, sparsity=0.500, threshold=0" in repr(ours)
