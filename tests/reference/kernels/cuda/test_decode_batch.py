"""Decoding of several sequences at once, whose lengths lie on the device: attention against float64, prediction against the CPU's words."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")


from tests.reference.kernels.cuda.stand_in_gpu import Refusing  # noqa: E402

from xmsim.reference.attention import sparse_attention as judge  # noqa: E402
from xmsim.reference.kernels.cuda import batch_shares, native  # noqa: E402
from xmsim.reference.kernels.cuda.decode import attend_newest, decode_attention  # noqa: E402
from xmsim.reference.kernels.cuda.decode_batch import GpuKvBatch  # noqa: E402
from xmsim.reference.kernels.cuda.key_codes import predicted_xm_words  # noqa: E402
from xmsim.reference.kernels.kv_cache import KvCache  # noqa: E402
from xmsim.reference.kernels.kv_cache import predicted_xm_words as judged_words  # noqa: E402

LENGTHS = (65, 0, 1, 330, 63, 64)
K_MAX, Q_MAX = 4.0, 3.0


@pytest.fixture(autouse=True)
def poisoned_memory():
    """What torch.empty gives is NaN, and the largest integer."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def poisoned(room, lengths):
    """Room [sequences, kv_heads, tokens, d] with NaN behind each sequence."""
    room = room.clone()
    for one, length in zip(room, lengths, strict=True):
        one[:, max(length, 0) :] = torch.nan
    return room


def packed(keep):
    padded = np.pad(keep, ((0, 0), (0, 0), (0, -keep.shape[2] % 64)))
    return torch.from_numpy(np.packbits(padded, axis=2, bitorder="little").view(np.int64))


def assert_right(out, q, k, v, keep, lengths, **scaling):
    """Each sequence within the rounding of the result and of each probability to out's format, as one alone."""
    unit = torch.finfo(out.dtype).eps / 2
    assert out.isfinite().all()
    for i, length in enumerate(lengths):
        found = out[i].cpu().double().numpy()
        if not length:
            assert not found.any()
            continue
        keys, values = (x[i, :, :length].double().numpy() for x in (k, v))
        mask = np.repeat(keep[i, :, :length], q.shape[1] // keep.shape[1], 0)[:, None]
        slopes = scaling.get("slopes", torch.zeros(q.shape[1]))
        bias = slopes.double().numpy()[:, None, None] * np.arange(length)
        wanted, magnitude = (judge(q[i][:, None].double().numpy(), keys, x, mask, bias=bias)[:, 0] for x in (values, np.abs(values)))
        assert (np.abs(found - wanted) <= unit * (np.abs(wanted) + 1.02 * magnitude)).all()


@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim", "dtype", "lists", "biased"),
    [
        (2, 2, 64, torch.float16, 2, False),
        (8, 2, 128, torch.bfloat16, 2, True),
        (8, 2, 64, torch.bfloat16, 8, False),
        (8, 1, 40, torch.float16, 1, True),
        (16, 1, 64, torch.bfloat16, 1, False),
        (16, 1, 64, torch.float16, 16, True),
    ],
)
def test_each_sequence_attends_to_its_own_kept_keys(device, either_order, heads, kv_heads, dim, dtype, lists, biased):
    shape = (len(LENGTHS), kv_heads, max(LENGTHS), dim)
    q, k, v = random(len(LENGTHS), heads, dim, seed=1).to(dtype), random(*shape, seed=2).to(dtype), random(*shape, seed=3).to(dtype)
    keep = np.random.default_rng(1).random((len(LENGTHS), lists, max(LENGTHS))) < 0.2
    keep[3, :, 100:220] = False
    keep[2, :, 0] = True
    keep[0, 0] = False  # a list without any keys
    slopes = torch.linspace(0, 0.3, heads) if biased else None
    scaling = {"slopes": slopes} if biased else {}
    lengths = torch.tensor(LENGTHS, dtype=torch.int32, device=device)
    operands = (q, poisoned(k, LENGTHS), poisoned(v, LENGTHS))
    given = {name: x.to(device) for name, x in scaling.items()}
    # what the words keep behind a sequence is not there
    out = attend_newest(*(x.to(device) for x in operands), packed(keep).to(device), lengths=lengths, **given)
    assert_right(out, q, k, v, keep, LENGTHS, **scaling)
    again = attend_newest(*(x.to(device) for x in operands), packed(keep).to(device), lengths=lengths, **given)
    assert torch.equal(out, again)
    whole = attend_newest(*(x.to(device) for x in operands), lengths=lengths, **given)
    assert_right(whole, q, k, v, np.ones_like(keep), LENGTHS, **scaling)


def test_sequences_of_one_length_need_none(device):
    q, k, v = (random(*shape).bfloat16() for shape in ((3, 4, 64), (3, 2, 100, 64), (3, 2, 100, 64)))
    out = attend_newest(*(x.to(device) for x in (q, k, v)))
    assert_right(out, q, k, v, np.ones((3, 2, 100), bool), (100,) * 3)


def test_parts_of_a_longer_cache_are_read_where_they_lie(device):
    q, k, v = (random(*shape).half().to(device) for shape in ((4, 2, 64), (4, 2, 200, 64), (4, 2, 200, 64)))
    lengths = torch.tensor([5, 130, 0, 77], dtype=torch.int32, device=device)
    longest = attend_newest(q, k[:, :, :130], v[:, :, :130], lengths=lengths)
    assert_right(longest, *(x.cpu() for x in (q, k, v)), np.ones((4, 2, 200), bool), lengths.tolist())
    every_other = attend_newest(q[::2].contiguous(), k[::2, 1:], v[::2, 1:], lengths=lengths[:2])
    assert_right(every_other, *(x.cpu() for x in (q[::2], k[::2, 1:], v[::2, 1:])), np.ones((2, 1, 200), bool), (5, 130))


def test_lengths_that_there_is_no_room_for_end_with_the_room(device):
    q, k, v = (random(*shape).bfloat16().to(device) for shape in ((2, 2, 64), (2, 2, 70, 64), (2, 2, 70, 64)))
    lengths = torch.tensor([2**31 - 1, -5], dtype=torch.int32, device=device)
    out = attend_newest(q, k, v, lengths=lengths)
    assert_right(out, *(x.cpu() for x in (q, k, v)), np.ones((2, 2, 70), bool), (70, 0))


@pytest.mark.parametrize("heads", [1, 4])
def test_many_short_sequences_and_a_long_one_are_shared_out_as_on_a_gpu(device, either_order, monkeypatch, heads):
    """More sequences than a warp has lanes, and shares as many as fill a GPU, or finer where walks are many."""
    monkeypatch.setattr(batch_shares, "is_emulated", lambda: False)
    lengths = [(7 * i) % 5 * 20 for i in range(33)] + [600]
    q, k, v = (random(*shape).bfloat16() for shape in ((34, heads, 64), (34, heads, 600, 64), (34, heads, 600, 64)))
    given = torch.tensor(lengths, dtype=torch.int32, device=device)
    out = attend_newest(q.to(device), poisoned(k, lengths).to(device), poisoned(v, lengths).to(device), lengths=given)
    assert_right(out, q, k, v, np.ones((34, heads, 600), bool), lengths)


@pytest.mark.parametrize("sequences", [1, 3, 8, 100])
@pytest.mark.parametrize("walks", [1, 8, 300])
@pytest.mark.parametrize("room", [1, 700, 16384, 1 << 20])
@pytest.mark.parametrize(("least", "most"), [(4, batch_shares.MOST_TOKENS), (8, 128)])
def test_there_are_blocks_for_all_shares_whatever_the_lengths(device, monkeypatch, sequences, walks, room, least, most):
    monkeypatch.setattr(batch_shares, "is_emulated", lambda: False)
    lengths = torch.zeros(sequences, dtype=torch.int32)
    shares = batch_shares.Shares.of(room, sequences, lengths, walks=walks, blocks=396, least=least, most=most)
    words = -(-room // 64)
    make = np.random.default_rng(0)
    for used in (np.full(sequences, words), np.eye(sequences, dtype=int)[0] * words, make.integers(0, words + 1, sequences)):
        wanted = shares.wanted * used // max(used.sum(), 1)
        of_each = np.maximum(np.minimum(wanted, -(-used // least)), -(-used // most))
        assert of_each.sum() <= shares.count and (of_each * most >= used).all()
    if words * sequences >= 396 * least and walks * sequences <= 132:
        assert shares.wanted * walks > 396 - walks  # a full GPU


def filled(lengths, heads, kv_heads, dim, dtype, device, *, bits=4, room=None):
    """A batch whose newest tokens were appended, the CPU's caches of its sequences, and queries."""
    room = max(lengths) if room is None else room
    batch = GpuKvBatch(len(lengths), kv_heads, dim, dtype, tokens=room, device=device)
    for whole in (batch.k, batch.v):
        whole[..., :dim] = torch.nan  # behind a sequence nothing is read
    batch.predict_with(bits, k_max=K_MAX)
    newest = random(2, len(lengths), kv_heads, dim, seed=5).to(dtype)
    caches = []
    for i, length in enumerate(lengths):
        first = max(length - 1, min(length, 1))  # a sequence begins with one token at least
        k, v = random(2, kv_heads, first, dim, seed=i).to(dtype)
        batch.begin(i, k.to(device), v.to(device))
        cache = KvCache(kv_heads, dim, "float32")
        cache.predict_with(bits, k_max=K_MAX)
        for keys, values in ((k, v), newest[:, i, :, None]) if length else ():
            cache.append(keys.float().numpy(), values.float().numpy())
        caches.append(cache)
    batch.append(*newest.to(device))
    return batch, caches, 2 * random(len(lengths), heads, dim, seed=7).to(dtype)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim", "bits", "lists", "dtype"),
    [
        (2, 2, 64, 4, "head", torch.bfloat16),
        (8, 2, 128, 4, "group_sum", torch.bfloat16),
        (8, 2, 64, 6, "group_max", torch.float16),
        (8, 1, 40, 4, "group_sum", torch.float16),
        (8, 1, 64, 4, "group_max", torch.bfloat16),
    ],
)
def test_each_sequence_keeps_what_the_cpu_keeps_of_it_alone(device, either_order, heads, kv_heads, dim, bits, lists, dtype):
    lengths = (65, 0, 2, 700, 63, 64)
    batch, caches, q = filled(lengths, heads, kv_heads, dim, dtype, device, bits=bits, room=720)
    assert batch.lengths.tolist() == list(lengths)
    slopes = torch.linspace(0, 0.05, heads)
    for limits in ({}, {"threshold_high": 1.3, "threshold_low": 0.7, "kept_high": 20, "kept_low": 3}):
        rule = {"group": 2, "lists": lists, "q_max": Q_MAX, **limits}
        found = predicted_xm_words(q.to(device), batch, slopes=slopes.to(device), **rule)
        assert found.words.shape == (6, heads if lists == "head" else kv_heads, 12) and not found.doubtful.any()
        for i, (cache, length) in enumerate(zip(caches, lengths, strict=True)):
            words = found.words[i].cpu().numpy().view(np.uint64)
            there = -(-length // 64)
            assert not words[:, there:].any()
            if length:
                wanted = judged_words(q[i][:, None].float().numpy(), cache, slopes=slopes.numpy(), **rule)
                np.testing.assert_array_equal(words[:, :there], wanted[:, 0])
    out = decode_attention(q.to(device), batch, found.words)
    keep = np.unpackbits(found.words.cpu().numpy().view(np.uint8), axis=2, bitorder="little").astype(bool)[:, :, :720]
    assert_right(out, q, *(x[..., :dim].cpu() for x in (batch.k, batch.v)), keep, lengths)


@pytest.mark.parametrize("lists", ["head", "group_sum", "group_max"])
def test_prediction_of_many_sequences_is_shared_out_as_on_a_gpu(device, monkeypatch, lists):
    monkeypatch.setattr(batch_shares, "is_emulated", lambda: False)
    lengths = [0, 1300, *[(7 * i) % 5 * 20 for i in range(31)]]
    batch, caches, q = filled(lengths, 2, 1, 64, torch.bfloat16, device)
    rule = {"group": 2, "lists": lists, "q_max": Q_MAX}
    found = predicted_xm_words(q.to(device), batch, **rule)
    for i, (cache, length) in enumerate(zip(caches, lengths, strict=True)):
        words = found.words[i].cpu().numpy().view(np.uint64)
        assert not words[:, -(-length // 64) :].any() and not found.doubtful[i].any()
        if length:
            wanted = judged_words(q[i][:, None].float().numpy(), cache, **rule)[:, 0]
            np.testing.assert_array_equal(words[:, : -(-length // 64)], wanted)


def test_a_doubtful_list_is_reported_for_its_own_sequence(device):
    """Two heads that exchange their scores of two keys: as probable, and only rounding says so."""
    keys = torch.zeros(1, 64, 64)
    keys[0, :, :2] = -5.0
    keys[0, 7, 0], keys[0, 7, 1] = 7.0, 6.0
    keys[0, 9, 0], keys[0, 9, 1] = 6.0, 7.0
    batch = GpuKvBatch(3, 1, 64, tokens=64, device=device)
    batch.predict_with(4, k_max=7.0)
    batch.begin(1, *[keys.bfloat16().to(device)] * 2)
    same = keys.clone()
    same[0, 9] = same[0, 7]
    batch.begin(2, *[same.bfloat16().to(device)] * 2)
    q = torch.zeros(3, 2, 64)
    q[:, 0, 0], q[:, 1, 1] = 1.0, 1.0
    limits = {"group": 1, "kept_high": 1, "kept_low": 1, "threshold_high": 0.0, "threshold_low": 0.0, "q_max": 7.0}
    found = predicted_xm_words(q.bfloat16().to(device), batch, lists="group_sum", **limits)
    assert found.doubtful.tolist() == [[0], [1], [0]]


def test_a_step_waits_for_nothing_and_serves_lengths_that_changed_since(device):
    """What a graph holds: the same calls on the same memory, after other sequences began."""
    batch, _, q = filled((9, 130, 0), 4, 2, 64, torch.bfloat16, device, room=200)
    more, q = [random(3, 2, 64, seed=seed).bfloat16().to(device) for seed in (11, 12)], q.to(device)

    def step():
        batch.append(*more)
        words = predicted_xm_words(q, batch, group=2, q_max=Q_MAX, threshold_low=0.0, kept_high=64, kept_low=64).words
        return decode_attention(q, batch, words), decode_attention(q, batch)

    for lengths in ((10, 131, 0), (11, 132, 6)):
        with Refusing():
            kept, whole = step()
        assert batch.lengths.tolist() == list(lengths)
        assert torch.equal(kept, whole)  # all are kept
        assert_right(whole, q.cpu(), batch.k.cpu(), batch.v.cpu(), np.ones((3, 2, 200), bool), lengths)
        batch.begin(2, *random(2, 2, 5, 64).bfloat16().to(device))


@pytest.mark.gpu
def test_a_graph_replayed_after_other_sequences_began_gives_what_single_calls_give(gpu):
    if native.cuda_library() is None:
        pytest.skip("the CUDA kernels are not built")
    torch.use_deterministic_algorithms(False)  # torch's own copies would sort first
    batch, _, q = filled((9, 130, 0), 4, 2, 64, torch.bfloat16, "cuda", room=300)
    more, q = [random(3, 2, 64, seed=seed).bfloat16().to("cuda") for seed in (11, 12)], q.to("cuda")

    def step():
        words = predicted_xm_words(q, batch, group=2, q_max=Q_MAX).words
        return words, decode_attention(q, batch, words), decode_attention(q, batch)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        batch.append(*more)
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        batch.append(*more)
        found = step()
    for lengths in ((11, 132, 0), (12, 201, 6), (13, 202, 7)):
        graph.replay()
        assert batch.lengths.tolist() == list(lengths)
        assert all(torch.equal(*both) for both in zip(found, step(), strict=True))
        if not lengths[2]:
            batch.begin(2, *random(2, 2, 5, 64).bfloat16().to("cuda"))
            batch.begin(1, *random(2, 2, 200, 64).bfloat16().to("cuda"))


def test_a_place_is_emptied_by_a_sequence_of_no_tokens_and_stays_empty(device):
    batch, *_ = filled((9, 3), 2, 2, 64, torch.bfloat16, device, room=10)
    batch.begin(0, *[torch.zeros(2, 0, 64, dtype=torch.bfloat16, device=device)] * 2)
    new = torch.ones(2, 2, 64, dtype=torch.bfloat16, device=device)
    for _ in range(9):
        batch.append(new, new)
    assert batch.lengths.tolist() == [0, 12]  # two of them had no room
    assert batch.k[0, :, 9:].isnan().all() and torch.equal(batch.k[1, :, 3:].cpu(), torch.ones(2, 7, 64).bfloat16())


def test_operands_that_do_not_fit_are_refused(device):
    batch = GpuKvBatch(3, 2, 64, tokens=100, device=device)
    q = torch.zeros(3, 4, 64, dtype=torch.bfloat16, device=device)
    rows = torch.zeros(2, 5, 64, dtype=torch.bfloat16, device=device)
    with pytest.raises(ValueError, match="q: 3 axes are needed"):
        decode_attention(q[0], batch)
    with pytest.raises(ValueError, match=r"k: torch\.bfloat16 \[2 sequences, KV heads, tokens, channels\] is needed"):
        decode_attention(q[:2], batch)
    with pytest.raises(ValueError, match=r"words: shape \[3, 2, 1\] is not \[3, 2 or 4, 2\]"):
        decode_attention(q, batch, torch.zeros(3, 2, 1, dtype=torch.int64, device=device))
    with pytest.raises(ValueError, match="lengths: 2 are not one for each of 3 sequences"):
        attend_newest(q, batch.k, batch.v, lengths=batch.lengths[:2])
    with pytest.raises(ValueError, match=r"lengths: torch\.int64 is not one of torch\.int32"):
        attend_newest(q, batch.k, batch.v, lengths=batch.lengths.long())
    with pytest.raises(ValueError, match="lengths: operands of several sequences are needed"):
        attend_newest(q[0], batch.k[0], batch.v[0], lengths=batch.lengths[:1])
    with pytest.raises(ValueError, match="q: 100000 sequences are too many at once; decode 25001 at a time"):
        attend_newest(
            q[:1].expand(100000, 4, 64).contiguous(), *[batch.k[:1].expand(100000, 2, 100, 64)] * 2, lengths=batch.lengths.new_zeros(100000)
        )
    with pytest.raises(ValueError, match="q_max: a batch needs it"):
        batch.predict_with(4, k_max=1.0)
        predicted_xm_words(q, batch, group=2)
    with pytest.raises(ValueError, match="cache: it has no low-bit keys"):
        predicted_xm_words(q, GpuKvBatch(3, 2, 64, tokens=100, device=device), group=2, q_max=1.0)
    with pytest.raises(ValueError, match="k_max: nan must be finite"):
        batch.predict_with(4, k_max=float("nan"))
    with pytest.raises(ValueError, match="sequence: 3 is not one of the places 0 to 2"):
        batch.begin(3, rows, rows)
    with pytest.raises(ValueError, match=r"k: \[2 KV heads, at most 100 tokens, 64\] is needed, got \[2, 101, 64\]"):
        batch.begin(0, *[torch.zeros(2, 101, 64, dtype=torch.bfloat16, device=device)] * 2)
    with pytest.raises(ValueError, match=r"k: \[3 sequences, 2 KV heads, 64\] is needed, got \[3, 4, 64\]"):
        batch.append(q, q)
    with pytest.raises(ValueError, match=r"k: the cache holds torch\.bfloat16, got torch\.float16"):
        batch.begin(0, rows.half(), rows.half())
    with pytest.raises(ValueError, match="head_dim at most 128, tokens at most 16777216"):
        GpuKvBatch(1, 2, 256, tokens=1, device=device)
