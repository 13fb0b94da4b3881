"""Prediction on the GPU's cache gives the words of the CPU's, bit for bit."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from xmsim.reference.attention import group_max_scores, group_sum_scores, predict_scores  # noqa: E402
from xmsim.reference.kernels.cuda.decode import GpuKvCache, decode_attention  # noqa: E402
from xmsim.reference.kernels.cuda.key_codes import predicted_xm_words  # noqa: E402
from xmsim.reference.kernels.kv_cache import KvCache  # noqa: E402
from xmsim.reference.kernels.kv_cache import predicted_xm_words as judge  # noqa: E402


def caches(kv_heads, tokens, dim, bits, device, *, seed=0):
    make = torch.Generator().manual_seed(seed)
    k, v = (torch.randn(kv_heads, tokens, dim, generator=make).bfloat16() for _ in range(2))
    ours, cpu = GpuKvCache(kv_heads, dim, tokens=64, device=device), KvCache(kv_heads, dim, tokens=64)
    half = tokens - tokens // 3
    for part, name in ((slice(half), "prefill"), (slice(half, tokens), "decode")):
        ours.append(k[:, part].to(device), v[:, part].to(device))
        cpu.append(k[:, part], v[:, part])
        if name == "prefill":
            ours.predict_with(bits)
            cpu.predict_with(bits)
    return ours, cpu


@pytest.mark.parametrize("bits", [4, 6])
@pytest.mark.parametrize("lists", ["head", "group_sum", "group_max"])
@pytest.mark.parametrize(("heads", "kv_heads", "tokens", "dim"), [(4, 1, 1500, 64), (4, 2, 200, 128), (2, 2, 65, 40)])
def test_predicted_keys_are_those_of_the_cpu(device, either_order, heads, kv_heads, tokens, dim, lists, bits):
    ours, cpu = caches(kv_heads, tokens, dim, bits, device)
    q = (3 * torch.randn(heads, dim, generator=torch.Generator().manual_seed(9))).bfloat16()
    for limits in ({}, {"threshold_high": 1.3, "threshold_low": 0.7, "kept_high": 20, "kept_low": 3}):
        found = predicted_xm_words(q.to(device), ours, group=2, lists=lists, **limits)
        wanted = judge(q[:, None], cpu, group=2, lists=lists, **limits)
        assert not found.doubtful.any()
        np.testing.assert_array_equal(found.words.cpu().numpy().view(np.uint64), wanted[:, 0])


def test_equal_scores_keep_the_lowest_keys(device):
    ours, cpu = caches(1, 256, 64, 4, device)
    q = torch.zeros(2, 64).bfloat16()
    q[:, 0] = 1  # one channel: a handful of different scores
    for lists in ("head", "group_sum"):
        found = predicted_xm_words(q.to(device), ours, group=4, lists=lists)
        wanted = judge(q[:, None], cpu, group=4, lists=lists)
        np.testing.assert_array_equal(found.words.cpu().numpy().view(np.uint64), wanted[:, 0])


def test_alibi_enters_the_prediction(device):
    ours, cpu = caches(1, 300, 64, 6, device)
    q, slopes = torch.randn(2, 64, generator=torch.Generator().manual_seed(2)).bfloat16(), torch.tensor([0.03, 0.001])
    found = predicted_xm_words(q.to(device), ours, group=1, lists="head", scale=0.2, slopes=slopes.to(device), q_max=2.0)
    wanted = judge(q[:, None], cpu, group=1, lists="head", scale=0.2, slopes=slopes.numpy(), q_max=2.0)
    np.testing.assert_array_equal(found.words.cpu().numpy().view(np.uint64), wanted[:, 0])


def test_the_predicted_keys_are_attended(device):
    ours, _ = caches(2, 400, 64, 4, device)
    q = torch.randn(8, 64, generator=torch.Generator().manual_seed(3)).bfloat16().to(device)
    words = predicted_xm_words(q, ours, group=2, threshold_low=0.0, threshold_high=0.0, kept_high=64, kept_low=64).words
    assert torch.equal(decode_attention(q, ours, words), decode_attention(q, ours))


def test_what_cannot_be_predicted_is_refused(device):
    ours, _ = caches(2, 100, 64, 4, device)
    q = torch.zeros(4, 64, dtype=torch.bfloat16, device=device)
    with pytest.raises(ValueError, match="group: 3 must divide the head dimension, 64"):
        predicted_xm_words(q, ours, group=3)
    with pytest.raises(ValueError, match="lists: head, group_sum or group_max is needed, got all"):
        predicted_xm_words(q, ours, group=2, lists="all")
    many = GpuKvCache(1 << 16, 8, tokens=1, device=device)
    many.predict_with(4, k_max=1.0)
    with pytest.raises(ValueError, match="q: 65536 heads of a sequence are too many at once; at most 65535 are served"):
        predicted_xm_words(torch.zeros(1 << 16, 8, dtype=torch.bfloat16, device=device), many, group=2)
    with pytest.raises(ValueError, match="cache: it has no low-bit keys"):
        predicted_xm_words(q, GpuKvCache(2, 64, device=device), group=2)
    with pytest.raises(ValueError, match="bits: 9 must be between 2 and 8"):
        ours.predict_with(9)
    with pytest.raises(ValueError, match="k_max: an empty cache has no largest key"):
        GpuKvCache(2, 64, device=device).predict_with(4)


def test_a_tie_of_different_scores_is_reported(device):
    """Two heads that exchange their scores of two keys: as probable, and only rounding says so."""
    cache = GpuKvCache(1, 64, tokens=64, device=device)
    keys = torch.zeros(1, 64, 64)
    keys[0, :, :2] = -5.0  # a background that is not kept
    keys[0, 7, 0], keys[0, 7, 1] = 7.0, 6.0
    keys[0, 9, 0], keys[0, 9, 1] = 6.0, 7.0
    cache.append(keys.bfloat16().to(device), keys.bfloat16().to(device))
    cache.predict_with(4, k_max=7.0)
    q = torch.zeros(2, 64)
    q[0, 0], q[1, 1] = 1.0, 1.0
    limits = {"group": 1, "kept_high": 1, "kept_low": 1, "threshold_high": 0.0, "threshold_low": 0.0, "q_max": 7.0}
    found = predicted_xm_words(q.bfloat16().to(device), cache, lists="group_sum", **limits)
    assert found.doubtful.tolist() == [1] and int(found.words[0, 0]) in (1 << 7, 1 << 9)
    same = keys.clone()
    same[0, 9] = same[0, 7]  # the same scores: the lowest key, for certain
    certain = GpuKvCache(1, 64, tokens=64, device=device)
    certain.append(same.bfloat16().to(device), same.bfloat16().to(device))
    certain.predict_with(4, k_max=7.0)
    found = predicted_xm_words(q.bfloat16().to(device), certain, lists="group_sum", **limits)
    assert found.doubtful.tolist() == [0] and int(found.words[0, 0]) == 1 << 7


LISTS = {"head": lambda scores, kv_heads: scores, "group_sum": group_sum_scores, "group_max": group_max_scores}


def undecided(q, ours, cpu, device, **limits):
    """How many lists are doubtful; all others are the CPU's."""
    found = predicted_xm_words(q.to(device), ours, **limits)
    wanted = judge(q[:, None], cpu, **limits)[:, 0]
    doubtful = found.doubtful.cpu().numpy() != 0
    np.testing.assert_array_equal(found.words.cpu().numpy().view(np.uint64)[~doubtful], wanted[~doubtful])
    return int(doubtful.sum())


@pytest.mark.parametrize("lists", LISTS)
@pytest.mark.parametrize("scale", [1e-8, 1e-6, 3e-5])
def test_scores_that_float32_cannot_tell_apart_are_ranked_in_float64(device, lists, scale):
    """Probabilities differ by little more than `scale`, and blocks hold nearly the same: everything is near a cut and near 1."""
    ours, cpu = caches(2, 330, 64, 6, device)
    q = torch.randn(8, 64, generator=torch.Generator().manual_seed(4)).bfloat16()
    for limits in ({}, {"kept_high": 1, "kept_low": 1}, {"kept_high": 40, "kept_low": 17, "threshold_low": 1.0}):
        assert undecided(q, ours, cpu, device, group=2, lists=lists, scale=scale, **limits) == 0


@pytest.mark.parametrize("lists", LISTS)
@pytest.mark.parametrize("away", [0.0, 1e-15, -1e-15, 1e-13, 1e-9, -1e-9, 1e-6, -1e-6])
def test_a_threshold_at_a_block_s_own_share_is_doubtful_or_right(device, lists, away):
    ours, cpu = caches(1, 300, 64, 4, device)
    q = torch.randn(4, 64, generator=torch.Generator().manual_seed(6)).bfloat16()
    keys = ours.k[:, :300].float().cpu().numpy()
    scores = predict_scores(q[:, None].float().numpy(), keys, group=2, bits=4, scale=64**-0.5, k_max=ours.codes.k_max)
    weights = np.exp(np.float64(LISTS[lists](scores, kv_heads=1))[:, 0])
    shares = np.add.reduceat(weights, range(0, 300, 64), axis=1) / weights.sum(axis=1, keepdims=True) * (300 / 64)
    for threshold in np.sort(shares[0])[1:4] * (1 + away):
        for limits in ({"threshold_high": threshold, "threshold_low": 0.0}, {"threshold_high": 9.0, "threshold_low": threshold}):
            doubts = undecided(q, ours, cpu, device, group=2, lists=lists, **limits)
            assert doubts == 0 or abs(away) < 1e-12


@pytest.mark.parametrize("lists", LISTS)
@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize(("bits", "sharing"), [(2, 8), (2, 2), (4, 3), (8, 5), (3, 1)])
def test_few_codes_with_many_ties_are_ranked_as_the_cpu_does(device, either_order, bits, sharing, dim, lists):
    ours, cpu = caches(2, 200, dim, bits, device, seed=bits)
    make = torch.Generator().manual_seed(sharing)
    heads = (4 * torch.randn(2, 1, dim, generator=make)).repeat(1, sharing, 1)
    heads[:, sharing // 2 :] *= 0.5  # heads with the same order of scores, or the same scores
    undecided(heads.flatten(0, 1).bfloat16(), ours, cpu, device, group=4, lists=lists, threshold_low=0.0, kept_low=5)


@pytest.mark.parametrize("lists", LISTS)
def test_a_head_far_below_the_others_and_blocks_far_below_their_row_are_ranked_right(device, lists):
    """Differences of hundreds: factors and weights that float32 has no room for."""
    ours, cpu = caches(1, 400, 64, 4, device)
    q = torch.randn(4, 64, generator=torch.Generator().manual_seed(8))
    for sharpness in (5.0, 50.0, 400.0):
        undecided((sharpness * q).bfloat16(), ours, cpu, device, group=1, lists=lists, threshold_low=0.0, kept_low=9)


@pytest.mark.parametrize("lists", LISTS)
def test_long_caches_are_cut_into_parts_and_chunks(device, lists):
    ours, cpu = caches(1, 64 * 230 + 7, 64, 4, device)
    q = (2 * torch.randn(8, 64, generator=torch.Generator().manual_seed(5))).bfloat16()
    assert undecided(q, ours, cpu, device, group=2, lists=lists) == 0


def test_a_lone_block_is_its_row_and_never_doubtful(device):
    ours, cpu = caches(1, 64, 64, 4, device)
    q = torch.randn(4, 64, generator=torch.Generator().manual_seed(7)).bfloat16()
    for lists in LISTS:
        assert undecided(q, ours, cpu, device, group=2, lists=lists) == 0  # its share is 1, the upper threshold
