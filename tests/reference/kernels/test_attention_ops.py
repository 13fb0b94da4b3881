"""The attention kernels as torch operators."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from xmsim.reference.kernels import attention, attention_ops  # noqa: E402, F401  registers the operators


def case(dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(heads, 50, 32, generator=generator).to(dtype) for heads in (4, 2, 2))
    words = torch.from_numpy(np.random.default_rng(0).integers(0, 2**50, (4, 50, 1), dtype=np.int64))
    return q, k, v, words


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operators_pass_torch_s_own_check_and_give_what_the_functions_give(dtype: torch.dtype) -> None:
    q, k, v, words = case(dtype)
    slopes = torch.rand(4)
    sparse, decode = torch.ops.xmsim.sparse_attention.default, torch.ops.xmsim.decode_attention.default
    torch.library.opcheck(sparse, (q, k, v, words), {"scale": 0.2, "slopes": slopes})
    torch.library.opcheck(decode, (q[:, :1], k, v))
    torch.library.opcheck(decode, (q, k, v, words))
    assert torch.equal(
        sparse(q, k, v, words, scale=0.2, slopes=slopes), attention.sparse_attention(q, k, v, words, scale=0.2, slopes=slopes)
    )
    assert torch.equal(decode(q[:, :1], k, v), attention.causal_attention(q[:, :1], k, v))


def test_sequences_of_different_lengths_are_decoded_as_each_alone() -> None:
    q, k, v, words = case(torch.float32)
    sequences = [torch.stack([x, 2 * x, 3 * x]) for x in (q, k, v, words)]
    lengths = torch.tensor([50, 0, 30], dtype=torch.int32)
    q, k, v, words = sequences[0][:, :, -7:], sequences[1], sequences[2], torch.stack([words[:, -7:]] * 3)
    decode = torch.ops.xmsim.decode_attention.default
    torch.library.opcheck(decode, (q, k, v, words), {"lengths": lengths})
    out = decode(q, k, v, words, lengths=lengths)
    assert torch.equal(out[0], decode(q[0], k[0], v[0], words[0])) and not out[1].any()
    assert torch.equal(out[2], decode(q[2], k[2, :, :30], v[2, :, :30], words[2] & (1 << 30) - 1))
    assert torch.equal(decode(q, k, v)[1], decode(q[1], k[1], v[1]))
    with pytest.raises(ValueError, match="lengths: operands of several sequences are needed"):
        decode(q[0], k[0], v[0], lengths=lengths[:1])


def test_a_compiled_function_calls_them_without_a_break() -> None:
    q, k, v, words = case(torch.float32)

    def layer(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return torch.ops.xmsim.decode_attention(q[:, -1:] * 2, k, v) + torch.ops.xmsim.sparse_attention(q, k, v, words)[:, -1:]

    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(q, k, v), layer(q, k, v))
