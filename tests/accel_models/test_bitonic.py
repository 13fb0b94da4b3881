import pytest

from xmsim.accel_models.bitonic import top_k_comparators, top_k_latency, top_k_stages


@pytest.mark.parametrize(
    ("keys", "kept", "stages", "latency", "comparators"),
    [
        (64, 4, ((64, 1), (64, 2), (64, 3), (32, 3), (16, 3), (8, 3)), 15, 276),
        (64, 1, ((64, 1), (32, 1), (16, 1), (8, 1), (4, 1), (2, 1)), 6, 63),
        (8, 4, ((8, 1), (8, 2), (8, 3)), 6, 24),
    ],
)
def test_networks_have_the_stages_of_the_released_source(keys, kept, stages, latency, comparators):
    assert top_k_stages(keys, kept) == stages
    assert top_k_latency(keys, kept) == latency
    assert top_k_comparators(keys, kept) == comparators


def test_finding_half_of_the_keys_or_more_is_a_full_sort():
    assert top_k_latency(64, 32) == top_k_latency(64, 64) == 21
    assert top_k_comparators(64, 64) == 672


def test_a_width_that_is_no_power_of_two_pads_up():
    assert top_k_stages(64, 3) == top_k_stages(64, 4)


@pytest.mark.parametrize(("keys", "kept", "named"), [(48, 4, "keys: 48"), (1, 1, "keys: 1"), (64, 0, "kept: 0"), (64, 65, "kept: 65")])
def test_a_network_that_cannot_be_is_refused_by_name(keys, kept, named):
    with pytest.raises(ValueError, match=named):
        top_k_stages(keys, kept)
