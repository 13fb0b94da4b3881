"""Sparsity methods: from a file, or the name of a shipped one, to the pairs that a layer keeps."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, model_validator

from xmsim.configs.errors import ConfigError, XmsimError, nearest
from xmsim.configs.schema import Config, check_config, check_overridden
from xmsim.configs.shipped import find_config, shipped_names
from xmsim.configs.yaml_file import read_yaml
from xmsim.reference.kernels.masks import LowBit, Mask
from xmsim.reference.kernels.native import library
from xmsim.traces.bits import WORD_BITS, unpack
from xmsim.traces.store import LayerTrace, Trace
from xmsim.workloads.methods.artifact_preset import artifact_method
from xmsim.workloads.methods.kinds import MethodConfig, PredictionConfig, method_kinds
from xmsim.workloads.methods.scores import head_bias, head_scores, holds_all, predicted_head_scores, score_source

FOLDER = "methods"


@dataclass(frozen=True, slots=True)
class Method:
    """A method with its name: that of its file."""

    name: str
    config: MethodConfig

    @property
    def parameters(self) -> dict[str, Any]:
        """Everything the mask depends on, as plain values for a record."""
        return self.config.model_dump(mode="json", exclude={"sources"})

    @property
    def block(self) -> int | None:
        """Keys that are decided on together; None where the method knows no blocks."""
        return getattr(self.config, "block", None)

    @property
    def prediction(self) -> PredictionConfig | None:
        """Low-bit prediction of the scores; None: exact scores, or none at all."""
        return getattr(self.config, "prediction", None)

    def keep(self, layer: LayerTrace, window: int, heads: Sequence[int] | None = None, queries: range | None = None) -> np.ndarray:
        """The kept pairs of one window, padding cut off; bool [heads, queries, keys], True where computed.

        A part is that part of the whole, bit for bit, whatever is asked for besides: the layer's quantisation scale is
        stored with it, exact scores are computed in the same tiles, and rows are decided with those that belong to them.

        Args:
            heads: numbers of heads stored in the layer, from 0; None: all.
            queries: consecutive queries of the window; None: all.
        Raises:
            XmsimError: the layer holds NaN or infinity, or the method does not fit it.
        """
        tokens = layer.valid_tokens[window]
        wanted = range(tokens) if queries is None else queries
        if not (0 <= wanted.start < wanted.stop <= tokens and wanted.step == 1):
            raise XmsimError(
                f"layer {layer.layer}, window {window}: queries {wanted.start} to {wanted.stop} do not lie within its {tokens}"
            )
        block = self.config.query_block
        rows = range(wanted.start // block * block, min(-(-wanted.stop // block) * block, tokens))
        chosen = range(layer.q.shape[1]) if heads is None else heads
        if (native := self._native_keep(layer, window, chosen, rows)) is not None:
            return native[:, wanted.start - rows.start : wanted.stop - rows.start]
        masks: dict[int, np.ndarray] = {}
        for head in chosen:
            if head not in masks:
                together = self._decided_with(layer, head)
                masks |= zip(together, self._keep_heads(layer, window, together, rows), strict=True)
        return np.stack([masks[head][wanted.start - rows.start : wanted.stop - rows.start] for head in chosen])

    def keep_last(self, layer: LayerTrace, window: int) -> np.ndarray:
        """The keys that the last query of a window keeps when it is the only query, as in decoding; bool [heads, 1, keys].

        A method that decides on several queries together thus decides on this one alone.

        Raises:
            XmsimError: as `keep`, or scores are predicted with one scale a head, of which a layer knows no maxima.
        """
        if self.prediction is not None and self.prediction.scale_per == "head":
            raise XmsimError(
                f"method {self.name}: prediction.scale_per: head needs the maxima of each head of the prefill, which decoding does not "
                f"keep; set it to layer"
            )
        tokens = layer.valid_tokens[window]
        every_head = range(layer.q.shape[1])
        if (native := self._native_keep(layer, window, every_head, range(tokens - 1, tokens))) is not None:
            return native
        together = dict.fromkeys(self._decided_with(layer, head) for head in every_head)
        return np.concatenate([self._keep_heads(layer, window, heads, range(tokens - 1, tokens)) for heads in together])

    def mask(
        self,
        layer: LayerTrace,
        window: int,
        heads: Sequence[int] | None = None,
        queries: range | None = None,
        threads: int | None = None,
        device: str = "cpu",
    ) -> Mask | None:
        """The mask of one window by the compiled kernels; None where they do not serve the method.

        With low-bit prediction it equals that of `keep`, bit for bit. Exact scores are added up in another order than those of `keep`,
        so that a pair may be kept here and not there where its score, or its block's share, lies within rounding of the cut.
        Arguments are those of `keep`; queries begin with a tile, where the method decides tiles. On a GPU the mask is the same.

        Raises:
            XmsimError: the layer holds NaN or infinity, or the method does not fit it.
        """
        chosen = range(layer.q.shape[1]) if heads is None else heads
        if self.config.decides_per_group and not holds_all(layer, chosen):
            return None  # the kernels take heads that share keys together
        rows = range(layer.valid_tokens[window]) if queries is None else queries
        try:
            return self.config.mask(score_source(layer, window, chosen, rows, self._low_bit(layer, chosen)), threads, device)
        except ValueError as error:
            raise XmsimError(f"method {self.name} on layer {layer.layer}, window {window}: {error}") from error

    def _native_keep(self, layer: LayerTrace, window: int, heads: Sequence[int], rows: range) -> np.ndarray | None:
        """The mask by the compiled kernels where it is the judge's, bit for bit: of low-bit scores. None elsewhere."""
        if self.prediction is None or library() is None:
            return None
        mask = self.mask(layer, window, heads, rows)
        return None if mask is None else mask.keep()

    def _low_bit(self, layer: LayerTrace, heads: Sequence[int]) -> LowBit | None:
        """Prediction as the kernels take it."""
        low = self.prediction
        if low is None:
            return None
        if low.scale_per == "layer":
            return LowBit(low.group, low.bits, layer.q_max, layer.k_max)
        share = layer.q.shape[1] // layer.k.shape[1]
        q_max, k_max = (np.abs(x).max(axis=(0, 2, 3)) for x in (layer.q, layer.k))
        if not holds_all(layer, heads):
            q_max, k_max = q_max[list(heads)], k_max[[head // share for head in heads]]
        return LowBit(low.group, low.bits, q_max, k_max)

    def _decided_with(self, layer: LayerTrace, head: int) -> range:
        """The heads whose scores a head's mask depends on."""
        share = layer.q.shape[1] // layer.k.shape[1] if self.config.decides_per_group else 1
        return range(head // share * share, head // share * share + share)

    def _keep_heads(self, layer: LayerTrace, window: int, heads: range, rows: range) -> np.ndarray:
        try:
            scores = np.stack([self._scores(layer, window, head, rows) for head in heads])
            return self.config.keep(scores, kv_heads=1, query_offset=rows.start)
        except ValueError as error:
            named = f"head {heads[0]}" if len(heads) == 1 else f"heads {heads[0]} to {heads[-1]}"
            raise XmsimError(f"method {self.name} on layer {layer.layer}, window {window}, {named}: {error}") from error

    def _scores(self, layer: LayerTrace, window: int, head: int, rows: range) -> np.ndarray:
        """What the mask of one head is made from; a static pattern needs no more than the bias."""
        if not self.config.reads_scores:
            return head_bias(layer, window, head, rows)
        if self.prediction is None:
            return head_scores(layer, window, head, rows)
        per_head = self.prediction.scale_per == "head"
        return predicted_head_scores(
            layer, window, head, rows, group=self.prediction.group, bits=self.prediction.bits, scale_per_head=per_head
        )

    def allowed(self, layer: LayerTrace, window: int) -> np.ndarray:
        """The pairs that the dense model computes, padding cut off; bool [queries, keys]."""
        return layer.bias.allowed(layer.valid_tokens[window])


@dataclass(frozen=True, slots=True, eq=False)
class StoredMask:
    """A method's mask of a layer as `xmsim extract --masks` stored it."""

    words: npt.NDArray[np.uint64]  # [windows, heads, queries, ceil(keys / 64)]
    head_ids: tuple[int, ...]  # of the model

    def keep(self, window: int, layer: LayerTrace) -> np.ndarray:
        """The kept pairs of one window and of the heads that `layer` has, padding cut off; bool [heads, queries, keys]."""
        tokens = layer.valid_tokens[window]
        words = self.words[window, [self.head_ids.index(head) for head in layer.head_ids]]
        return unpack(words[:, :tokens, : -(-tokens // WORD_BITS)], tokens)


def stored_mask(trace: Trace, method: Method, layer: int) -> StoredMask | None:
    """The mask of a layer that the trace holds, if it is of this method, its parameters and the layer's scales; else None.

    Raises:
        TraceError: the trace says that it holds one, and the file is lost or damaged.
    """
    facts = trace.find_mask(layer, method.parameters)
    return None if facts is None else StoredMask(trace.read_mask(layer, facts), trace.manifest.head_ids)


class MethodReference(Config):
    """A method as a machine's YAML names it: `method: {name: xm, prediction: {group: 4, bits: 6}}`.

    Keys besides `name` override those of the method's own file.
    """

    model_config = ConfigDict(extra="allow")

    name: str

    @model_validator(mode="after")
    def _check_method(self) -> Self:
        try:
            self.load()
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return self

    def load(self) -> Method:
        """The method with its overrides."""
        return load_method(self.name, **(self.model_extra or {}))


def shipped_methods() -> tuple[str, ...]:
    """Names of the methods that come with xmsim."""
    return shipped_names(FOLDER)


def load_method(name_or_path: str | Path, **overrides: Any) -> Method:
    """The method that a file describes; a plain name is looked up among the shipped ones. `overrides` replace its keys.

    A file is YAML of ours, or JSON of the DynaX artifact. A name or path may end in `:1_4_6bit`: scores are then predicted from 1 of
    4 channels with 6 bits, in the artifact's words; any group and width will do.

    Raises:
        ConfigError: no such method or file, or a value is wrong; one line for each fault.
    """
    if predicted := re.fullmatch(r"(.+):1_(\d{1,9})_(\d{1,9})bit", str(name_or_path)):
        name, group, bits = predicted.groups()
        return load_method(name, **{"prediction": {"group": int(group), "bits": int(bits)}} | overrides)
    if Path(name_or_path).suffix == ".json":
        path = Path(name_or_path)
        document = artifact_method(read_yaml(path))  # JSON is YAML, too
    else:
        path = find_config(FOLDER, name_or_path, "method")
        document = read_yaml(path)
    kinds = method_kinds()
    if "method" not in document.data:
        raise ConfigError(f"{document.place(())}: method: missing; add it, one of {', '.join(kinds)}")
    kind = str(document.data["method"])
    if kind not in kinds:
        raise ConfigError(f"{document.place(('method',))}: method: no kind {kind}; {nearest(kind, tuple(kinds))}")
    config = check_config(document, kinds[kind])
    if overrides:
        config = check_overridden(path, document.data | overrides, type(config), f"method {path.stem}")
    return Method(path.stem, config)
