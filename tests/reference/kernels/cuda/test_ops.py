"""The CUDA kernels as torch operators, run by the emulator: torch's own checks, shapes without data, and what they refuse."""

import pytest

torch = pytest.importorskip("torch")

from xmsim.reference.kernels import attention_ops  # noqa: E402
from xmsim.reference.kernels.cuda import ops, weights  # noqa: E402, F401  registers the operators

OUT, IN = 72, 136


def parts_of(packed):
    fields = (getattr(packed, name) for name in packed.__dataclass_fields__)
    return tuple(part for part in fields if isinstance(part, torch.Tensor))


def cases(device, tokens):
    """{operator: (arguments, what it should give)}"""
    make = torch.Generator().manual_seed(0)
    weight = (torch.randn(OUT, IN, generator=make) * (torch.rand(OUT, IN, generator=make) < 0.5)).bfloat16().to(device)
    x, b = (torch.randn(*shape, generator=make).bfloat16().to(device) for shape in ((tokens, 1, IN), (OUT,)))
    tca, macko = weights.GpuTcaBme.from_dense(weight), weights.GpuMacko.from_dense(weight)
    spdp = weights.GpuColumnBitmap.from_dense(weight)
    whole = torch.nn.functional.linear(x.double(), weight.double(), b.double())
    some = torch.nn.functional.linear(x.masked_fill(x.abs() <= 0.5, 0).double(), weight.double(), b.double())
    found = torch.ops.xmsim
    return {
        "tca_bme": (found.tca_bme_linear, (x, *parts_of(tca), OUT, IN, b), whole),
        "macko": (found.macko_linear, (x, *parts_of(macko), OUT, IN, macko.equal_values, b), whole),
        "teal": (found.teal_linear, (x, weight.t().contiguous(), 0.5, b), some),
        "spdp": (found.spdp_linear, (x, *parts_of(spdp), OUT, IN, 0.5, b), some),
        "unpacked": (found.unpacked_columns, (*parts_of(spdp), OUT, IN), weight.double()),
    }


@pytest.mark.parametrize("tokens", [1, 20])
def test_operators_pass_torch_s_own_check_and_multiply(device, tokens):
    for operator, arguments, wanted in cases(device, tokens).values():
        torch.library.opcheck(operator.default, arguments, test_utils=("test_schema", "test_faketensor"))
        torch.testing.assert_close(operator(*arguments).double(), wanted, rtol=2e-2, atol=2e-2)


def test_a_compiled_function_calls_them_without_a_break(device):
    operator, (x, *rest), _ = cases(device, 2)["spdp"]
    compiled = torch.compile(lambda x: operator(x * 2, *rest) + 1, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), operator(x * 2, *rest) + 1)


def test_weights_that_do_not_fit_are_refused_before_a_kernel_follows_them(device):
    operator, (x, values, bitmap, *rest), _ = cases(device, 1)["tca_bme"]
    operator(x, values, bitmap, *rest)
    bitmap[3] = -1  # in place: known weights are looked at again when they change
    with pytest.raises(ValueError, match="group_offsets: they do not fit the bits of the bitmap"):
        operator(x, values, bitmap, *rest)
    operator, (x, values, deltas, rows, *rest), _ = cases(device, 1)["macko"]
    with pytest.raises(ValueError, match="deltas: 1 entries where"):
        operator(x, values, deltas[:1].clone(), rows, *rest)


def test_without_a_gpu_they_say_what_they_need(monkeypatch):
    from xmsim.reference.kernels.cuda import native

    monkeypatch.setattr(native, "is_emulated", lambda: False)
    for operator, arguments, _ in cases("cpu", 1).values():
        with pytest.raises((ValueError, native.CudaError), match=r"lies on cpu, the CUDA kernels need cuda|are not built"):
            operator(*arguments)


@pytest.mark.parametrize("dim", [48, 64])
def test_attention_operators_on_a_gpu_give_what_those_on_the_cpu_give(device, dim):
    make = torch.Generator().manual_seed(0)
    q, room_k, room_v = (torch.randn(n, 80, dim, generator=make).bfloat16() for n in (4, 2, 2))
    k, v = room_k[:, :70], room_v[:, :70]  # parts of a longer cache
    words = torch.randint(0, 1 << 62, (4, 9, 2), generator=make)
    words[:, :, 1] &= (1 << 6) - 1
    slopes = torch.rand(4, generator=make)
    on_device = [x.to(device) for x in (q, room_k, room_v, words, slopes)]
    gq, gk, gv, gwords, gslopes = on_device
    gk, gv = gk[:, :70], gv[:, :70]
    sparse = attention_ops.cuda_sparse_attention(gq[:, :9], gk, gv, gwords, slopes=gslopes)
    assert sparse.is_contiguous()
    wanted = torch.ops.xmsim.sparse_attention(q[:, :9], k, v, words, slopes=slopes)
    torch.testing.assert_close(sparse.cpu(), wanted, rtol=2e-2, atol=2e-2)
    for mask, gmask in ((None, None), (words[:, :1], gwords[:, :1]), (words[:2, :1], gwords[:2, :1])):
        decoded = attention_ops.cuda_decode_attention(gq[:, :1], gk, gv, gmask)
        assert decoded.is_contiguous() and decoded.shape == (4, 1, dim)
        wanted = torch.ops.xmsim.decode_attention(q[:, :1], k, v, mask)
        torch.testing.assert_close(decoded.cpu(), wanted, rtol=2e-2, atol=2e-2)
    with pytest.raises(ValueError, match="on a GPU decoding takes one query a head"):
        attention_ops.cuda_decode_attention(gq, gk, gv)


def test_the_decoding_operator_takes_several_sequences(device):
    make = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(*shape, 64, generator=make).bfloat16() for shape in ((3, 4, 1), (3, 2, 100), (3, 2, 100)))
    words, lengths = torch.randint(-(1 << 62), 1 << 62, (3, 2, 1, 2), generator=make), torch.tensor([70, 0, 100], dtype=torch.int32)
    words[2, ..., 1] &= (1 << 36) - 1
    slopes = torch.rand(4, generator=make)
    on_device = [x.to(device) for x in (q, k, v)]
    for mask in (None, words):
        given = {"slopes": slopes.to(device), "lengths": lengths.to(device)}
        decoded = attention_ops.cuda_decode_attention(*on_device, None if mask is None else mask.to(device), **given)
        wanted = torch.ops.xmsim.decode_attention(q, k, v, mask, slopes=slopes, lengths=lengths)
        assert decoded.shape == (3, 4, 1, 64) and decoded.is_contiguous() and not wanted[1].any()
        torch.testing.assert_close(decoded.cpu(), wanted, rtol=2e-2, atol=2e-2)
    with pytest.raises(ValueError, match="lengths: operands of several sequences are needed"):
        attention_ops.cuda_decode_attention(*(x[0] for x in on_device), lengths=lengths[:1].to(device))
