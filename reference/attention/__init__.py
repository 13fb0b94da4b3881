"""Sparse attention as it should come out: which pairs each method keeps, low-bit score prediction, attention on kept pairs."""

from xmsim.reference.attention.attention import sparse_attention
from xmsim.reference.attention.nm import nm_keep
from xmsim.reference.attention.prediction import predict_integer_scores, predict_scores
from xmsim.reference.attention.sanger import sanger_keep
from xmsim.reference.attention.topk import topk_keep
from xmsim.reference.attention.window import window_keep
from xmsim.reference.attention.xm import xm_keep

__all__ = [
    "nm_keep",
    "predict_integer_scores",
    "predict_scores",
    "sanger_keep",
    "sparse_attention",
    "topk_keep",
    "window_keep",
    "xm_keep",
]
