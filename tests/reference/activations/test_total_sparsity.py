"""Static and dynamic sparsity together."""

import numpy as np
import pytest

from xmsim.reference.activations import dynamic_sparsity, static_sparsity, total_sparsity


@pytest.mark.parametrize(("total", "static", "dynamic"), [(0.5, 0.2, 0.375), (0.6, 0.25, 0.467), (0.8, 0.45, 0.636), (0.1, 0.05, 0.053)])
def test_the_published_splits_are_reached(total, static, dynamic):
    assert dynamic_sparsity(total, static) == pytest.approx(dynamic, abs=5e-4)


def test_the_inverses_lead_back():
    for static in np.arange(0, 1, 0.1):
        for dynamic in np.arange(0, 1, 0.1):
            total = total_sparsity(static, dynamic)
            assert dynamic_sparsity(total, static) == pytest.approx(dynamic, abs=1e-12)
            assert static_sparsity(total, dynamic) == pytest.approx(static, abs=1e-12)


def test_it_is_the_share_of_products_left_out():
    random = np.random.default_rng(7)
    kept = (random.random((400, 400)) >= 0.3) & (random.random(400) >= 0.4)
    assert 1 - kept.mean() == pytest.approx(total_sparsity(0.3, 0.4), abs=0.03)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="static: 1 is not a share"):
        total_sparsity(1, 0)
    with pytest.raises(ValueError, match=r"dynamic: -0\.1 is not a share"):
        total_sparsity(0, -0.1)
    with pytest.raises(ValueError, match="total: nan is not a share"):
        static_sparsity(float("nan"), 0)
    with pytest.raises(ValueError, match=r"total: 0\.2 is below the static sparsity 0\.3 alone; raise it to 0\.3 at least"):
        dynamic_sparsity(0.2, 0.3)
