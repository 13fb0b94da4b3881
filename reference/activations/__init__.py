"""Methods that make activations sparse: what is counted of them, thresholds, masks, and the product that profits."""

from xmsim.reference.activations.greedy import (
    GreedyStep,
    effective_sparsity,
    greedy_steps,
    nearest_step,
    read_greedy_table,
    tail_error,
    write_greedy_table,
)
from xmsim.reference.activations.histogram import ActivationCounter, ActivationHistogram, read_histograms, write_histograms
from xmsim.reference.activations.keep import (
    keep_first_half,
    keep_first_tokens,
    sparsified,
    threshold_keep,
    token_share_keep,
    wina_column_norms,
    wina_scores,
    wina_thresholds,
)
from xmsim.reference.activations.spmspv import spmspv
from xmsim.reference.activations.thresholds import (
    PROJECTION_INPUTS,
    layer_thresholds,
    magnitude_threshold,
    share_within,
    symmetric_threshold,
    uniform_sparsities,
)
from xmsim.reference.activations.total_sparsity import dynamic_sparsity, static_sparsity, total_sparsity

__all__ = [
    "PROJECTION_INPUTS",
    "ActivationCounter",
    "ActivationHistogram",
    "GreedyStep",
    "dynamic_sparsity",
    "effective_sparsity",
    "greedy_steps",
    "keep_first_half",
    "keep_first_tokens",
    "layer_thresholds",
    "magnitude_threshold",
    "nearest_step",
    "read_greedy_table",
    "read_histograms",
    "share_within",
    "sparsified",
    "spmspv",
    "static_sparsity",
    "symmetric_threshold",
    "tail_error",
    "threshold_keep",
    "token_share_keep",
    "total_sparsity",
    "uniform_sparsities",
    "wina_column_norms",
    "wina_scores",
    "wina_thresholds",
    "write_greedy_table",
    "write_histograms",
]
