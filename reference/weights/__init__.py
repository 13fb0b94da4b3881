"""Methods that make weights sparse. Most give a keep mask, True where a weight stays; those that mend what stays give both, `Pruned`."""

from xmsim.reference.weights.admm_pruning import admm, admm_by_row
from xmsim.reference.weights.budgets import alphapruning, median_exponent, outlier_percent, owl, owl_kept, peak_exponent, uniform
from xmsim.reference.weights.calibration import InputProducts, InputSquares
from xmsim.reference.weights.magnitude import magnitude_keep
from xmsim.reference.weights.prox_operator import prox_two_four, prox_two_four_by_block
from xmsim.reference.weights.proxsparse import (
    frozen_weight_gradient,
    frozen_weight_penalty,
    masked_original,
    project_two_four,
    proxsparse_step,
    two_four_keep,
)
from xmsim.reference.weights.pruned import Pruned, apply_keep
from xmsim.reference.weights.sparse_gpt import sparsegpt
from xmsim.reference.weights.wanda import wanda_alpha_keep, wanda_keep, wanda_scores

__all__ = [
    "InputProducts",
    "InputSquares",
    "Pruned",
    "admm",
    "admm_by_row",
    "alphapruning",
    "apply_keep",
    "frozen_weight_gradient",
    "frozen_weight_penalty",
    "magnitude_keep",
    "masked_original",
    "median_exponent",
    "outlier_percent",
    "owl",
    "owl_kept",
    "peak_exponent",
    "project_two_four",
    "prox_two_four",
    "prox_two_four_by_block",
    "proxsparse_step",
    "sparsegpt",
    "two_four_keep",
    "uniform",
    "wanda_alpha_keep",
    "wanda_keep",
    "wanda_scores",
]
