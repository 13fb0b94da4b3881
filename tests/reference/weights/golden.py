"""Golden data of the pruning methods, and what the tests share: inputs in every kind of array, sizes of differences."""

from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parents[2] / "golden"
WANDA = np.load(FOLDER / "wanda_masks.npz")
BASELINES = np.load(FOLDER / "wanda_baselines_sparsegpt_admm.npz")
BUDGETS = np.load(FOLDER / "owl_alphapruning_ratios.npz")
PROX = np.load(FOLDER / "proxsparse_prox_op.npz")
TRAINING = np.load(FOLDER / "proxsparse_mask_reg.npz")


def relative(result, expected):
    """The largest difference as a share of the largest expected magnitude."""
    return np.abs(np.asarray(result, np.float64) - expected).max() / np.abs(expected).max()


def output_error(weight):
    """Error of the layer's output on the golden inputs, relative to that output."""
    x, w = BASELINES["X"].reshape(-1, 64).astype(np.float64), BASELINES["W"]
    return np.linalg.norm(x @ (weight - w).T) / np.linalg.norm(x @ w.T)
