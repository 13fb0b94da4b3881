"""What a trace folder says about itself: `manifest.json`, version 2. Version 1 knew no masks and no weight bitmaps."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from xmsim.configs.errors import RecordError
from xmsim.configs.record import read_record, write_record
from xmsim.configs.schema import PositiveFloat, PositiveInt
from xmsim.traces.errors import TraceError
from xmsim.traces.storage import StorageDtype

TRACE_VERSION = 2
MANIFEST_NAME = "manifest.json"

Index = Annotated[int, Field(ge=0, lt=2**31)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
_CHECKED = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, slots=True, config=_CHECKED)
class Bias:
    """What the model adds to the scaled scores; padding is left out besides.

    causal: query i sees keys 0 to i. sliding_window: it sees the last `window` keys of those. alibi: as causal, and query
    head h adds slopes[h] × key position, which differs from slopes[h] × (key − query) by a constant that softmax removes.
    none: every query sees every key.
    """

    kind: Literal["causal", "sliding_window", "alibi", "none"]
    window: PositiveInt | None = None  # keys, sliding_window only
    slopes: tuple[float, ...] | None = None  # one a stored query head, alibi only

    def __post_init__(self) -> None:
        if (self.window is not None) != (self.kind == "sliding_window"):
            raise ValueError("a window belongs to a sliding_window bias, and to no other")
        if (self.slopes is not None) != (self.kind == "alibi"):
            raise ValueError("slopes belong to an alibi bias, and to no other")

    def allowed(self, tokens: int) -> npt.NDArray[np.bool_]:
        """Pairs that the dense model computes among `tokens` valid tokens; bool [queries, keys]."""
        query, key = np.arange(tokens)[:, None], np.arange(tokens)
        if self.kind == "none":
            return np.ones((tokens, tokens), bool)
        if self.window is not None:
            return (key <= query) & (key > query - self.window)
        return key <= query


@dataclass(frozen=True, slots=True, config=_CHECKED)
class ModelFacts:
    """Which model was run."""

    name: str
    family: str  # transformers' model type
    layers: PositiveInt
    heads: PositiveInt
    kv_heads: PositiveInt
    head_dim: PositiveInt
    hidden_size: PositiveInt
    vocabulary: PositiveInt
    config_sha256: Sha256
    weights_sha256: Sha256


@dataclass(frozen=True, slots=True, config=_CHECKED)
class TextFacts:
    """Which text the model read."""

    name: str
    sha256: Sha256


@dataclass(frozen=True, slots=True, config=_CHECKED)
class Derived:
    """A file that was made of what the trace or its model holds, and by what."""

    sha256: Sha256
    file_bytes: Annotated[int, Field(gt=0, lt=2**63)]
    kernel: str  # "native", "cuda" or "numpy"
    isa: str | None  # instruction set of a native kernel
    seconds: Annotated[float, Field(ge=0)]  # that the making took, writing left out


@dataclass(frozen=True, slots=True, config=_CHECKED)
class MaskFacts:
    """The pairs that a method keeps of one layer, all stored heads and windows."""

    method: str
    parameters: dict[str, Any]  # of the method: everything that a mask depends on besides its layer
    scale_sha256: Sha256  # of the layer that it was made of: LayerFacts.scale_sha256
    kept_pairs: Annotated[int, Field(ge=0)]
    made: Derived


@dataclass(frozen=True, slots=True, config=_CHECKED)
class MatrixFacts:
    """One weight matrix whose nonzero elements are stored as bits."""

    name: str  # of the module, in the model
    out_features: PositiveInt
    in_features: PositiveInt
    nonzeros: Annotated[int, Field(ge=0)]


@dataclass(frozen=True, slots=True, config=_CHECKED)
class WeightFacts:
    """The nonzero elements of the weight matrices of one layer."""

    matrices: tuple[MatrixFacts, ...]
    made: Derived


@dataclass(frozen=True, slots=True, config=_CHECKED)
class LayerFacts:
    """One layer that is stored, whole."""

    layer: Index
    sha256: Sha256
    file_bytes: Annotated[int, Field(gt=0, lt=2**63)]
    softmax_scale: PositiveFloat
    bias: Bias
    q_max: Annotated[float, Field(ge=0)]  # largest |q| over all heads of the model, windows and valid tokens, as stored
    k_max: Annotated[float, Field(ge=0)]
    masks: tuple[MaskFacts, ...] = ()
    weights: WeightFacts | None = None

    def scale_sha256(self) -> str:
        """A hash of what the layer gives to its masks: its tensors, and the scales and the bias of its scores."""
        facts = [self.sha256, self.softmax_scale, asdict(self.bias), self.q_max, self.k_max]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def mask(self, parameters: dict[str, Any]) -> MaskFacts | None:
        """The stored mask of a method with these parameters; None where there is none, or it is of other tensors or scales."""
        scale = self.scale_sha256()
        return next((mask for mask in self.masks if mask.parameters == parameters and mask.scale_sha256 == scale), None)


@dataclass(frozen=True, slots=True, config=_CHECKED)
class Manifest:
    """A trace: what was run, what is to be stored (`layer_ids`), and what is stored so far (`layers`)."""

    model: ModelFacts
    dtype: StorageDtype
    valid_tokens: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]  # one a window; the longest is the stored length
    layer_ids: Annotated[tuple[Index, ...], Field(min_length=1)]
    head_ids: Annotated[tuple[Index, ...], Field(min_length=1)]  # query heads of the model, in stored order
    kv_head_ids: Annotated[tuple[Index, ...], Field(min_length=1)]
    text: TextFacts | None = None
    token_ids: tuple[tuple[Index, ...], ...] | None = None  # one tuple a window
    seed: int | None = None  # of synthetic tensors
    layers: tuple[LayerFacts, ...] = ()

    def __post_init__(self) -> None:
        model = self.model
        if model.heads % model.kv_heads:
            raise ValueError(f"{model.heads} query heads do not divide over {model.kv_heads} KV heads")
        for name, ids, limit in (
            ("layer_ids", self.layer_ids, model.layers),
            ("head_ids", self.head_ids, model.heads),
            ("kv_head_ids", self.kv_head_ids, model.kv_heads),
        ):
            if list(ids) != sorted(set(ids)) or ids[-1] >= limit:
                raise ValueError(f"{name} must rise and stay below {limit}")
        group = model.heads // model.kv_heads
        shared = [sum(head // group == kv_head for head in self.head_ids) for kv_head in self.kv_head_ids]
        if len(set(shared)) != 1 or sum(shared) != len(self.head_ids):
            raise ValueError("head_ids must take equally many query heads of each KV head in kv_head_ids")
        if self.token_ids is not None and tuple(len(ids) for ids in self.token_ids) != self.valid_tokens:
            raise ValueError("token_ids must hold as many tokens a window as valid_tokens says")
        stored = [facts.layer for facts in self.layers]
        if stored != sorted(set(stored)) or not set(stored) <= set(self.layer_ids):
            raise ValueError("layers must rise and be among layer_ids")
        if any(facts.bias.slopes is not None and len(facts.bias.slopes) != len(self.head_ids) for facts in self.layers):
            raise ValueError("an alibi bias needs one slope a stored head")

    @property
    def windows(self) -> int:
        """Windows of the text."""
        return len(self.valid_tokens)

    @property
    def tokens(self) -> int:
        """Tokens of a stored window, padding included."""
        return max(self.valid_tokens)

    @property
    def missing(self) -> tuple[int, ...]:
        """Layers that are still to be stored."""
        stored = {facts.layer for facts in self.layers}
        return tuple(layer for layer in self.layer_ids if layer not in stored)

    def shapes(self) -> dict[str, tuple[int, int, int, int]]:
        """Shapes of the tensors in each layer file: [windows, heads, tokens, head_dim]."""
        heads, kv_heads = len(self.head_ids), len(self.kv_head_ids)
        sizes = {"q": heads, "k": kv_heads, "v": kv_heads}
        return {name: (self.windows, size, self.tokens, self.model.head_dim) for name, size in sizes.items()}

    def content_sha256(self) -> str:
        """A hash that identifies the trace: everything it says and, through the files' hashes, everything it stores.

        What was derived from it is left out: masks that are stored besides do not make it another trace.
        """
        content = asdict(self)
        for layer in content["layers"]:
            del layer["masks"], layer["weights"]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def facts(self, layer: int) -> LayerFacts:
        """Of a stored layer."""
        return next(facts for facts in self.layers if facts.layer == layer)

    def with_layer(self, changed: LayerFacts) -> Manifest:
        """The manifest with a layer added, or in the place of the one of its number."""
        others = (facts for facts in self.layers if facts.layer != changed.layer)
        return replace(self, layers=tuple(sorted((*others, changed), key=lambda facts: facts.layer)))

    def mask_shape(self) -> tuple[int, int, int, int]:
        """Shape of the words in each mask file: [windows, heads, queries, ceil(keys / 64)]."""
        return self.windows, len(self.head_ids), self.tokens, -(-self.tokens // 64)


def layer_file_name(layer: int) -> str:
    """Name of a layer's file in the trace folder."""
    return f"layer_{layer:03d}.safetensors"


def mask_file_name(layer: int, parameters: dict[str, Any]) -> str:
    """Name of the file of a layer's mask: the method's parameters tell it from others."""
    digest = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()
    return f"layer_{layer:03d}.mask_{digest[:12]}.safetensors"


def weights_file_name(layer: int) -> str:
    """Name of the file of a layer's weight bitmaps."""
    return f"layer_{layer:03d}.weights.safetensors"


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json`, whole or not at all."""
    write_record(folder / MANIFEST_NAME, "trace", TRACE_VERSION, asdict(manifest))


def read_manifest(folder: Path) -> Manifest:
    """Read `manifest.json`.

    Raises:
        TraceError: no manifest, a later version, or one that was edited into something that cannot be.
    """
    path = folder / MANIFEST_NAME
    if not path.exists():
        raise TraceError(f"{folder}: no trace here, the folder has no {MANIFEST_NAME}; make one with `xmsim extract MODEL --out {folder}`")
    try:
        record = read_record(path, "trace", TRACE_VERSION)
    except RecordError as error:
        raise TraceError(str(error)) from error
    body = {key: value for key, value in record.items() if key not in ("format", "version", "xmsim")}
    try:
        return _ADAPTER.validate_python(body)
    except ValidationError as error:
        raise TraceError(f"{path}: {_fault(error.errors()[0])}; the manifest was edited, extract the trace again") from error


def _fault(fault: Any) -> str:
    message = fault["msg"].removeprefix("Value error, ")
    place = ".".join(str(part) for part in fault["loc"])
    return f"{place}: {message[0].lower()}{message[1:]}" if place else message


_ADAPTER = TypeAdapter(Manifest)
