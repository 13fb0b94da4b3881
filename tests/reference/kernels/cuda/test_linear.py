"""Linear layers of the GPU against float64, on shapes that fill no tile and on patterns with nothing in them."""

from ctypes import c_size_t, c_void_p

import pytest

torch = pytest.importorskip("torch")

from xmsim.reference.formats.column_bitmap import ColumnBitmap  # noqa: E402
from xmsim.reference.formats.macko import Macko  # noqa: E402
from xmsim.reference.formats.tca_bme import TcaBme  # noqa: E402
from xmsim.reference.kernels.cuda import linear, native, weight_checks, weights  # noqa: E402

SHAPES = ((72, 136), (130, 520))  # out_features, in_features
LONG = (40, 4168)  # a warp that lists active inputs does so a second time, with some left from the first
DTYPES = {torch.bfloat16: 8e-3, torch.float16: 1e-3}  # with the rounding of one result
FORMS = (weights.GpuTcaBme, weights.GpuColumnBitmap, weights.GpuMacko)
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


@pytest.mark.parametrize("threshold", [0.0, 0.7, 2.5])  # all inputs active, half, a few
def test_every_active_input_counts_once_however_many_a_warp_lists(device, either_order, threshold):
    weight, x, bias = problem(*LONG, 1, torch.bfloat16)
    kept = torch.where(x.float().abs() > threshold, x, torch.zeros_like(x))
    packed = weights.GpuColumnBitmap.of(ColumnBitmap.from_dense(weight), device)
    x, columns, bias = x.to(device), weight.T.contiguous().to(device), bias.to(device)
    assert_close(linear.spdp_linear(x, packed, bias, threshold=threshold), expected(kept, weight, bias.cpu()), 8e-3)
    assert_close(linear.teal_linear(x, columns, bias, threshold=threshold), expected(kept, weight, bias.cpu()), 8e-3)


@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize("shape", [*SHAPES, LONG])
def test_rows_are_cut_into_blocks_of_any_number_of_pieces(device, either_order, shape, blocks, monkeypatch):
    monkeypatch.setattr(linear, "_multiprocessors", lambda device: blocks)  # passes of 32 and of 16 rows, in every quarter of a word
    weight, x, bias = problem(*shape, 1, torch.bfloat16)
    kept = torch.where(x.float().abs() > 0.7, x, torch.zeros_like(x))
    packed = weights.GpuColumnBitmap.from_dense(weight.to(device))
    y = linear.spdp_linear(x.to(device), packed, bias.to(device), threshold=0.7)
    assert_close(y, expected(kept, weight, bias), 8e-3)


def test_weights_of_inactive_inputs_take_no_part_even_if_they_are_infinite(device, either_order):
    weight, x, _ = problem(72, 520, 1, torch.float16)
    inactive = x[0].float().abs() <= 0.7
    wanted = expected(x.masked_fill(inactive, 0), weight)
    weight[:, inactive] = torch.inf
    packed = weights.GpuColumnBitmap.from_dense(weight.to(device))
    for y in (
        linear.spdp_linear(x.to(device), packed, threshold=0.7),
        linear.teal_linear(x.to(device), weight.T.contiguous().to(device), threshold=0.7),
    ):
        assert_close(y, wanted, 1e-3)


@pytest.mark.parametrize("shortest", [0, 300, 900])  # of which none, one or three steps of a warp are equal in all rows
def test_a_row_of_any_length_ends_where_it_ends(device, either_order, shortest):
    make = torch.Generator().manual_seed(5)
    weight = torch.zeros(34, 4104)
    for row in range(34):  # gaps are longer than four bits say, too
        kept = torch.randperm(4104, generator=make)[: shortest + 24 * row]
        weight[row, kept] = torch.randn(len(kept), generator=make)
    weight, x = weight.half(), torch.randn(1, 4104, generator=make).half()
    for packed in (weights.GpuMacko.of(Macko.from_dense(weight), device), weights.GpuMacko.from_dense(weight.to(device))):
        assert packed.equal_values == shortest // 256 * 256
        weight_checks.check_macko(packed)
        y = linear.macko_linear(x.to(device), packed)
        torch.testing.assert_close(y.cpu().double(), expected(x, weight), rtol=2e-3, atol=2e-2)


@pytest.mark.parametrize("tokens", [1, 4, 5, 16])
def test_a_warp_goes_on_beyond_the_offsets_it_looked_up_at_once(device, either_order, tokens):
    weight, x, _ = problem(20, 33 * 8 * 64 + 8, tokens, torch.bfloat16)  # 34 GroupTiles for a warp, which looks up 32
    y = linear.tca_bme_linear(x.to(device), weights.GpuTcaBme.of(TcaBme.from_dense(weight), device))
    assert_close(y, expected(x, weight), 8e-3)


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
    weight, x, _ = (part.to(device) for part in problem(136, 520, 3, torch.bfloat16))
    columns, bitmap, by_columns, rows = weight.T.contiguous(), *(form.from_dense(weight) for form in FORMS)
    for multiply in (
        lambda: linear.spdp_linear(x, by_columns, threshold=0.3),
        lambda: linear.teal_linear(x, columns, threshold=0.3),
        lambda: linear.tca_bme_linear(x, bitmap),
        lambda: linear.macko_linear(x, rows),
    ):
        assert torch.equal(multiply(), multiply())


def layers(size, device):
    """{name: (a product with a square matrix that keeps the size of vectors, what the kernel reads beside the inputs)}."""
    weight = problem(size, size, 1, torch.bfloat16)[0].to(device)
    columns, bitmap, by_columns, rows = weight.T.contiguous(), *(form.from_dense(weight) for form in FORMS)

    def parts(packed):
        return [part for part in (getattr(packed, name) for name in packed.__dataclass_fields__) if isinstance(part, torch.Tensor)]

    return {
        "dense": (lambda x: linear.dense_linear(x, weight), [weight]),
        "teal": (lambda x: linear.teal_linear(x, columns, threshold=0.01), [columns]),
        "tca_bme": (lambda x: linear.tca_bme_linear(x, bitmap), parts(bitmap)),
        "macko": (lambda x: linear.macko_linear(x, rows), parts(rows)),
        "spdp": (lambda x: linear.spdp_linear(x, by_columns, threshold=0.01), parts(by_columns)),
    }


@pytest.mark.parametrize("name", ["dense", "teal", "tca_bme", "macko", "spdp"])
def test_a_kernel_that_starts_early_reads_nothing_before_the_kernel_before_has_ended(device, either_order, name):
    multiply, parts = layers(200, device)[name]
    x = problem(200, 200, 1, torch.bfloat16)[1].to(device)
    wanted = multiply(x)
    if device == "cpu":
        before = native.cuda_library().xm_emulate_kernel_before
        try:
            for written in (x, *parts):
                content = written.clone()
                before(c_void_p(written.data_ptr()), c_void_p(content.data_ptr()), c_size_t(written.nbytes))
                assert torch.equal(multiply(x), wanted)
        finally:
            before(None, None, c_size_t(0))
    else:
        steps, y = [], x
        for _ in range(40):
            y = multiply(y)
            torch.cuda.synchronize()
            steps.append(y)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = [x]
            for _ in range(40):
                captured.append(multiply(captured[-1]))
        for _ in range(3):
            graph.replay()
        torch.cuda.synchronize()
        assert all(torch.equal(one, other) for one, other in zip(steps, captured[1:], strict=True))


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
    many = torch.empty((65536, 64), dtype=torch.bfloat16, device=device)
    with pytest.raises(ValueError, match="x: 65536 tokens; at most 65535 are multiplied at once"):
        linear.dense_linear(many, weight)
    with pytest.raises(ValueError, match="threshold: nan must be a number of at least 0"):
        linear.teal_linear(x, weight, threshold=float("nan"))
    with pytest.raises(ValueError, match="weights: float32 is not multiplied on the GPU; pack them as bfloat16"):
        weights.GpuTcaBme.of(TcaBme.from_dense(torch.zeros(64, 64)), device)
