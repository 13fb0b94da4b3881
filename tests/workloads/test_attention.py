import numpy as np
import pytest

from xmsim.configs.densities import Densities
from xmsim.workloads.attention import AttentionWorkload, pack


def mask(*rows: str) -> np.ndarray:
    return np.array([[pair == "1" for pair in row] for row in rows])


KEEP = np.stack([mask("1000", "0100", "0110", "0001"), mask("1000", "1100", "0010", "0001")])  # 5 of the 10 causal pairs each


def test_densities_of_heads_that_share_their_keys():
    # either head keeps 1 + 2 + 2 + 1 = 6 of the 10 keys that the KV head offers
    densities = AttentionWorkload.from_keep(KEEP, head_dim=8, kv_heads=1).densities()
    assert densities == Densities(density=10 / 20, full_density=10 / 32, kv_density=6 / 10)


def test_kv_density_is_density_where_no_keys_are_shared():
    densities = AttentionWorkload.from_keep(KEEP, head_dim=8).densities()
    assert densities.kv_density == densities.density == 10 / 20


def test_density_counts_only_pairs_inside_the_sliding_window():
    inside = mask("1000", "1100", "0110", "0011")
    assert AttentionWorkload.from_keep(inside[None], head_dim=8, window=2).densities().density == 1.0


def test_queries_may_be_the_last_of_the_keys():
    workload = AttentionWorkload.from_keep(mask("1110", "1111")[None], head_dim=8)
    assert workload.query_offset == 2 and workload.densities().density == 1.0


@pytest.mark.parametrize("keys", [1, 63, 64, 65, 200])
def test_packed_words_hold_the_mask_bit_by_bit(keys):
    keep = np.random.default_rng(keys).random((2, 3, keys)) < 0.3
    words = pack(keep)
    assert words.shape == (2, 3, -(-keys // 64))
    for head, query, key in np.ndindex(keep.shape):
        assert bool(words[head, query, key // 64] >> np.uint64(key % 64) & np.uint64(1)) == keep[head, query, key]
    again = AttentionWorkload.from_packed(words, keys=keys, head_dim=8, causal=False)
    np.testing.assert_array_equal(again.block_counts(1), keep)


@pytest.mark.parametrize(
    ("keep", "options", "message"),
    [
        (np.ones((1, 4, 4), bool), {}, "keeps a pair that the dense model does not compute"),
        (np.ones((1, 4, 4), np.int64), {}, "keep must be bool"),
        (np.ones((4, 4), bool), {}, "keep must be bool"),
        (np.tril(np.ones((3, 4, 4), bool)), {"kv_heads": 2}, "3 query heads do not divide over 2 KV heads"),
        (np.zeros((1, 5, 4), bool), {}, "5 causal queries see only 4 keys"),
        (np.zeros((1, 4, 0), bool), {}, "at least one"),
    ],
)
def test_a_mask_that_fits_no_model_is_refused(keep, options, message):
    with pytest.raises(ValueError, match=message):
        AttentionWorkload.from_keep(keep, head_dim=8, **options)


def test_padding_bits_that_are_set_are_refused():
    with pytest.raises(ValueError, match="padding"):
        AttentionWorkload.from_packed(np.full((1, 1, 1), 2**64 - 1, np.uint64), keys=5, head_dim=8, causal=False)


@pytest.mark.parametrize("options", [{"causal": False}, {"causal": True}, {"causal": True, "window": 5}])
@pytest.mark.parametrize(("queries", "keys"), [(9, 9), (1, 70), (40, 130)])
def test_allowed_pairs_are_those_of_the_allowed_mask(queries, keys, options):
    workload = AttentionWorkload.from_keep(np.zeros((1, queries, keys), bool), head_dim=8, **options)
    assert workload.allowed_pairs() == workload.allowed().sum()
