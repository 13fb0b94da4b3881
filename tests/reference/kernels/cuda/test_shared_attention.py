"""Attention of heads that share a mask, with gathered keys, against the float64 reference; and the lists of what is gathered."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tests.reference.kernels.cuda.stand_in_gpu import Refusing  # noqa: E402
from tests.reference.kernels.cuda.test_attention import DTYPES, assert_close, problem, words_of  # noqa: E402

from xmsim.reference.attention import sparse_attention as judge  # noqa: E402
from xmsim.reference.kernels.cuda import attention, shared_attention  # noqa: E402


@pytest.fixture
def hopper(device, monkeypatch):
    """Products of warpgroups, which the emulator has and not every GPU."""
    if device == "cuda" and torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("this GPU has no wgmma")
    monkeypatch.setattr(attention, "prefill_kernel", lambda device: attention.HOPPER_TILES)


@pytest.fixture
def gathered(hopper, monkeypatch):
    """The calls of the kernel under test."""
    calls = []

    def attend(*operands):
        calls.append(operands)
        return shared_attention.attend_shared(*operands)

    monkeypatch.setattr(attention, "attend_shared", attend)
    return calls


def wanted(q, k, v, keep, **options):
    return judge(*(x.double().numpy() for x in (q, k, v)), np.repeat(keep, len(q) // len(keep), 0), **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "masks", "queries", "keys", "dim"),
    [(4, 1, 1, 70, 150, 64), (8, 2, 2, 33, 100, 128), (8, 4, 2, 130, 130, 128), (8, 1, 1, 40, 300, 48), (2, 1, 1, 1, 200, 80)],
)
def test_kept_pairs_and_no_others_are_attended(device, either_order, gathered, heads, kv_heads, masks, queries, keys, dim, dtype):
    q, k, v, keep = problem(heads, kv_heads, masks, queries, keys, dim, dtype)
    out = attention.sparse_attention(q.to(device), k.to(device), v.to(device), words_of(keep, device), scale=-0.2)
    assert_close(out, wanted(q, k, v, keep, scale=-0.2), DTYPES[dtype])
    assert not out[:, queries // 3].any() or queries == 1
    assert len(gathered) == 1


@pytest.mark.parametrize("kept", [0, 1, 63, 64, 65, 449])
def test_steps_may_be_none_one_full_or_more_than_there_are_buffers(device, either_order, gathered, kept):
    q, k, v, _ = problem(4, 1, 1, 40, 449, 64, torch.float16)
    keep = np.zeros((1, 40, 449), bool)
    keep[:, :32, np.random.default_rng(kept).permutation(449)[:kept]] = True  # of the first tile alone
    out = attention.sparse_attention(q.to(device), k.to(device), v.to(device), words_of(keep, device))
    assert not out[:, 32:].any() and (kept or not out.any())
    if kept:
        assert_close(out, wanted(q, k, v, keep), 1e-3)


def test_scores_of_any_size_stay_finite(device, gathered):
    q, k, v, keep = problem(2, 1, 1, 64, 128, 64, torch.bfloat16)
    out = attention.sparse_attention(100 * q.to(device), 100 * k.to(device), v.to(device), words_of(keep, device))
    assert_close(out, wanted(100 * q, 100 * k, v, keep), 8e-3)


def test_what_one_call_cannot_hold_is_several(device, gathered, monkeypatch):
    q, k, v, keep = problem(12, 6, 3, 50, 90, 64, torch.float16)
    operands = [x.to(device) for x in (q, k, v)] + [words_of(keep, device)]
    whole = attention.sparse_attention(*operands)
    monkeypatch.setattr(shared_attention, "_MOST_WORK_BYTES", 1)
    assert torch.equal(attention.sparse_attention(*operands), whole)


@pytest.mark.parametrize("group", shared_attention.GROUPS)
def test_unions_are_the_kept_keys_of_neighbouring_queries_and_masks_say_whose(device, either_order, group):
    queries, keys, positions = 150, 2500, 128 // group
    make = np.random.default_rng(group)
    keep = make.random((2, queries, keys)) < make.random((2, 1, keys)) ** 8  # some keys by most queries, most by few
    keep[0, positions : 2 * positions] = False
    keep[1, :, 64:128] = True
    words = words_of(keep, device)
    words[..., -1] |= ~((1 << keys % 64) - 1)  # bits beyond the last key keep nothing
    found = shared_attention.key_unions(words, keys, group)
    picks, packed = found.picks.cpu().numpy(), found.packed.cpu().numpy().view(np.uint64)
    for mask in range(2):
        for tile, steps in enumerate(found.counts[mask].tolist()):
            own = keep[mask, tile * positions : (tile + 1) * positions]
            union = np.flatnonzero(own.any(axis=0))
            assert steps == -(-len(union) // 64)
            listed = picks[mask, tile, :steps].transpose(0, 2, 1).ravel()
            assert listed[: len(union)].tolist() == union.tolist() and (listed < keys).all()
            bits = np.unpackbits(packed[mask, tile, :steps].view(np.uint8), bitorder="little").reshape(steps, positions, 64)
            rows = bits.transpose(1, 0, 2).reshape(positions, -1).astype(bool)
            assert (rows[: len(own), : len(union)] == own[:, union]).all()
            assert not rows[len(own) :].any() and not rows[:, len(union) :].any()


def test_heads_with_masks_of_their_own_and_given_tiles_walk_tiles(device, gathered):
    q, k, v, keep = problem(4, 2, 4, 70, 90, 64, torch.float16)
    q, k, v, words = q.to(device), k.to(device), v.to(device), words_of(keep, device)
    attention.sparse_attention(q, k, v, words)
    attention.sparse_attention(q, k, v, words[:2].contiguous(), tiles=attention.live_tiles(words[:2].contiguous()))
    attention.sparse_attention(q, k, v, words[:2].contiguous(), slopes=torch.zeros(4, device=device))
    attention.sparse_attention(q[:2].contiguous(), k, v, words[:2].contiguous())
    assert not gathered


def test_a_graph_can_hold_it(device, gathered):
    q, k, v, keep = problem(4, 2, 2, 40, 90, 64, torch.bfloat16)
    operands = [x.to(device) for x in (q, k, v)] + [words_of(keep, device)]
    with Refusing():
        attention.sparse_attention(*operands)
    assert len(gathered) == 1


def test_without_products_of_warpgroups_tiles_are_walked(device, monkeypatch):
    monkeypatch.setattr(attention, "prefill_kernel", lambda device: "xm_cuda_attend_tiles")
    monkeypatch.setattr(attention, "attend_shared", None)
    q, k, v, keep = problem(4, 2, 2, 70, 90, 64, torch.float16)
    out = attention.sparse_attention(q.to(device), k.to(device), v.to(device), words_of(keep, device))
    assert_close(out, wanted(q, k, v, keep), 1e-3)
