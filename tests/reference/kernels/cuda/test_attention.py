"""Sparse attention of the GPU against the float64 reference, with masks that leave tiles and rows empty."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from xmsim.reference.attention import sparse_attention as judge  # noqa: E402
from xmsim.reference.kernels.cuda import attention, native  # noqa: E402

KERNELS = ["xm_cuda_attend_tiles", "xm_cuda_attend_tiles_hopper"]
DTYPES = {torch.bfloat16: 8e-3, torch.float16: 1e-3}


@pytest.fixture(params=KERNELS, ids=["mma", "wgmma"])
def kernel(request, device, monkeypatch):
    """Each kernel of many queries; on a GPU those that it can run."""
    if request.param != KERNELS[0] and device == "cuda" and torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("this GPU has no wgmma")
    monkeypatch.setattr(attention, "prefill_kernel", lambda device: request.param)


def problem(heads, kv_heads, masks, queries, keys, dim, dtype, seed=0):
    make = np.random.default_rng(seed)
    q, k, v = (
        torch.tensor(make.standard_normal((n, t, dim)), dtype=dtype) for n, t in ((heads, queries), (kv_heads, keys), (kv_heads, keys))
    )
    keep = make.random((masks, queries, keys)) < 0.2
    keep &= np.arange(keys) <= np.arange(queries)[:, None] + keys - queries  # causal
    keep[:, : queries // 2, : keys // 2] = False  # dead tiles
    keep[:, queries // 3] = False  # a row without a key
    keep[:, -1, keys - 1] = True
    return q, k, v, keep


def words_of(keep, device):
    padded = np.pad(keep, ((0, 0), (0, 0), (0, -keep.shape[2] % 64)))
    return torch.from_numpy(np.packbits(padded, axis=2, bitorder="little").view(np.int64)).to(device)


def assert_close(out, wanted, bound):
    assert not out.isnan().any()
    difference = out.cpu().double().numpy() - wanted
    assert np.linalg.norm(difference) / np.linalg.norm(wanted) < bound


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "masks", "queries", "keys", "dim"),
    [(2, 2, 2, 64, 64, 64), (4, 1, 4, 70, 150, 64), (4, 2, 2, 130, 130, 128), (2, 1, 1, 1, 200, 80), (8, 1, 8, 40, 40, 32)],
)
def test_kept_pairs_and_no_others_are_attended(device, either_order, kernel, heads, kv_heads, masks, queries, keys, dim, dtype):
    q, k, v, keep = problem(heads, kv_heads, masks, queries, keys, dim, dtype)
    out = attention.sparse_attention(q.to(device), k.to(device), v.to(device), words_of(keep, device))
    wanted = judge(*(x.double().numpy() for x in (q, k, v)), np.repeat(keep, heads // masks, 0))
    assert_close(out, wanted, DTYPES[dtype])
    assert not out[:, queries // 3].any() or queries == 1


def test_alibi_and_a_scale_enter_the_scores(device, kernel):
    q, k, v, keep = problem(2, 1, 2, 65, 129, 64, torch.float16)
    slopes = torch.tensor([0.5, 0.01])
    out = attention.sparse_attention(q.to(device), k.to(device), v.to(device), words_of(keep, device), scale=0.3, slopes=slopes.to(device))
    bias = slopes.double().numpy()[:, None, None] * np.arange(129)
    wanted = judge(*(x.double().numpy() for x in (q, k, v)), keep, scale=0.3, bias=bias)
    assert_close(out, wanted, 1e-3)


@pytest.mark.parametrize("slope", [1.0, -1.0])
def test_biases_of_many_positions_cost_no_digits_of_any_row(device, kernel, slope):
    """At position 100 000 a float32 that holds slope times position has no room for a probability's digits; rows keep keys far apart."""
    tokens, make = 100_000, np.random.default_rng(0)
    there = np.concatenate([start + np.arange(8) for start in (0, 30_000, 30_100, 65_500, tokens - 8)])
    keep = np.zeros((2, 70, tokens), bool)
    keep[:, :, there] = make.random((2, 70, len(there))) < 0.5
    keep[:, 10:20, 65_000:] = keep[:, 30:40, :65_000] = False
    q, k, v = (torch.tensor(make.standard_normal((2, n, 64)), dtype=torch.float16) for n in (70, tokens, tokens))
    slopes = torch.tensor([slope, 0.37 * slope])
    out = attention.sparse_attention(q.to(device), k.to(device), v.to(device), words_of(keep, device), slopes=slopes.to(device))
    bias = slopes.double().numpy()[:, None, None] * there
    wanted = judge(*(x.double().numpy() for x in (q, k[:, there], v[:, there])), keep[:, :, there], bias=bias)
    assert_close(out, wanted, 1e-3)


def test_a_negative_scale_turns_the_order_of_scores(device, kernel):
    q, k, v, keep = problem(2, 1, 2, 65, 129, 64, torch.float16)
    out = attention.sparse_attention(q.to(device), k.to(device), v.to(device), words_of(keep, device), scale=-0.3)
    assert_close(out, judge(*(x.double().numpy() for x in (q, k, v)), keep, scale=-0.3), 1e-3)


def test_rows_of_tiles_with_lists_of_their_own_can_be_walked_together(device, either_order, kernel):
    q, k, v, _ = problem(2, 1, 2, 250, 450, 64, torch.float16)  # more tiles than buffers, and rows of tiles beside a last one
    make = np.random.default_rng(3)
    live = make.random((2, 4, 8)) < 0.5
    live[0, 2] = False  # a row of tiles that walks in vain
    live[1, :3, 5], live[1, 3, 6] = False, True  # a tile that is dead for all, one for the last block alone
    keep = np.repeat(np.repeat(live, 64, 1), 64, 2)[:, :250, :450] & (make.random((2, 250, 450)) < 0.3)
    out = attention.sparse_attention(q.to(device), k.to(device), v.to(device), words_of(keep, device))
    assert_close(out, judge(*(x.double().numpy() for x in (q, k, v)), keep), 1e-3)


def ragged_lists(name, make):
    """Live tiles of five rows of tiles, the block of three and a part of one, along 14 tiles of keys: more than three rounds of stages."""
    live = np.zeros((1, 5, 14), bool)
    if name == "in_turns":
        live[0, np.arange(14) % 3, np.arange(14)] = True
    elif name == "one_alone":
        live[0, 1, 3:], live[0, 4, ::5] = True, True
    elif name == "all_together":
        live[:] = True
    elif name == "one_ends_early":
        live[0, :2], live[0, 2, :2], live[0, 4, -1] = True, True, True
    elif name == "at_random":
        live = make.random(live.shape) < np.array([0.1, 0.5, 0.9, 0.3, 0.7])[:, None]
    return live


@pytest.mark.parametrize("name", ["none", "in_turns", "one_alone", "all_together", "one_ends_early", "at_random"])
def test_lists_of_neighbours_may_differ_in_any_way(device, either_order, kernel, name):
    make = np.random.default_rng(5)
    q, k, v, _ = problem(1, 1, 1, 270, 878, 64, torch.float16)
    keep = np.repeat(np.repeat(ragged_lists(name, make), 64, 1), 64, 2)[:, :270, :878] & (make.random((1, 270, 878)) < 0.3)
    out = attention.sparse_attention(q.to(device), k.to(device), v.to(device), words_of(keep, device))
    if name == "none":
        assert not out.any()
    else:
        assert_close(out, judge(*(x.double().numpy() for x in (q, k, v)), keep), 1e-3)


def test_results_repeat_bit_for_bit_and_do_not_depend_on_the_order_of_threads(device, kernel):
    q, k, v, keep = problem(1, 1, 1, 130, 330, 64, torch.bfloat16)
    q, k, v, words = q.to(device), k.to(device), v.to(device), words_of(keep, device)
    first = attention.sparse_attention(q, k, v, words)
    if device == "cpu":
        native.cuda_library().xm_emulate_last_thread_first(1)
    try:
        assert torch.equal(attention.sparse_attention(q, k, v, words), first)
    finally:
        if device == "cpu":
            native.cuda_library().xm_emulate_last_thread_first(0)


@pytest.mark.parametrize("cached_heads", [0, 2, 3])
def test_a_part_of_the_heads_may_be_attended_to_at_a_time(device, kernel, monkeypatch, cached_heads):
    q, k, v, keep = problem(8, 4, 8, 130, 70, 64, torch.float16)
    monkeypatch.setattr(attention, "CACHED_BYTES", cached_heads * 4 * 70 * 64)
    out = attention.sparse_attention(q.to(device), k.to(device), v.to(device), words_of(keep, device))
    assert_close(out, judge(*(x.double().numpy() for x in (q, k, v)), keep), 1e-3)


def test_as_many_kv_heads_are_attended_to_at_a_time_as_the_cache_holds_in_equal_parts():
    together = attention.kv_heads_together
    assert [together(8, keys, 128) for keys in (0, 4096, 8192, 16384, 32768, 131072)] == [8, 8, 4, 2, 1, 1]
    assert together(6, 16384, 128) == 3 and together(7, 16384, 128) == 1


def test_scores_of_any_size_stay_finite(device, kernel):
    q, k, v, keep = problem(1, 1, 1, 64, 128, 64, torch.bfloat16)
    out = attention.sparse_attention(100 * q.to(device), 100 * k.to(device), v.to(device), words_of(keep, device))
    wanted = judge(*(x.double().numpy() for x in (100 * q, 100 * k, v)), keep)
    assert_close(out, wanted, 8e-3)


def test_live_tiles_are_those_with_a_kept_pair_in_ascending_order(device, either_order):
    keep = np.zeros((2, 130, 20000), bool)
    places = [(0, 0, 0), (0, 63, 19999), (0, 64, 64), (1, 129, 6400), (1, 129, 9999)]
    for place in places:
        keep[place] = True
    found = attention.live_tiles(words_of(keep, device))
    lists = {(m, t): found.tiles[m, t, : found.counts[m, t]].tolist() for m in range(2) for t in range(3)}
    assert lists == {(0, 0): [0, 312], (0, 1): [1], (0, 2): [], (1, 0): [], (1, 1): [], (1, 2): [100, 156]}
    assert found.live_share == pytest.approx(5 / (2 * 3 * 313))


def test_bits_beyond_the_last_key_keep_nothing(device, kernel):
    q, k, v, keep = problem(1, 1, 1, 64, 70, 64, torch.float16)
    words = words_of(keep, device)
    wanted = attention.sparse_attention(q.to(device), k.to(device), v.to(device), words)
    words[..., -1] |= ~((1 << 6) - 1)
    assert torch.equal(attention.sparse_attention(q.to(device), k.to(device), v.to(device), words), wanted)


def test_operands_that_do_not_fit_are_refused(device):
    q, k, v, keep = problem(4, 2, 4, 64, 64, 64, torch.bfloat16)
    q, k, v, words = q.to(device), k.to(device), v.to(device), words_of(keep, device)
    with pytest.raises(ValueError, match="k: 4 query heads do not share 3"):
        attention.sparse_attention(q, k.new_zeros(3, 64, 64), k.new_zeros(3, 64, 64), words)
    with pytest.raises(ValueError, match=r"words: shape \[4, 64, 1\] is not \[masks, 64, 2\]"):
        attention.sparse_attention(q, k.new_zeros(2, 65, 64), k.new_zeros(2, 65, 64), words)
    with pytest.raises(ValueError, match="q: 192 channels a head; at most 128 are compiled"):
        attention.sparse_attention(q.new_zeros(4, 64, 192), k.new_zeros(2, 64, 192), k.new_zeros(2, 64, 192), words)
    with pytest.raises(ValueError, match=r"k: torch\.float16 is not one of torch\.bfloat16"):
        attention.sparse_attention(q, k.half(), v, words)
    tiles = attention.live_tiles(words)
    with pytest.raises(ValueError, match=r"tiles: lists \[4, 1, 2\] and counts \[4, 1\] are not those of these words"):
        attention.sparse_attention(q, k, v, words, tiles=tiles._replace(tiles=tiles.tiles.repeat(1, 1, 2)))
    with pytest.raises(ValueError, match="slopes: 3 are not one for each of 4 heads"):
        attention.sparse_attention(q, k, v, words, slopes=torch.zeros(3, device=device))
