"""Linear layers on weights in published formats: what they compute in prefill and in decode, and what one of them skips."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file

from xmsim.reference.formats import ColumnBitmap, TcaBme
from xmsim.reference.kernels import SpdpLinear, TcaBmeLinear, TwoFourLinear
from xmsim.reference.weights import magnitude_keep

KINDS = (TcaBmeLinear, TwoFourLinear, SpdpLinear)


def linear(dtype=torch.float32, in_features=100, out_features=70, bias=True):
    torch.manual_seed(0)
    layer = torch.nn.Linear(in_features, out_features, bias=bias, dtype=dtype).requires_grad_(requires_grad=False)
    layer.weight.mul_(magnitude_keep(layer.weight, kept=2, block=4))
    return layer


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(100,), (1, 100), (3, 1, 100), (5, 100), (2, 5, 100)], ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 2e-3)])
def test_it_computes_what_the_layer_computed_one_token_or_many(kind, shape, dtype, tolerance):
    layer, x = linear(dtype), torch.randn(shape).to(dtype)
    torch.testing.assert_close(kind.from_linear(layer)(x), layer(x), rtol=tolerance, atol=tolerance)


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


@pytest.mark.parametrize("kind", KINDS)
def test_packed_weights_are_taken_bit_for_bit(kind):
    layer = linear(bias=False)
    packed = kind.form.from_dense(layer.weight)
    ours = kind.from_packed(packed)
    assert ours.packed().values.tobytes() == packed.values.tobytes() and ours.nbytes == packed.nbytes and ours.bias is None
    assert torch.equal(ours.to_dense(), layer.weight)
    assert f"in_features=100, out_features=70, bias=False, dtype=float32, bytes={packed.nbytes}" in repr(ours)


def test_packed_weights_of_another_format_are_refused():
    with pytest.raises(TypeError, match="packed: ColumnBitmap is not what TcaBmeLinear reads, which is TcaBme"):
        TcaBmeLinear.from_packed(ColumnBitmap.from_dense(torch.ones(2, 2)))


def test_arguments_are_those_of_torchs_layer():
    torch.manual_seed(1)
    ours = TcaBmeLinear(12, 5, dtype=torch.bfloat16)
    torch.manual_seed(1)
    plain = torch.nn.Linear(12, 5, dtype=torch.bfloat16)
    assert torch.equal(ours.to_dense(), plain.weight) and torch.equal(ours.bias, plain.bias)
    assert isinstance(ours.packed(), TcaBme) and TcaBmeLinear(12, 5, bias=False).bias is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tokens", [1, 4])
def test_gradients_reach_inputs_and_bias(kind, tokens):
    layer, x = linear(), torch.randn(tokens, 100, requires_grad=True)
    ours = kind.from_linear(layer)
    ours.bias.requires_grad_()
    if kind is SpdpLinear:
        ours.threshold = 0.5
    ours(x).sum().backward()
    taken = x.detach().abs() > 0.5 if kind is SpdpLinear and tokens == 1 else torch.ones_like(x)
    torch.testing.assert_close(x.grad, layer.weight.sum(dim=0) * taken)
    torch.testing.assert_close(ours.bias.grad, torch.full((70,), float(tokens)))


def test_a_threshold_for_each_input_is_followed():
    layer, token = linear(), torch.randn(1, 100)
    ours = SpdpLinear.from_linear(layer)
    ours.threshold = torch.rand(100)
    torch.testing.assert_close(ours(token), layer(token * (token.abs() > ours.threshold)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_state_dict_round_trips_through_safetensors(kind, dtype, tmp_path):
    layer, x = linear(dtype), torch.randn(1, 100).to(dtype)
    packed = torch.nn.Sequential(torch.nn.Identity(), kind.from_linear(layer))
    save_file(packed.state_dict(), tmp_path / "model.safetensors")
    other = linear(dtype).requires_grad_(requires_grad=False)
    other.weight.mul_(torch.arange(70)[:, None] > 35)  # other zeros, so that parts have other lengths
    fresh = torch.nn.Sequential(torch.nn.Identity(), kind.from_linear(other))
    fresh[1].bias = torch.nn.Parameter(torch.zeros(70, dtype=dtype), requires_grad=False)
    assert not torch.equal(fresh(x), packed(x))
    loaded = fresh.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert not loaded.missing_keys and not loaded.unexpected_keys
    assert torch.equal(fresh(x), packed(x)) and torch.equal(fresh[1].to_dense(), layer.weight)


@pytest.mark.parametrize(
    ("kind", "name", "damage", "said"),
    [
        (TcaBmeLinear, "packed_as", lambda part: part + torch.tensor([1, 0, 0]), "reads 1"),
        (TcaBmeLinear, "packed_as", lambda part: part + torch.tensor([0, 1, 0]), "outputs and inputs"),
        (TcaBmeLinear, "bitmap", lambda part: torch.full_like(part, 255), "pack them again"),
        (TcaBmeLinear, "bitmap", lambda part: part.int(), "bitmap: torch.int32 holds no uint64"),
        (SpdpLinear, "column_offsets", lambda part: part + 1, "pack them again"),
        (SpdpLinear, "values", lambda part: part[:-1], "values"),
        (SpdpLinear, "values", lambda part: part.bfloat16(), "layer of torch.float32"),
        (TwoFourLinear, "places", lambda part: part * 0, "places: they do not ascend"),
    ],
)
def test_a_state_dict_that_does_not_fit_is_refused_and_changes_nothing(kind, name, damage, said):
    ours, x = kind.from_linear(linear()), torch.randn(1, 100)
    before, good = ours(x), ours.state_dict()
    with pytest.raises(RuntimeError, match=said):
        ours.load_state_dict({**good, name: damage(good[name])})
    with pytest.raises(RuntimeError, match="Missing key"):
        ours.load_state_dict({key: part for key, part in good.items() if key != name})
    assert torch.equal(ours(x), before)


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_is_a_layer_of_its_own(kind):
    ours, x = kind.from_linear(linear()), torch.randn(1, 100)
    twin, y = copy.deepcopy(ours), ours(x)
    ours.values.zero_()
    assert torch.equal(twin(x), y) and torch.equal(ours(x), ours.bias.expand(1, -1))


def test_buffers_that_no_longer_fit_are_refused_before_a_kernel_follows_them():
    ours = TcaBmeLinear.from_linear(linear())
    ours.bitmap.fill_(255)
    with pytest.raises(ValueError, match="pack them again"):
        ours(torch.randn(1, 100))


@pytest.mark.parametrize("kind", KINDS)
def test_a_compiled_model_gives_the_same(kind):
    model = torch.nn.Sequential(torch.nn.ReLU(), kind.from_linear(linear()), torch.nn.ReLU())
    x = torch.randn(1, 100)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, backend="eager")(x), model(x))
