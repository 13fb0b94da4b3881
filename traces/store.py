"""Reading a trace: a folder with `manifest.json` and one safetensors file a layer."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xmsim.traces.bits import unpack
from xmsim.traces.errors import TraceError
from xmsim.traces.layer_file import read_layer_file, read_words_file
from xmsim.traces.manifest import Bias, Manifest, MaskFacts, layer_file_name, mask_file_name, read_manifest, weights_file_name

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class HeadTrace:
    """Operands of one query head and the KV head it reads, after rotary embedding and before scaling; valid tokens only."""

    q: Floats  # [tokens, head_dim]
    k: Floats  # [tokens, head_dim]
    v: Floats  # [tokens, head_dim]


@dataclass(frozen=True, slots=True, eq=False)
class LayerTrace:
    """Operands of one layer, after rotary embedding and before scaling, as float32 whatever they are stored in."""

    layer: int
    q: Floats  # [windows, heads, tokens, head_dim]
    k: Floats  # [windows, kv_heads, tokens, head_dim]
    v: Floats  # [windows, kv_heads, tokens, head_dim]
    valid_tokens: tuple[int, ...]  # one a window; later tokens are padding and hold zeros
    scale: float  # the scores are scale × q·k + bias
    bias: Bias
    q_max: float  # largest |q| of the layer, over all heads of the model, windows and valid tokens
    k_max: float
    head_ids: tuple[int, ...]  # which heads of the model these are
    kv_head_ids: tuple[int, ...]
    hidden_size: int | None = None  # channels of the model between its layers; None: not known

    def head(self, window: int, head: int) -> HeadTrace:
        """Operands of the stored query head number `head` (of the model: head_ids[head]), trimmed to valid tokens.

        Raises:
            TraceError: the layer has no such window or head.
        """
        for what, number, limit in (("window", window, len(self.q)), ("head", head, len(self.head_ids))):
            if not 0 <= number < limit:
                raise TraceError(f"layer {self.layer}: no {what} {number}; the trace has {what}s 0 to {limit - 1}")
        kv_head = head // (len(self.head_ids) // len(self.kv_head_ids))
        valid = self.valid_tokens[window]
        return HeadTrace(self.q[window, head, :valid], self.k[window, kv_head, :valid], self.v[window, kv_head, :valid])


@dataclass(frozen=True, slots=True)
class Trace:
    """A complete trace on disk."""

    path: Path
    manifest: Manifest = field(repr=False)  # it fills a screen
    sha256: str  # identifies the content, wherever the folder lies

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers of the model that are stored."""
        return self.manifest.layer_ids

    @property
    def windows(self) -> int:
        """Windows of the text."""
        return self.manifest.windows

    def source(self) -> dict[str, str]:
        """What result and measurement records say about their trace; the folder by its name only."""
        text = self.manifest.text.name if self.manifest.text else ""
        return {"path": self.path.resolve().name, "sha256": self.sha256, "model": self.manifest.model.name, "text": text}

    def read_layer(self, layer: int) -> LayerTrace:
        """Read one layer, after checking its file against the SHA-256 in the manifest.

        Raises:
            TraceError: the trace has no such layer, or its file is missing, truncated or edited.
        """
        manifest = self.manifest
        if layer not in manifest.layer_ids:
            raise TraceError(f"{self.path}: no layer {layer}; the trace has layers {', '.join(map(str, manifest.layer_ids))}")
        facts = manifest.layers[manifest.layer_ids.index(layer)]
        tensors = read_layer_file(self.path / layer_file_name(layer), facts.sha256, manifest.shapes(), manifest.dtype)
        return LayerTrace(
            layer=layer,
            **tensors,
            valid_tokens=manifest.valid_tokens,
            scale=facts.softmax_scale,
            bias=facts.bias,
            q_max=facts.q_max,
            k_max=facts.k_max,
            head_ids=manifest.head_ids,
            kv_head_ids=manifest.kv_head_ids,
            hidden_size=manifest.model.hidden_size,
        )

    @property
    def has_masks(self) -> bool:
        """Whether any layer has a stored mask."""
        return any(facts.masks for facts in self.manifest.layers)

    def find_mask(self, layer: int, parameters: dict[str, Any]) -> MaskFacts | None:
        """The stored mask of a layer by a method with these parameters; None where there is none that fits the layer's scales."""
        return self.manifest.facts(layer).mask(parameters)

    def read_mask(self, layer: int, mask: MaskFacts) -> npt.NDArray[np.uint64]:
        """A stored mask; uint64 [windows, heads, queries, ceil(keys / 64)], zeros where there is padding.

        Raises:
            TraceError: its file is missing, truncated or edited.
        """
        path = self.path / mask_file_name(layer, mask.parameters)
        return read_words_file(path, mask.made.sha256, {"words": self.manifest.mask_shape()})["words"]

    def read_weights(self, layer: int) -> dict[str, npt.NDArray[np.bool_]]:
        """Which elements of the layer's weight matrices are not zero: bool [out_features, in_features], by the names of their modules.

        Raises:
            TraceError: the trace holds none, or the file is missing, truncated or edited.
        """
        weights = self.manifest.facts(layer).weights
        if weights is None:
            raise TraceError(f"{self.path}: no weight bitmaps of layer {layer}; extract the trace with --weights")
        shapes = {matrix.name: (matrix.out_features, -(-matrix.in_features // 64)) for matrix in weights.matrices}
        words = read_words_file(self.path / weights_file_name(layer), weights.made.sha256, shapes)
        return {matrix.name: unpack(words[matrix.name], matrix.in_features) for matrix in weights.matrices}


def open_trace(path: Path | str) -> Trace:
    """Open a complete trace.

    Raises:
        TraceError: no trace there, an edited manifest, or an extraction that has not finished.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    if manifest.missing:
        raise TraceError(
            f"{folder}: incomplete, {len(manifest.layers)} of {len(manifest.layer_ids)} layers are stored; "
            "run the same `xmsim extract` again to finish it"
        )
    return Trace(folder, manifest, manifest.content_sha256())
