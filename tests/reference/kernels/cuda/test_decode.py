"""Attention of one query a head on the GPU against the float64 reference."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from xmsim.reference.attention import sparse_attention as judge  # noqa: E402
from xmsim.reference.kernels.cuda.decode import GpuKvCache, decode_attention  # noqa: E402

DTYPES = {torch.bfloat16: 8e-3, torch.float16: 1e-3}


def filled_cache(kv_heads, tokens, dim, dtype, device, *, room=16, seed=0):
    make = torch.Generator().manual_seed(seed)
    cache = GpuKvCache(kv_heads, dim, dtype, tokens=room, device=device)
    k, v = (torch.randn(kv_heads, tokens, dim, generator=make).to(dtype) for _ in range(2))
    half = tokens // 2
    for part in (slice(half), slice(half, tokens)):
        cache.append(k[:, part].to(device), v[:, part].to(device))
    return cache, k, v


def words_of(keep, device):
    padded = np.pad(keep, ((0, 0), (0, -keep.shape[1] % 64)))
    return torch.from_numpy(np.packbits(padded, axis=1, bitorder="little").view(np.int64)).to(device)


def assert_close(out, wanted, bound):
    assert not out.isnan().any()
    assert np.linalg.norm(out.cpu().double().numpy() - wanted) / np.linalg.norm(wanted) < bound


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shared", [True, False], ids=["group_list", "head_lists"])
@pytest.mark.parametrize(("heads", "kv_heads", "tokens", "dim"), [(4, 1, 700, 128), (2, 2, 65, 64), (8, 1, 300, 40), (4, 2, 1, 64)])
def test_kept_keys_and_no_others_are_attended(device, either_order, heads, kv_heads, tokens, dim, shared, dtype):
    cache, k, v = filled_cache(kv_heads, tokens, dim, dtype, device)
    make = np.random.default_rng(1)
    q = torch.tensor(make.standard_normal((heads, dim)), dtype=dtype)
    keep = make.random((kv_heads if shared else heads, tokens)) < 0.15
    keep[:, tokens // 4 : tokens // 2] = False  # dead blocks
    keep[:, -1] = True
    out = decode_attention(q.to(device), cache, words_of(keep, device))
    masks = np.repeat(keep, heads // len(keep), 0)[:, None]
    wanted = judge(*(x.double().numpy() for x in (q[:, None], k, v)), masks)[:, 0]
    assert_close(out, wanted, DTYPES[dtype])


def test_without_words_every_key_is_attended(device):
    cache, k, v = filled_cache(2, 130, 64, torch.float16, device)
    q = torch.randn(4, 64, generator=torch.Generator().manual_seed(5)).half()
    slopes = torch.tensor([0.1, 0.2, 0.0, 0.01])
    out = decode_attention(q.to(device), cache, scale=0.2, slopes=slopes.to(device))
    bias = slopes.double().numpy()[:, None, None] * np.arange(130)
    wanted = judge(*(x.double().numpy() for x in (q[:, None], k, v)), np.ones((4, 1, 130), bool), scale=0.2, bias=bias)[:, 0]
    assert_close(out, wanted, 1e-3)


def test_a_head_that_keeps_nothing_gives_zeros(device):
    cache, *_ = filled_cache(1, 100, 64, torch.bfloat16, device)
    words = torch.zeros(2, 2, dtype=torch.int64, device=device)
    words[1, 0] = 1
    out = decode_attention(torch.ones(2, 64, dtype=torch.bfloat16, device=device), cache, words)
    assert not out[0].any() and torch.equal(out[1].cpu(), cache.v[0, 0, :64].cpu())


def test_operands_that_do_not_fit_are_refused(device):
    cache, *_ = filled_cache(2, 100, 64, torch.bfloat16, device)
    q = torch.zeros(4, 64, dtype=torch.bfloat16, device=device)
    with pytest.raises(ValueError, match=r"words: shape \[3, 2\] is not \[2 or 4, 2\]"):
        decode_attention(q, cache, torch.zeros(3, 2, dtype=torch.int64, device=device))
    with pytest.raises(ValueError, match=r"q: \[6, 64\] does not fit 2 KV heads of 64 channels"):
        decode_attention(q.new_zeros(6, 64), cache)
    with pytest.raises(ValueError, match=r"q: torch\.float16 is not one of torch\.bfloat16"):
        decode_attention(q.half(), cache)
    with pytest.raises(ValueError, match="cache: it is empty"):
        decode_attention(q, GpuKvCache(2, 64, device=device))
    with pytest.raises(ValueError, match=r"k: the cache holds torch\.bfloat16, got torch\.float16"):
        cache.append(*(torch.zeros(2, 1, 64, dtype=torch.float16, device=device) for _ in range(2)))
    with pytest.raises(ValueError, match="each at least 1, head_dim at most 128"):
        GpuKvCache(2, 256, device=device)
