"""The kinds of sparsity methods: what a YAML file may say of each, and which pairs each keeps.

A new kind is one class here, named by its `method:` literal, and one YAML file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, get_args

import numpy as np
from pydantic import Field, model_validator

from xmsim.configs.schema import Config, PositiveInt, Share
from xmsim.reference.attention import (
    block_pattern_keep,
    fixed_pattern_keep,
    group_max_scores,
    group_sum_scores,
    nm_keep,
    salo_keep,
    sanger_keep,
    topk_keep,
    window_keep,
    xm_causal_keep,
    xm_keep,
)
from xmsim.reference.kernels.attention import WORD_KEYS
from xmsim.reference.kernels.kv_cache import Lists, predicted_topk_words, predicted_xm_words
from xmsim.reference.kernels.masks import (
    Mask,
    ScoreSource,
    nm_mask,
    salo_mask,
    sanger_mask,
    topk_mask,
    xm_causal_mask,
    xm_mask,
    xm_shared_mask,
)

Array = TypeVar("Array")  # numpy.ndarray or torch.Tensor
BlockSize = Annotated[int, Field(gt=0, le=2**16)]  # keys; a row is filled up to whole blocks
Count = Annotated[int, Field(ge=0)]
Threshold = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class FreeParameter:
    """The number of a method that trades pruning against accuracy: more of the one is less of the other, step by step."""

    name: str  # key of the method's file
    values: Sequence[float]  # from the least pruning to the most; a range where only whole numbers make sense

    @property
    def whole(self) -> bool:
        """Whether only whole numbers make sense, so that a target is met as nearly as a step allows."""
        return isinstance(self.values, range)


PROBABILITIES = tuple(float(f"{digits}e{exponent}") for exponent in range(-10, -2) for digits in range(100, 1000))  # 1e-8 to 0.999


class PredictionConfig(Config):
    """Low-bit prediction of the scores that a mask is made from."""

    group: PositiveInt  # channels of a query of which one is kept
    bits: Annotated[int, Field(ge=2, le=8)]
    scale_per: Literal["layer", "head"] = "layer"  # one quantisation scale for all heads, as published, or one a head


class MethodConfig(Config, ABC):
    """Keys that every method's YAML has, and what a method must tell about itself."""

    reads_scores: ClassVar[bool]  # False: only which pairs are allowed decides
    decides_per_group: ClassVar[bool] = False  # the query heads of a KV head are decided on together, and share a mask

    method: str
    sources: dict[str, str] = Field(default_factory=dict)  # {key: where its value comes from}

    @model_validator(mode="after")
    def _check_parameters(self) -> Self:
        self.keep(np.zeros((1, 1, 1), np.float32), kv_heads=1)  # the reference checks its own arguments
        return self

    @property
    def query_block(self) -> int:
        """Queries that are decided on together: a part of the rows begins at a multiple of it."""
        return 1

    @abstractmethod
    def keep(self, scores: Array, *, kv_heads: int, query_offset: int | None = None) -> Array:
        """The kept pairs, bool like `scores`.

        Args:
            scores: float [..., heads, queries, keys], scaled and biased, -inf where a pair is not allowed. Where
                `reads_scores` is False, zero stands for any other score.
            kv_heads: KV heads that the heads share, neighbours one.
            query_offset: position of the first query; None means that the last query sees the last key.
        """

    def mask(self, source: ScoreSource, threads: int | None = None, device: str = "cpu") -> Mask | None:
        """The same mask by the compiled kernels, which make the scores themselves; None: no kernel serves this method.

        Args:
            source: what scores are made from.
            threads: None: as many as torch uses, or all.
            device: where the kernels run, as torch names it; what those of a GPU do not serve, those of the CPU make.
        """
        return None

    def cache_selection(self, device: str) -> Callable[..., Any] | None:
        """What picks the keys of a decoded query by a cache's few-bit copy of them, compiled for "cpu" or "cuda"; None: no kernel does.

        It is called with q, the cache, and q_max, scale and slopes, and gives packed words, as `predicted_xm_words` of that device does.
        """
        return None

    def free_parameter(self, key_tokens: int) -> FreeParameter | None:
        """What is tuned to meet an accuracy on windows of so many tokens; None: nothing, or nothing that only prunes more or less."""
        return None

    def with_free(self, parameter: FreeParameter, value: float) -> Self:
        """This method with a value of its free parameter, and of what moves with that."""
        return self._replaced(**{parameter.name: value})

    def _replaced(self, **keys: Any) -> Self:
        return type(self).model_validate(self.model_dump() | keys)


class PatternConfig(MethodConfig):
    """A static pattern, whatever the scores say."""

    reads_scores = False


class DenseConfig(PatternConfig):
    """Every pair that the dense model computes."""

    method: Literal["dense"]

    def keep(self, scores: Array, *, kv_heads: int, query_offset: int | None = None) -> Array:
        allowed: Any = scores > -np.inf  # type: ignore[operator]
        return allowed


class WindowConfig(PatternConfig):
    """A sliding window, dilated or not, and global tokens."""

    method: Literal["window"]
    window: PositiveInt
    global_tokens: Count
    dilation: PositiveInt

    def keep(self, scores: Array, *, kv_heads: int, query_offset: int | None = None) -> Array:
        return window_keep(scores, window=self.window, global_tokens=self.global_tokens, dilation=self.dilation, query_offset=query_offset)

    def free_parameter(self, key_tokens: int) -> FreeParameter:
        return FreeParameter("window", range(-(-key_tokens // self.dilation), 0, -1))


class BlockPatternConfig(PatternConfig):
    """A band of blocks, global blocks and random ones."""

    method: Literal["block_pattern"]
    block: BlockSize
    band_blocks: PositiveInt
    global_blocks: Count
    random_blocks: Count
    seed: Count

    def keep(self, scores: Array, *, kv_heads: int, query_offset: int | None = None) -> Array:
        return block_pattern_keep(
            scores,
            block=self.block,
            band_blocks=self.band_blocks,
            global_blocks=self.global_blocks,
            random_blocks=self.random_blocks,
            seed=self.seed,
            query_offset=query_offset,
        )

    def free_parameter(self, key_tokens: int) -> FreeParameter:
        return FreeParameter("band_blocks", range(2 * -(-key_tokens // self.block) - 1, 0, -2))  # a band is symmetric


class FixedPatternConfig(PatternConfig):
    """Local squares of blocks, and the last block column of each."""

    method: Literal["fixed_pattern"]
    block: BlockSize
    local_blocks: PositiveInt

    def keep(self, scores: Array, *, kv_heads: int, query_offset: int | None = None) -> Array:
        return fixed_pattern_keep(scores, block=self.block, local_blocks=self.local_blocks, query_offset=query_offset)


class ScoreMethodConfig(MethodConfig):
    """A method that looks at scores: exact ones, or predicted ones where `prediction` is given."""

    reads_scores = True

    prediction: PredictionConfig | None = None


class XmParameters(ScoreMethodConfig):
    """Parameters of X:M pruning."""

    block: BlockSize
    kept_high: PositiveInt
    kept_low: Count
    threshold_high: Threshold
    threshold_low: Threshold

    @property
    def arguments(self) -> dict[str, Any]:
        """The parameters as the reference takes them."""
        return {name: getattr(self, name) for name in XmParameters.model_fields if name not in ScoreMethodConfig.model_fields}

    def _cache_selection(self, device: str, lists: Lists) -> Callable[..., Any] | None:
        if self.prediction is None or self.block != WORD_KEYS:
            return None
        rule = {name: value for name, value in self.arguments.items() if name != "block"} | {"group": self.prediction.group, "lists": lists}
        if device == "cpu":
            return partial(predicted_xm_words, **rule)
        from xmsim.reference.kernels.cuda.key_codes import predicted_xm_words as predicted_on_gpu  # which needs torch

        return lambda q, cache, **options: predicted_on_gpu(q, cache, **rule, **options).words

    def free_parameter(self, key_tokens: int) -> FreeParameter:
        """X: thresholds alone cannot give more accuracy than keeping X of every block does."""
        return FreeParameter("kept_high", range(self.block, 0, -1))

    def with_free(self, parameter: FreeParameter, value: float) -> Self:
        """X of blocks with a small share moves in proportion, rounded down."""
        return self._replaced(kept_high=value, kept_low=int(value) * self.kept_low // self.kept_high)


class XmConfig(XmParameters):
    """X:M pruning, thresholds relative to the full row length, as published."""

    method: Literal["xm"]

    def keep(self, scores: Array, *, kv_heads: int, query_offset: int | None = None) -> Array:
        return xm_keep(scores, **self.arguments)

    def mask(self, source: ScoreSource, threads: int | None = None, device: str = "cpu") -> Mask | None:
        return xm_mask(source, threads=threads, device=device, **self.arguments)

    def cache_selection(self, device: str) -> Callable[..., Any] | None:
        return self._cache_selection(device, "head")


class XmCausalConfig(XmParameters):
    """X:M pruning, thresholds relative to the keys that a row may see."""

    method: Literal["xm_causal"]

    def keep(self, scores: Array, *, kv_heads: int, query_offset: int | None = None) -> Array:
        return xm_causal_keep(scores, **self.arguments)

    def mask(self, source: ScoreSource, threads: int | None = None, device: str = "cpu") -> Mask | None:
        return xm_causal_mask(source, threads=threads, device=device, **self.arguments)


class XmSharedConfig(XmParameters):
    """X:M pruning with one list of keys a KV head, for CPUs and GPUs."""

    decides_per_group = True

    def repeated(self, keep: Any, scores: Any) -> Any:
        """The mask of each KV head, once for each of its query heads."""
        share = scores.shape[-3] // keep.shape[-3]
        return keep.repeat(share, -3) if isinstance(keep, np.ndarray) else keep.repeat_interleave(share, -3)


class XmSharedSumConfig(XmSharedConfig):
    """A list is made from the sum of the heads' probabilities."""

    method: Literal["xm_shared_sum"]

    def keep(self, scores: Array, *, kv_heads: int, query_offset: int | None = None) -> Array:
        shared: Array = self.repeated(xm_keep(group_sum_scores(scores, kv_heads=kv_heads), **self.arguments), scores)
        return shared

    def mask(self, source: ScoreSource, threads: int | None = None, device: str = "cpu") -> Mask | None:
        return xm_shared_mask(source, by_largest=False, device=device, **self.arguments)

    def cache_selection(self, device: str) -> Callable[..., Any] | None:
        return self._cache_selection(device, "group_sum")


class XmSharedMaxConfig(XmSharedConfig):
    """A list is made from the largest of the heads' probabilities."""

    method: Literal["xm_shared_max"]

    def keep(self, scores: Array, *, kv_heads: int, query_offset: int | None = None) -> Array:
        shared: Array = self.repeated(xm_keep(group_max_scores(scores, kv_heads=kv_heads), **self.arguments), scores)
        return shared

    def mask(self, source: ScoreSource, threads: int | None = None, device: str = "cpu") -> Mask | None:
        return xm_shared_mask(source, by_largest=True, device=device, **self.arguments)

    def cache_selection(self, device: str) -> Callable[..., Any] | None:
        return self._cache_selection(device, "group_max")


class NmConfig(ScoreMethodConfig):
    """N:M pruning."""

    method: Literal["nm"]
    block: BlockSize
    kept: PositiveInt

    def keep(self, scores: Array, *, kv_heads: int, query_offset: int | None = None) -> Array:
        return nm_keep(scores, kept=self.kept, block=self.block)

    def mask(self, source: ScoreSource, threads: int | None = None, device: str = "cpu") -> Mask | None:
        return nm_mask(source, kept=self.kept, block=self.block, threads=threads, device=device)

    def free_parameter(self, key_tokens: int) -> FreeParameter:
        return FreeParameter("kept", range(self.block, 0, -1))


class SangerConfig(ScoreMethodConfig):
    """Threshold pruning."""

    method: Literal["sanger"]
    threshold: Share

    def keep(self, scores: Array, *, kv_heads: int, query_offset: int | None = None) -> Array:
        return sanger_keep(scores, threshold=self.threshold)

    def mask(self, source: ScoreSource, threads: int | None = None, device: str = "cpu") -> Mask | None:
        return sanger_mask(source, threshold=self.threshold, threads=threads, device=device)

    def free_parameter(self, key_tokens: int) -> FreeParameter:
        return FreeParameter("threshold", PROBABILITIES)


class TopkConfig(ScoreMethodConfig):
    """Top-k pruning."""

    method: Literal["topk"]
    kept: PositiveInt

    def keep(self, scores: Array, *, kv_heads: int, query_offset: int | None = None) -> Array:
        return topk_keep(scores, kept=self.kept)

    def mask(self, source: ScoreSource, threads: int | None = None, device: str = "cpu") -> Mask | None:
        return topk_mask(source, kept=self.kept, threads=threads, device=device)

    def cache_selection(self, device: str) -> Callable[..., Any] | None:
        if self.prediction is None or device != "cpu":
            return None
        return partial(predicted_topk_words, kept=self.kept, group=self.prediction.group, lists="head")

    def free_parameter(self, key_tokens: int) -> FreeParameter:
        return FreeParameter("kept", range(key_tokens, 0, -1))


class SaloConfig(ScoreMethodConfig):
    """SALOv2's pattern: of each tile a window of diagonals, global lines and picks."""

    method: Literal["salo"]
    block: BlockSize
    window: PositiveInt
    global_tokens: Count
    picks: Count
    dilation: PositiveInt

    @property
    def query_block(self) -> int:
        return self.block

    def keep(self, scores: Array, *, kv_heads: int, query_offset: int | None = None) -> Array:
        return salo_keep(
            scores,
            block=self.block,
            window=self.window,
            global_tokens=self.global_tokens,
            picks=self.picks,
            dilation=self.dilation,
            query_offset=query_offset,
        )

    def mask(self, source: ScoreSource, threads: int | None = None, device: str = "cpu") -> Mask | None:
        return salo_mask(
            source,
            block=self.block,
            window=self.window,
            global_tokens=self.global_tokens,
            picks=self.picks,
            dilation=self.dilation,
            threads=threads,
            device=device,
        )

    def free_parameter(self, key_tokens: int) -> FreeParameter:
        """The diagonals of a tile that fit into it."""
        return FreeParameter("window", range((self.block - 1) // self.dilation + 1, 0, -1))


def method_kinds() -> dict[str, type[MethodConfig]]:
    """Each class that a file can name, by the word its `method` key must be."""
    found: dict[str, type[MethodConfig]] = {}
    waiting = MethodConfig.__subclasses__()
    while waiting:
        config = waiting.pop()
        waiting += config.__subclasses__()
        for kind in get_args(config.model_fields["method"].annotation):
            found[kind] = config
    return dict(sorted(found.items()))
