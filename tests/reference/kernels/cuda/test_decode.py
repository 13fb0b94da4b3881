"""Attention of one query a head on the GPU against the float64 reference."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from xmsim.reference.attention import sparse_attention as judge  # noqa: E402
from xmsim.reference.kernels.cuda.decode import GpuKvCache, attend_newest, decode_attention  # noqa: E402

DTYPES = (torch.bfloat16, torch.float16)
WARPS = 12  # of a KV head on the emulator: three splits of four


def filled_cache(kv_heads, tokens, dim, dtype, device, *, room=16, seed=0):
    make = torch.Generator().manual_seed(seed)
    cache = GpuKvCache(kv_heads, dim, dtype, tokens=room, device=device)
    k, v = (torch.randn(kv_heads, tokens, dim, generator=make).to(dtype) for _ in range(2))
    half = tokens // 2
    for part in (slice(half), slice(half, tokens)):
        cache.append(k[:, part].to(device), v[:, part].to(device))
    return cache, k, v


def queries(heads, dim, dtype):
    return torch.randn(heads, dim, generator=torch.Generator().manual_seed(1)).to(dtype)


def words_of(keep, device):
    padded = np.pad(keep, ((0, 0), (0, -keep.shape[1] % 64)))
    return torch.from_numpy(np.packbits(padded, axis=1, bitorder="little").view(np.int64)).to(device)


def assert_right(out, q, k, v, keep, **scaling):
    """Within the rounding of the result, and of each probability before it is multiplied by a value: both to out's format."""
    masks = np.repeat(keep, len(q) // len(keep), 0)[:, None]
    rows, keys, values = (x.double().numpy() for x in (q[:, None], k, v))
    wanted, magnitude = (judge(rows, keys, part, masks, **scaling)[:, 0] for part in (values, np.abs(values)))
    unit = torch.finfo(out.dtype).eps / 2
    error = np.abs(out.cpu().double().numpy() - wanted)
    assert (error <= unit * (np.abs(wanted) + 1.02 * magnitude)).all()  # 2 %: sums, scores and exponentials in float32


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shared", [True, False], ids=["group_list", "head_lists"])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "tokens", "dim"),
    [(4, 1, 700, 128), (2, 2, 65, 64), (8, 1, 300, 40), (4, 2, 1, 64), (6, 2, 129, 128), (12, 1, 200, 64)],
)
def test_kept_keys_and_no_others_are_attended(device, either_order, heads, kv_heads, tokens, dim, shared, dtype):
    _, k, v = filled_cache(kv_heads, tokens, dim, dtype, "cpu")
    q, make = queries(heads, dim, dtype), np.random.default_rng(1)
    keep = make.random((kv_heads if shared else heads, tokens)) < 0.15
    keep[:, tokens // 4 : tokens // 2] = False  # dead blocks
    keep[:, -1] = True
    unread = ~torch.from_numpy(keep.reshape(kv_heads, -1, tokens).any(1))
    k[unread], v[unread] = torch.nan, torch.nan
    out = attend_newest(q.to(device), k.to(device), v.to(device), words_of(keep, device))
    assert_right(out, q, k.nan_to_num(), v.nan_to_num(), keep)


def test_lists_longer_than_a_window_of_words_are_carried_on(device, either_order):
    tokens = WARPS * 16 * 64  # two windows of eight words a warp
    cache, k, v = filled_cache(1, tokens, 64, torch.float16, device)
    keep = np.zeros((WARPS * 16, 64), bool)
    keep[::5, 7] = True
    keep[WARPS * np.arange(8) + 3] = False  # a warp that takes 16 keys of 31, carries the others, and then lists as many as fit
    keep[3, 20:51] = True
    keep[WARPS * np.arange(8, 16) + 3] = True
    keep[WARPS * np.arange(16) + 4] = False  # one without any
    keep = keep.reshape(1, tokens)
    q = queries(2, 64, torch.float16)
    assert_right(decode_attention(q.to(device), cache, words_of(keep, device)), q, k, v, keep)


def test_one_live_block_is_enough(device, either_order):
    cache, k, v = filled_cache(2, 1000, 64, torch.bfloat16, device)
    keep = np.zeros((2, 1000), bool)
    keep[0, 700] = keep[1, 960:] = True
    q = queries(2, 64, torch.bfloat16)
    out = decode_attention(q.to(device), cache, words_of(keep, device))
    assert_right(out, q, k, v, keep)
    assert torch.equal(out[0].cpu(), v[0, 700])


def test_without_words_every_key_is_attended(device, either_order):
    cache, k, v = filled_cache(2, 130, 64, torch.float16, device)
    q, slopes = queries(4, 64, torch.float16), torch.tensor([0.1, 0.2, 0.0, 0.01])
    out = decode_attention(q.to(device), cache, scale=0.2, slopes=slopes.to(device))
    bias = slopes.double().numpy()[:, None, None] * np.arange(130)
    assert_right(out, q, k, v, np.ones((4, 130), bool), scale=0.2, bias=bias)
    whole = torch.full((2, 3), -1, dtype=torch.int64, device=device)
    assert torch.equal(decode_attention(q.to(device), cache, whole, scale=0.2, slopes=slopes.to(device)), out)


def test_runs_repeat_bit_for_bit(device):
    cache, *_ = filled_cache(2, 3000, 128, torch.bfloat16, device)
    q = queries(8, 128, torch.bfloat16).to(device)
    keep = words_of(np.random.default_rng(2).random((8, 3000)) < 0.1, device)
    assert len({decode_attention(q, cache, keep).cpu().view(torch.int16).numpy().tobytes() for _ in range(3)}) == 1


def test_many_unlikely_keys_weigh_what_they_should(device):
    """In float16 a probability of 2^-25 would be lost where it is multiplied."""
    k, v = torch.zeros(1, 200, 64), torch.full((1, 200, 64), 3e4)
    k[0, 0, 0], v[0, 0] = 1, 0
    q = torch.zeros(1, 64)
    q[0, 0] = 1
    out = attend_newest(*(x.half().to(device) for x in (q, k, v)), scale=25 * np.log(2))
    assert out.cpu().float().numpy() == pytest.approx(np.full((1, 64), 199 * 2.0**-25 * 3e4), rel=1e-3)


def test_a_head_that_keeps_nothing_gives_zeros(device):
    cache, *_ = filled_cache(1, 100, 64, torch.bfloat16, device)
    words = torch.zeros(2, 2, dtype=torch.int64, device=device)
    words[1, 0] = 1
    out = decode_attention(torch.ones(2, 64, dtype=torch.bfloat16, device=device), cache, words)
    assert not out[0].any() and torch.equal(out[1].cpu(), cache.v[0, 0, :64].cpu())


def test_a_kept_key_that_is_not_a_number_is_seen_in_the_result(device):
    q, k, v = (torch.ones(1, *shape, dtype=torch.bfloat16, device=device) for shape in ((64,), (100, 64), (100, 64)))
    k[0, 70] = torch.nan
    assert attend_newest(q, k, v).isnan().all()


@pytest.mark.parametrize("slope", [1.0, -1.0])
def test_a_bias_of_many_positions_costs_no_digits_of_the_newest_keys(device, slope):
    """At position 100 000 a float32 that holds slope times position has no room for a probability's digits."""
    tokens = 100_000
    k, v = (torch.randn(1, tokens, 64, generator=torch.Generator().manual_seed(seed)).half() for seed in (0, 1))
    keep = np.zeros((1, tokens), bool)
    keep[0, [0, 1, 2, 4, 7]] = keep[0, tokens - 8 :] = True
    q, slopes = queries(2, 64, torch.float16), torch.tensor([slope, 0.37 * slope])
    out = attend_newest(q.to(device), k.to(device), v.to(device), words_of(keep, device), slopes=slopes.to(device))
    assert_right(out, q, k, v, keep, bias=slopes.double().numpy()[:, None, None] * np.arange(tokens))


def test_operands_that_do_not_fit_are_refused(device):
    cache, *_ = filled_cache(2, 100, 64, torch.bfloat16, device)
    q = torch.zeros(4, 64, dtype=torch.bfloat16, device=device)
    with pytest.raises(ValueError, match=r"words: shape \[3, 2\] is not \[2 or 4, 2\]"):
        decode_attention(q, cache, torch.zeros(3, 2, dtype=torch.int64, device=device))
    with pytest.raises(ValueError, match=r"q: \[5, 64\] does not fit 2 KV heads of 64 channels"):
        decode_attention(q.new_zeros(5, 64), cache)
    with pytest.raises(ValueError, match=r"q: \[0, 64\] does not fit 2 KV heads"):
        decode_attention(q.new_zeros(0, 64), cache)
    with pytest.raises(ValueError, match="k: 16777217 tokens; at most 16777216 are served"):
        attend_newest(q, *[q.new_zeros(1, 1, 1).expand(1, 2**24 + 1, 64)] * 2)
    with pytest.raises(ValueError, match=r"q: torch\.float16 is not one of torch\.bfloat16"):
        decode_attention(q.half(), cache)
    with pytest.raises(ValueError, match="cache: it is empty"):
        decode_attention(q, GpuKvCache(2, 64, device=device))
    with pytest.raises(ValueError, match=r"k: the cache holds torch\.bfloat16, got torch\.float16"):
        cache.append(*(torch.zeros(2, 1, 64, dtype=torch.float16, device=device) for _ in range(2)))
    with pytest.raises(ValueError, match="each at least 1, head_dim at most 128"):
        GpuKvCache(2, 256, device=device)
