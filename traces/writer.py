"""Writing a trace layer by layer: each layer is there whole or not at all, and what is there is not done again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xmsim.configs.files import write_whole
from xmsim.traces.errors import TraceError
from xmsim.traces.layer_file import Words, file_sha256, write_layer_file, write_words_file
from xmsim.traces.manifest import (
    MANIFEST_NAME,
    Bias,
    Derived,
    LayerFacts,
    Manifest,
    MaskFacts,
    MatrixFacts,
    WeightFacts,
    layer_file_name,
    mask_file_name,
    read_manifest,
    weights_file_name,
    write_manifest,
)
from xmsim.traces.storage import rounded

Floats = npt.NDArray[np.float32]
_LEFTOVERS = ".*.tmp"  # temporary files of a killed run


@dataclass(frozen=True, slots=True)
class Maker:
    """Who made something that is derived from a layer, and in what time."""

    kernel: str  # "native", "cuda" or "numpy"
    isa: str | None
    seconds: float


class TraceWriter:
    """Fills a trace folder according to a plan: a manifest without layers."""

    def __init__(self, folder: Path, plan: Manifest) -> None:
        """Start a trace, or go on with one of the same plan; nothing is written before the first layer.

        Raises:
            TraceError: the folder holds something else, or a trace of another plan.
        """
        self._folder = folder
        self._started = (folder / MANIFEST_NAME).exists()
        if self._started:
            self._manifest = self._resumed(plan)
        else:
            self._check_empty()
            self._manifest = plan
        for leftover in folder.glob(_LEFTOVERS):
            leftover.unlink(missing_ok=True)

    @property
    def layer_ids(self) -> tuple[int, ...]:
        """Layers of the plan."""
        return self._manifest.layer_ids

    @property
    def missing(self) -> tuple[int, ...]:
        """Layers that are still to be written."""
        return self._manifest.missing

    def _check_empty(self) -> None:
        folder = self._folder
        if folder.exists() and (not folder.is_dir() or any(not child.match(_LEFTOVERS) for child in folder.iterdir())):
            raise TraceError(f"{folder}: exists and is no trace; choose another folder for the trace")

    def _resumed(self, plan: Manifest) -> Manifest:
        """The manifest found in the folder, with the layers whose files are whole."""
        found = read_manifest(self._folder)
        asked, before = asdict(plan), asdict(replace(found, layers=()))
        if other := [name for name in asked if asked[name] != before[name]]:
            raise TraceError(f"{self._folder}: holds a trace with another {', '.join(other)}; choose another folder for this one")
        return replace(found, layers=tuple(self._whole_parts(facts) for facts in found.layers if self._is_whole(facts)))

    def _is_whole(self, facts: LayerFacts) -> bool:
        return _holds(self._folder / layer_file_name(facts.layer), facts)

    def _whole_parts(self, facts: LayerFacts) -> LayerFacts:
        """Without the masks and weight bitmaps whose files are lost or damaged."""
        masks = (mask for mask in facts.masks if _holds(self._folder / mask_file_name(facts.layer, mask.parameters), mask.made))
        weights = facts.weights if facts.weights and _holds(self._folder / weights_file_name(facts.layer), facts.weights.made) else None
        return replace(facts, masks=tuple(masks), weights=weights)

    def write_layer(self, layer: int, q: Floats, k: Floats, v: Floats, *, scale: float, bias: Bias) -> None:
        """Write one layer: all heads of the model are given, those of the plan are stored.

        Args:
            q: [windows, model heads, tokens, head_dim], after rotary embedding and before scaling.
            k, v: [windows, model KV heads, tokens, head_dim].
            scale: the scores are scale × q·k + bias.
            bias: with one slope a head of the model, if it is alibi.
        Raises:
            TraceError: shapes that are not those of the plan, or values that are not finite in the storage dtype.
            XmsimError: the disk is full; the layers written before stay.
        """
        plan = self._manifest
        model = plan.model
        for name, tensor, heads in (("q", q, model.heads), ("k", k, model.kv_heads), ("v", v, model.kv_heads)):
            expected = (plan.windows, heads, plan.tokens, model.head_dim)
            if tensor.shape != expected:
                raise TraceError(
                    f"layer {layer}: {name} has shape {list(tensor.shape)}, the configuration of {model.name} says {list(expected)}; "
                    f"{model.family} cannot be stored as a trace"
                )
        q_max, k_max, _ = (self._largest(layer, name, tensor) for name, tensor in (("q", q), ("k", k), ("v", v)))
        if bias.slopes is not None:
            bias = replace(bias, slopes=tuple(bias.slopes[head] for head in plan.head_ids))
        tensors = {"q": _select(q, plan.head_ids), "k": _select(k, plan.kv_head_ids), "v": _select(v, plan.kv_head_ids)}
        if not self._started:  # first, so that a run killed from here on leaves a folder that says what it is
            write_manifest(self._folder, plan)
            self._started = True
        path = self._folder / layer_file_name(layer)
        write_whole(path, lambda temporary: write_layer_file(temporary, tensors, plan.valid_tokens, plan.dtype))
        facts = LayerFacts(
            layer=layer,
            sha256=file_sha256(path),
            file_bytes=path.stat().st_size,
            softmax_scale=scale,
            bias=bias,
            q_max=q_max,
            k_max=k_max,
        )
        self._put(facts)

    def lacks_mask(self, layer: int, parameters: dict[str, Any]) -> bool:
        """Whether a stored layer has no mask of a method with these parameters."""
        return self._manifest.facts(layer).mask(parameters) is None

    def lacks_weights(self, layer: int) -> bool:
        """Whether a stored layer has no weight bitmaps."""
        return self._manifest.facts(layer).weights is None

    def write_mask(self, layer: int, method: str, parameters: dict[str, Any], words: npt.NDArray[np.uint64], maker: Maker) -> None:
        """Write the mask of a layer that is stored, in place of one of the same parameters.

        Args:
            parameters: of the method, plain values for JSON.
            words: [windows, heads, queries, ceil(keys / 64)], zeros where there is padding.
        Raises:
            TraceError: words of another shape.
            XmsimError: the disk is full; what was written before stays.
        """
        plan, facts = self._manifest, self._manifest.facts(layer)
        if words.shape != plan.mask_shape():
            raise TraceError(f"layer {layer}: mask {method} has words {list(words.shape)}, the trace needs {list(plan.mask_shape())}")
        made = self._write_derived(mask_file_name(layer, parameters), {"words": words}, maker)
        mask = MaskFacts(method, parameters, facts.scale_sha256(), int(np.bitwise_count(words).sum()), made)
        others = tuple(other for other in facts.masks if other.parameters != parameters)
        self._put(replace(facts, masks=(*others, mask)))

    def write_weights(self, layer: int, matrices: Words, in_features: Mapping[str, int], maker: Maker) -> None:
        """Write which elements of the weight matrices of a layer that is stored are not zero.

        Args:
            matrices: uint64 [out_features, ceil(in_features / 64)] as `pack` makes them, by the names of their modules.
            in_features: of each matrix.
        Raises:
            XmsimError: the disk is full; what was written before stays.
        """
        made = self._write_derived(weights_file_name(layer), matrices, maker)
        facts = tuple(
            MatrixFacts(name, out_features=len(words), in_features=in_features[name], nonzeros=int(np.bitwise_count(words).sum()))
            for name, words in matrices.items()
        )
        self._put(replace(self._manifest.facts(layer), weights=WeightFacts(facts, made)))

    def _write_derived(self, name: str, words: Words, maker: Maker) -> Derived:
        path = self._folder / name
        write_whole(path, lambda temporary: write_words_file(temporary, words))
        return Derived(file_sha256(path), path.stat().st_size, **asdict(maker))

    def _put(self, facts: LayerFacts) -> None:
        self._manifest = self._manifest.with_layer(facts)
        write_manifest(self._folder, self._manifest)

    def _largest(self, layer: int, name: str, tensor: Floats) -> float:
        """Largest magnitude over valid tokens, as stored: rounding keeps order, so the largest stays the largest."""
        valid = [window[:, :tokens] for window, tokens in zip(tensor, self._manifest.valid_tokens, strict=True)]
        largest = float(np.max([(part.max(), -part.min()) for part in valid]))
        if not np.isfinite(largest):
            raise TraceError(f"layer {layer}: {name} holds NaN or infinity, so the model's output is meaningless; check its weights")
        stored = rounded(largest, self._manifest.dtype)
        if not np.isfinite(stored):
            raise TraceError(f"layer {layer}: |{name}| reaches {largest:.3g}, more than {self._manifest.dtype} holds; use --dtype float32")
        return stored


def _holds(path: Path, facts: LayerFacts | Derived) -> bool:
    """Whether the file is the one that the facts are of."""
    return path.is_file() and path.stat().st_size == facts.file_bytes and file_sha256(path) == facts.sha256


def _select(tensor: Floats, heads: tuple[int, ...]) -> Floats:
    """The heads of a tensor; the tensor itself where that is all of them, to save the copy."""
    return tensor if len(heads) == tensor.shape[1] else tensor[:, list(heads)]
