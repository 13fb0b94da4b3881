"""Linear layers in torch: operations, modules, their state dicts, gradients and torch.compile."""

from __future__ import annotations

import copy
from pathlib import Path
from shutil import which
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402

from xmsim.reference.formats import DenseTiles, SparseBitmap  # noqa: E402
from xmsim.reference.kernels import (  # noqa: E402
    DenseLinear,
    Int8SparseLinear,
    SparseLinear,
    dense_linear,
    linear_ops,
    sparse_linear,
)
from xmsim.reference.kernels.linear_ops import packed_linear, tensors_of  # noqa: E402

MODULES = (DenseLinear, SparseLinear, Int8SparseLinear)
DTYPES = (torch.float32, torch.bfloat16)


def half_sparse(in_features: int, out_features: int, dtype: torch.dtype = torch.float32, bias: bool = True) -> torch.nn.Linear:
    generator = torch.Generator().manual_seed(in_features)
    layer = torch.nn.Linear(in_features, out_features, bias=bias, dtype=dtype)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(out_features, in_features, generator=generator))
        layer.weight[torch.rand(out_features, in_features, generator=generator) < 0.5] = 0
        if bias:
            layer.bias.copy_(torch.randn(out_features, generator=generator))
    return layer


def tokens_for(layer: torch.nn.Linear, count: int = 3) -> torch.Tensor:
    return torch.randn(count, layer.in_features, generator=torch.Generator().manual_seed(1)).to(layer.weight.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("in_features, out_features, bias", [(6, 2, True), (300, 77, False), (1, 1, True)])
def test_a_packed_layer_computes_what_the_layer_did(module: Any, dtype: Any, in_features: int, out_features: int, bias: bool) -> None:
    layer = half_sparse(in_features, out_features, dtype, bias)
    packed, x = module.from_linear(layer), tokens_for(layer)
    y, expected = packed(x.reshape(3, 1, -1)), layer(x)[:, None]
    assert y.dtype == dtype and y.shape == expected.shape
    steps = 2.0**-5 if module is Int8SparseLinear else 2.0**-7
    torch.testing.assert_close(y, expected, rtol=steps, atol=steps * float(expected.detach().abs().max()))


@pytest.mark.parametrize("module", MODULES)
def test_a_layer_is_made_with_the_arguments_of_nn_linear(module: Any) -> None:
    layer = module(6, 2, bias=False, device="cpu", dtype=torch.bfloat16)
    assert layer.bias is None and (layer.in_features, layer.out_features) == (6, 2)
    assert layer(torch.ones(3, 6, dtype=torch.bfloat16)).shape == (3, 2)
    with pytest.raises(ValueError, match="CPU"):
        module(6, 2, device="meta")


def test_functions_take_tensors_as_they_take_arrays() -> None:
    layer = half_sparse(40, 33)
    x, weight = tokens_for(layer), layer.weight.detach()
    for function, form in ((dense_linear, DenseTiles), (sparse_linear, SparseBitmap)):
        y = function(x, form.from_dense(weight), layer.bias.detach())
        assert torch.equal(y, function(x, weight, layer.bias.detach()))
        assert (y.numpy() == function(x.numpy(), weight.numpy(), layer.bias.detach().numpy())).all()
        torch.testing.assert_close(y, layer(x))


def operation_cases() -> list[Any]:
    return [(module, dtype) for module in MODULES for dtype in DTYPES]


@pytest.mark.parametrize("module, dtype", operation_cases())
def test_operations_pass_opcheck(module: Any, dtype: Any) -> None:
    layer = half_sparse(70, 33, dtype)
    tensors = tensors_of(module.from_linear(layer).packed())
    x, bias = tokens_for(layer).requires_grad_(), layer.bias
    if module is DenseLinear:
        arguments: tuple[Any, ...] = (x, tensors.values, *tensors[3:], bias)
        torch.library.opcheck(torch.ops.xmsim.dense_linear.default, arguments)
    else:
        torch.library.opcheck(torch.ops.xmsim.sparse_linear.default, (x, *tensors, bias))
    torch.library.opcheck(torch.ops.xmsim.unpacked_weights.default, tuple(tensors))


@pytest.mark.parametrize("module", MODULES)
def test_gradients_reach_x_and_the_bias(module: Any) -> None:
    layer = half_sparse(40, 33)
    packed = module.from_linear(layer)
    ours, theirs = tokens_for(layer).requires_grad_(), tokens_for(layer).requires_grad_()
    packed.bias = torch.nn.Parameter(layer.bias.detach().clone())
    packed(ours).square().sum().backward()
    torch.nn.functional.linear(theirs, packed.to_dense(), layer.bias).square().sum().backward()
    tolerance = {"rtol": 0.05, "atol": 1.0} if module is Int8SparseLinear else {}
    torch.testing.assert_close(ours.grad, theirs.grad, **tolerance)
    torch.testing.assert_close(packed.bias.grad, layer.bias.grad, **tolerance)


def test_the_operation_and_the_direct_call_give_the_same() -> None:
    layer = half_sparse(40, 33, torch.bfloat16)
    tensors, x = tensors_of(SparseBitmap.from_dense(layer.weight)), tokens_for(layer)
    with torch.no_grad():
        direct = packed_linear(x, tensors, layer.bias)
    assert torch.equal(torch.ops.xmsim.sparse_linear(x, *tensors, layer.bias), direct)


def test_the_profiler_sees_the_operation() -> None:
    layer = half_sparse(40, 33)
    packed, x = SparseLinear.from_linear(layer), tokens_for(layer)
    with torch.no_grad(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        packed(x)
    assert "xmsim::sparse_linear" in {event.key for event in profile.key_averages()}


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_compiled_model_gives_the_same(dtype: Any) -> None:
    if which("g++") is None and which("clang++") is None:
        pytest.skip("inductor needs a C++ compiler")
    layers = [half_sparse(24, 40, dtype), half_sparse(40, 40, dtype), half_sparse(40, 8, dtype)]
    model = torch.nn.Sequential(DenseLinear.from_linear(layers[0]), torch.nn.ReLU(), SparseLinear.from_linear(layers[1]), torch.nn.ReLU())
    model.append(Int8SparseLinear.from_linear(layers[2]))
    x = tokens_for(layers[0])
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, fullgraph=True)(x), model(x))


@pytest.mark.parametrize("module, dtype", operation_cases())
def test_a_state_dict_round_trips_through_safetensors(module: Any, dtype: Any, tmp_path: Path) -> None:
    layer = half_sparse(70, 33, dtype)
    packed = torch.nn.Sequential(torch.nn.Identity(), module.from_linear(layer))
    save_file(packed.state_dict(), tmp_path / "model.safetensors")
    fresh = torch.nn.Sequential(torch.nn.Identity(), module(70, 33, dtype=dtype))
    loaded = fresh.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert not loaded.missing_keys and not loaded.unexpected_keys
    x = tokens_for(layer)
    assert torch.equal(fresh(x), packed(x)) and fresh[1].nbytes == packed[1].nbytes
    assert "sparsity=0.4" in repr(fresh) or "sparsity=0.5" in repr(fresh) or module is DenseLinear


def test_a_state_dict_that_does_not_fit_is_refused_and_changes_nothing() -> None:
    layer = half_sparse(70, 33)
    packed, x = SparseLinear.from_linear(layer), tokens_for(layer)
    before, good = packed(x), packed.state_dict()
    damages: list[tuple[str, Any, str]] = [
        ("packed_as", torch.tensor([2, 33, 70]), "reads 1"),
        ("bitmap", torch.full_like(good["bitmap"], 255), "pack the weights again|pack them again"),
        ("offsets", good["offsets"] + 1, "pack them again"),
        ("values", good["values"][:-1], "pack them again|pack the weights again"),
        ("values", good["values"].bfloat16(), "layer of torch.float32"),
        ("bitmap", None, "Missing key"),
        ("weight", torch.ones(33, 70), "Unexpected key"),
    ]
    for name, part, said in damages:
        damaged = {key: value for key, value in {**good, name: part}.items() if value is not None}
        with pytest.raises(RuntimeError, match=said):
            packed.load_state_dict(damaged)
        assert torch.equal(packed(x), before)
    with pytest.raises(RuntimeError, match="outputs and inputs"):
        SparseLinear(69, 33).load_state_dict(good)


@pytest.mark.parametrize("module", MODULES)
def test_a_copy_is_a_layer_of_its_own(module: Any) -> None:
    layer = half_sparse(70, 33)
    packed, x = module.from_linear(layer), tokens_for(layer)
    twin = copy.deepcopy(packed)
    y = packed(x)
    packed.values.zero_()
    assert torch.equal(twin(x), y) and not torch.equal(packed(x), y)


@pytest.mark.parametrize("module", MODULES)
def test_packed_weights_stay_where_and_what_they_are(module: Any) -> None:
    packed = module.from_linear(half_sparse(70, 33))
    with pytest.raises(ValueError, match="before it is packed"):
        packed.to("meta")
    if module is Int8SparseLinear:
        assert packed.to(torch.bfloat16)(torch.ones(1, 70, dtype=torch.bfloat16)).dtype == torch.bfloat16
        assert packed.scales.dtype == torch.float32
    else:
        with pytest.raises(TypeError, match="before they are packed"):
            packed.to(torch.bfloat16)
    packed.eval().train().requires_grad_(False).to("cpu")


def test_what_a_kernel_cannot_read_is_refused() -> None:
    layer = half_sparse(70, 33)
    packed, x = SparseLinear.from_linear(layer), tokens_for(layer)
    with pytest.raises(TypeError, match="bfloat16"):
        packed(x.bfloat16())
    with pytest.raises(ValueError, match="in_features"):
        packed(x[:, :-1])
    with pytest.raises(ValueError, match="sparse"):
        packed(x.to_sparse())
    with pytest.raises(TypeError, match="float64"):
        SparseLinear.from_linear(half_sparse(4, 4, torch.float64))
    with pytest.raises((ValueError, NotImplementedError), match="meta"):
        packed(x.to("meta")).cpu()
    tensors = tensors_of(packed.packed())
    for name, damaged in (("bitmap", ~tensors.bitmap), ("values", tensors.values[:-1]), ("offsets", tensors.offsets + 1)):
        with pytest.raises(ValueError, match="again"):
            torch.ops.xmsim.sparse_linear(x, *tensors._replace(**{name: damaged}), None)


@pytest.mark.parametrize("kind", [DenseLinear, SparseLinear, Int8SparseLinear])
def test_no_tokens_give_no_outputs_with_and_without_gradients(kind: type) -> None:
    layer = half_sparse(70, 33)
    packed = kind.from_linear(layer)
    none = torch.empty(2, 0, 70, requires_grad=True)
    packed(none).sum().backward()
    assert none.grad is not None and none.grad.shape == none.shape
    with torch.no_grad():
        assert packed(none).shape == layer(none).shape


def test_weights_that_were_changed_are_looked_at_again() -> None:
    layer = half_sparse(70, 33)
    packed, x = SparseLinear.from_linear(layer), tokens_for(layer)
    packed(x)
    packed.bitmap.fill_(255)
    with pytest.raises(ValueError, match="again"):
        packed(x)


def test_without_compiled_kernels_numpy_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    for dtype in DTYPES:
        layer = half_sparse(70, 33, dtype)
        packed, x = SparseLinear.from_linear(layer), tokens_for(layer)
        y = packed(x)
        with monkeypatch.context() as patch:
            patch.setattr(linear_ops, "native_linear", lambda: None)
            torch.testing.assert_close(packed(x), y)


def test_strides_and_offsets_of_x_are_followed() -> None:
    layer = half_sparse(70, 33)
    packed, x = SparseLinear.from_linear(layer), tokens_for(layer)
    y = packed(x)
    assert torch.equal(packed(x.T.contiguous().T), y)
    bytes_ = torch.zeros(x.numel() * 4 + 1, dtype=torch.uint8)
    bytes_[1:] = x.reshape(-1).view(torch.uint8)
    misaligned = torch.frombuffer(bytes_.numpy(), dtype=torch.float32, offset=1, count=x.numel()).reshape(x.shape)
    assert misaligned.data_ptr() % 4 != 0
    assert torch.equal(packed(misaligned), y)
