"""The activations that the golden thresholds were made from, made again."""

from pathlib import Path

import numpy as np

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "teal_thresholds_synth.npz")
PUBLISHED = np.load(Path(__file__).parents[2] / "golden" / "teal_thresholds_published.npz")

_random, _shape = np.random.default_rng(20), (2, 64, 128)
DISTRIBUTIONS = {
    "laplace": _random.laplace(0, 0.5, _shape).astype(np.float32),
    "gauss": _random.standard_normal(_shape).astype(np.float32),
    "skew": (0.7 * _random.standard_normal(_shape) + 0.2).astype(np.float32),
}
