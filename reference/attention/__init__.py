"""Sparse attention as it should come out: which pairs each method keeps, low-bit score prediction, attention on kept pairs."""

from xmsim.reference.attention.attention import sparse_attention
from xmsim.reference.attention.block_pattern import block_pattern_keep, fixed_pattern_keep
from xmsim.reference.attention.groups import group_max_scores, group_sum_scores
from xmsim.reference.attention.nm import nm_keep
from xmsim.reference.attention.prediction import predict_integer_scores, predict_scores
from xmsim.reference.attention.salo import salo_keep
from xmsim.reference.attention.sanger import sanger_keep
from xmsim.reference.attention.topk import topk_keep
from xmsim.reference.attention.window import window_keep
from xmsim.reference.attention.xm import xm_causal_keep, xm_keep

__all__ = [
    "block_pattern_keep",
    "fixed_pattern_keep",
    "group_max_scores",
    "group_sum_scores",
    "nm_keep",
    "predict_integer_scores",
    "predict_scores",
    "salo_keep",
    "sanger_keep",
    "sparse_attention",
    "topk_keep",
    "window_keep",
    "xm_causal_keep",
    "xm_keep",
]
