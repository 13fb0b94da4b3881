"""Linear layers of the GPU against float64, on shapes that fill no tile and on patterns with nothing in them."""

import pytest

torch = pytest.importorskip("torch")

from xmsim.reference.formats.column_bitmap import ColumnBitmap  # noqa: E402
from xmsim.reference.formats.macko import Macko  # noqa: E402
from xmsim.reference.formats.tca_bme import TcaBme  # noqa: E402
from xmsim.reference.kernels.cuda import linear, weights  # noqa: E402

SHAPES = ((72, 136), (130, 520))  # out_features, in_features
DTYPES = {torch.bfloat16: 8e-3, torch.float16: 1e-3}  # with the rounding of one result
SPARSE = {"tca_bme": (TcaBme, weights.GpuTcaBme, linear.tca_bme_linear), "macko": (Macko, weights.GpuMacko, linear.macko_linear)}


def problem(outputs, inputs, tokens, dtype, *, sparsity=0.5, seed=0):
    make = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, inputs, generator=make) / inputs**0.5
    weight[torch.rand(outputs, inputs, generator=make) < sparsity] = 0
    weight[: outputs // 3, : inputs // 2] = 0  # whole tiles without a weight
    weight[-1] = 1.5 * torch.randn(inputs, generator=make)  # and a row without a zero
    x, bias = torch.randn(tokens, inputs, generator=make), torch.randn(outputs, generator=make)
    return weight.to(dtype), x.to(dtype), bias.to(dtype)


def expected(x, weight, bias=None):
    product = x.double() @ weight.double().T
    return product if bias is None else product + bias.double()


def assert_close(y, wanted, bound):
    assert not y.isnan().any()
    error = (y.cpu().double() - wanted).norm() / wanted.norm()
    assert error < bound, float(error)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("tokens", [1, 3])
def test_dense_rows_multiply(device, shape, tokens, dtype):
    weight, x, bias = problem(*shape, tokens, dtype)
    y = linear.dense_linear(x.to(device), weight.to(device), bias.to(device))
    assert_close(y, expected(x, weight, bias), DTYPES[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("tokens", [1, 11])
@pytest.mark.parametrize("name", SPARSE)
def test_packed_rows_multiply(device, either_order, shape, tokens, dtype, name):
    pack, place, multiply = SPARSE[name]
    weight, x, bias = problem(*shape, tokens, dtype)
    y = multiply(x.to(device), place.of(pack.from_dense(weight), device), bias.to(device))
    assert_close(y, expected(x, weight, bias), DTYPES[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("threshold", [0.7, 100.0])
def test_inactive_inputs_count_as_zero(device, either_order, shape, tokens, dtype, threshold):
    weight, x, bias = problem(*shape, tokens, dtype)
    kept = torch.where(x.float().abs() > threshold, x, torch.zeros_like(x))
    spdp = linear.spdp_linear(
        x.to(device), weights.GpuColumnBitmap.of(ColumnBitmap.from_dense(weight), device), bias.to(device), threshold=threshold
    )
    assert_close(spdp, expected(kept, weight, bias), DTYPES[dtype])
    if shape[0] % 8 == 0:
        teal = linear.teal_linear(x.to(device), weight.T.contiguous().to(device), bias.to(device), threshold=threshold)
        assert_close(teal, expected(kept, weight, bias), DTYPES[dtype])


@pytest.mark.parametrize("inputs", [8, 2504, 20488])  # the last takes more than one step
def test_active_inputs_are_listed_in_their_order(device, either_order, inputs):
    x = torch.randn(2, inputs, generator=torch.Generator().manual_seed(3)).bfloat16()
    found = linear.active_inputs(x.to(device), 0.5)
    for token, row in enumerate(x.float()):
        (wanted,) = torch.where(row.abs() > 0.5)
        count = int(found.counts[token])
        assert count == len(wanted)
        assert torch.equal(found.indices[token, :count].cpu(), wanted.int())
        assert torch.equal(found.values[token, :count].cpu(), row[wanted])


def test_an_input_that_is_not_a_number_shows(device):
    weight, x, _ = (part if part is None else part.to(device) for part in problem(64, 64, 2, torch.bfloat16, sparsity=0))
    x[1, 5] = torch.nan
    weight[:, 5] = 1
    packed = weights.GpuColumnBitmap.from_dense(weight)
    for y in (linear.spdp_linear(x, packed, threshold=0.5), linear.teal_linear(x, weight.T.contiguous(), threshold=0.5)):
        assert not y[0].isnan().any() and y[1].isnan().all()


@pytest.mark.parametrize("name", SPARSE)
def test_weights_that_are_all_zero_give_the_bias(device, name):
    pack, place, multiply = SPARSE[name]
    weight, bias = torch.zeros(64, 64, dtype=torch.float16), torch.randn(64).half()
    y = multiply(torch.randn(2, 64).half().to(device), place.of(pack.from_dense(weight), device), bias.to(device))
    assert torch.equal(y.cpu(), bias.expand(2, 64))


def test_two_runs_give_the_same_bits(device):
    weight, x, _ = problem(130, 520, 3, torch.bfloat16)
    packed = weights.GpuColumnBitmap.of(ColumnBitmap.from_dense(weight), device)
    runs = [linear.spdp_linear(x.to(device), packed, threshold=0.3) for _ in range(2)]
    assert torch.equal(*runs)


def test_no_tokens_give_no_rows(device):
    weight, x, bias = (part.to(device) for part in problem(64, 64, 0, torch.bfloat16))
    assert linear.dense_linear(x, weight, bias).shape == (0, 64)


def test_what_the_kernels_cannot_read_is_refused(device):
    weight, x, bias = (part.to(device) for part in problem(64, 64, 2, torch.bfloat16))
    with pytest.raises(ValueError, match="x: 72 inputs do not fit the 64 of the weights"):
        linear.dense_linear(x.new_zeros(2, 72), weight)
    with pytest.raises(ValueError, match=r"weight: torch\.bfloat16 is not one of torch\.float16"):
        linear.dense_linear(x.half(), weight)
    with pytest.raises(ValueError, match="x: 60 inputs; a multiple of 8 is needed"):
        linear.dense_linear(x.new_zeros(2, 60), weight.new_zeros(64, 60))
    with pytest.raises(ValueError, match="bias: 63 outputs do not fit the 64 of the weights"):
        linear.dense_linear(x, weight, bias[:63].clone())
    with pytest.raises(ValueError, match="x: 17 tokens; at most 16 are multiplied at once"):
        linear.tca_bme_linear(x.new_zeros(17, 64), weights.GpuTcaBme.of(TcaBme.from_dense(weight.cpu()), device))
    with pytest.raises(ValueError, match="threshold: nan must be a number of at least 0"):
        linear.teal_linear(x, weight, threshold=float("nan"))
    with pytest.raises(ValueError, match="x: 60 inputs; a multiple of 8 is needed"):
        linear.active_inputs(x.new_zeros(2, 60), 0.5)
    with pytest.raises(ValueError, match="weights: float32 is not multiplied on the GPU; pack them as bfloat16"):
        weights.GpuTcaBme.of(TcaBme.from_dense(torch.zeros(64, 64)), device)
