"""Linear layers of models on a GPU, run by the emulator: the layer they replace, decoding without small inputs, state dicts, errors."""

import io
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from xmsim.reference.kernels.cuda.modules import (  # noqa: E402
    GpuSpdpLinear,
    GpuTcaBmeLinear,
    GpuTealLinear,
    GpuTwoFourLinear,
)

OURS = (GpuTcaBmeLinear, GpuSpdpLinear, GpuTealLinear)
SKIPPING = (GpuSpdpLinear, GpuTealLinear)


def plain(outputs=72, inputs=136, *, bias=True, dtype=torch.bfloat16, device="cpu", seed=0):
    make = torch.Generator().manual_seed(seed)
    layer = torch.nn.Linear(inputs, outputs, bias).requires_grad_(False)
    layer.weight.copy_(torch.randn(outputs, inputs, generator=make) * (torch.rand(outputs, inputs, generator=make) < 0.5))
    return layer.to(device, dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(3, 1), (2, 5), (1, 30), (20, 1)])  # sequences and their tokens: the kernels', then torch's product
@pytest.mark.parametrize("kind", OURS)
def test_a_layer_gives_what_the_one_it_replaces_gives(device, kind, shape, dtype):
    layer, ragged = plain(dtype=dtype, device=device), plain(70, bias=False, dtype=dtype, device=device)
    x = torch.randn(*shape, 136, generator=torch.Generator().manual_seed(1)).to(device, dtype)
    for one in (layer, ragged):
        torch.testing.assert_close(kind.from_linear(one)(x), one(x), rtol=2e-2, atol=8e-2)
    assert torch.equal(kind.from_linear(layer).to_dense(), layer.weight)
    assert kind.from_linear(layer).bias is layer.bias


@pytest.mark.parametrize("by_input", [False, True])
@pytest.mark.parametrize("sequences", [1, 20])
@pytest.mark.parametrize("kind", SKIPPING)
def test_decoding_leaves_small_inputs_out_and_prefill_does_not(device, kind, sequences, by_input):
    layer = plain(device=device)
    ours = kind.from_linear(layer)
    ours.threshold = torch.full((136,), 0.7).bfloat16() if by_input else 0.7
    x = torch.randn(sequences, 1, 136, generator=torch.Generator().manual_seed(1)).bfloat16().to(device)
    kept = x.masked_fill(x.abs() <= torch.tensor(0.7).bfloat16(), 0)
    torch.testing.assert_close(ours(x), layer(kept), rtol=2e-2, atol=8e-2)
    prompt = x.view(1, -1, 136).expand(2, -1, -1) if sequences > 1 else x.expand(1, 4, 136)
    torch.testing.assert_close(ours(prompt), layer(prompt), rtol=2e-2, atol=8e-2)


def test_a_negative_threshold_keeps_every_input(device):
    layer = plain(device=device)
    ours, x = GpuSpdpLinear.from_linear(layer), torch.randn(1, 136, device=device).bfloat16()
    ours.threshold = -0.5
    torch.testing.assert_close(ours(x), layer(x), rtol=2e-2, atol=8e-2)


@pytest.mark.parametrize("kind", [GpuTcaBmeLinear, GpuSpdpLinear])
def test_packed_weights_are_taken_as_they_are_once_they_fit(device, kind):
    layer, x = plain(device=device), torch.randn(2, 136, device=device).bfloat16()
    packed = kind.from_linear(layer).packed()
    ours = kind.from_packed(packed, layer.bias)
    assert ours.values is packed.values and torch.equal(ours(x), kind.from_linear(layer)(x))
    with pytest.raises(ValueError, match="group_offsets: they do not fit"):
        kind.from_packed(replace(packed, **{kind.parts[1]: getattr(packed, kind.parts[1]) ^ 1}))
    for other in {*OURS} - {kind}:
        with pytest.raises(TypeError, match=f"packed: {type(packed).__name__} is not what {other.__name__} reads"):
            other.from_packed(packed)


@pytest.mark.parametrize("kind", OURS)
def test_gradients_reach_the_inputs_through_the_whole_matrix(device, kind):
    layer = plain(device=device)
    ours, x = kind.from_linear(layer), torch.randn(3, 136, device=device).bfloat16()
    grads = []
    for one in (layer, ours):
        leaf = x.clone().requires_grad_()
        one(leaf).float().square().sum().backward()
        grads.append(leaf.grad)
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("kind", OURS)
def test_a_state_dict_holds_the_layer(device, kind):
    ours, other = kind.from_linear(plain(device=device)), kind.from_linear(plain(device=device, seed=1))
    file = io.BytesIO()
    torch.save(ours.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    x = torch.randn(1, 136, device=device).bfloat16()
    assert torch.equal(other(x), ours(x)) and other.nbytes == ours.nbytes


@pytest.mark.parametrize("kind", OURS)
def test_a_damaged_state_dict_changes_nothing_and_is_named(device, kind):
    ours, x = kind.from_linear(plain(device=device)), torch.randn(1, 136, device=device).bfloat16()
    before = ours(x)
    state = {name: value.clone() for name, value in ours.state_dict().items()}
    first = kind.parts[0]
    with pytest.raises(RuntimeError, match=first if kind is GpuTealLinear else "group_offsets"):
        ours.load_state_dict(state | {first: state[first][:8]})
    with pytest.raises(RuntimeError, match=r"packed_as: \[80, 136\] outputs and inputs into a layer of 72 and 136"):
        ours.load_state_dict(state | {"packed_as": torch.tensor([1, 80, 136])})
    with pytest.raises(RuntimeError, match=f"Missing key.*{first}"):
        ours.load_state_dict({name: value for name, value in state.items() if name != first})
    assert torch.equal(ours(x), before)


@pytest.mark.parametrize("kind", OURS)
def test_a_layer_is_made_as_torch_s_own_and_moves_between_types_of_16_bits(device, kind):
    ours = kind(136, 72, device=device)
    assert ours.dtype == torch.bfloat16 and "in_features=136, out_features=72, bias=True, dtype=torch.bfloat16" in repr(ours)
    with torch.no_grad():
        assert ours.half()(torch.randn(1, 136, device=device).half()).dtype == torch.float16
    with pytest.raises(TypeError, match=r"packed weights stay bfloat16 or float16, torch\.float32 is asked for"):
        ours.float()


def test_what_no_layer_can_hold_is_refused(device):
    for kind in OURS:
        with pytest.raises(ValueError, match=r"weight: torch\.float32 \[72, 136\]; a GPU's layers are matrices of bfloat16 or float16"):
            kind.from_linear(plain(dtype=torch.float32))
        with pytest.raises(ValueError, match="weight: 100 inputs; a multiple of 8 is needed"):
            kind.from_linear(plain(inputs=100))


def test_two_of_four_weights_are_the_library_s():
    with pytest.raises(ValueError, match="weight: lies on cpu; torch compresses 2:4 weights on a GPU, move the model first"):
        GpuTwoFourLinear.from_linear(plain())


@pytest.mark.gpu
def test_two_of_four_weights_multiply_on_a_gpu():
    if not torch.cuda.is_available():
        pytest.skip("no GPU that torch can use")
    layer = plain(256, 256, device="cuda")
    layer.weight.view(256, 64, 4)[..., 2:] = 0
    x = torch.randn(8, 256, device="cuda").bfloat16()
    ours = GpuTwoFourLinear.from_linear(layer)
    torch.testing.assert_close(ours(x), layer(x), rtol=2e-2, atol=8e-2)
    assert torch.equal(ours.to_dense(), layer.weight)
    layer.weight[0, :4] = 1
    with pytest.raises(ValueError, match="more than two of four"):
        GpuTwoFourLinear.from_linear(layer)
