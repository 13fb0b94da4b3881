"""Packing the linear layers of a model, once, into a folder that is opened like any other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xmsim.configs.errors import nearest
from xmsim.reference.formats import FORMATS, SparseBitmap, StoredFormat, write_format
from xmsim.workloads.models.linear_exchange import linear_layers, restore_layers, share_of_experts
from xmsim.workloads.models.loading import LoadedModel, ModelError, load_model, stored_dtype
from xmsim.workloads.models.packed_folder import LAYERS_FILE, REST_FILE, Matrices
from xmsim.workloads.models.whole_folder import check_free, write_folder
from xmsim.workloads.pruning.pattern import weight_matrix

PACKERS: dict[str, Callable[[Any], StoredFormat]] = {
    **{name: kind.from_dense for name, kind in FORMATS.items()},
    "bitmap_int8": lambda weight: SparseBitmap.from_dense(weight, dtype="int8"),
}


@dataclass(frozen=True, slots=True)
class ConvertedModel:
    """What was written."""

    name: str
    format: str
    dtype: str
    layers: int
    density: float  # share of these layers' weights that is not zero
    packed_bytes: int
    dense_bytes: int  # in the same number format
    experts: float  # share of the model's weights that lies in stacked matrices of experts, which stay as they are

    @property
    def bits_per_weight(self) -> float:
        """Stored bits for each weight, zeros counted."""
        return 8 * self.packed_bytes * _ELEMENT_BYTES[self.dtype] / self.dense_bytes


_ELEMENT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def convert_model(
    model: str, *, out: Path, format: str, dtype: str | None = None, progress: Callable[[int, int], None] = lambda done, layers: None
) -> ConvertedModel:
    """Write a model with the matrices of its linear layers packed; `load_model` opens the folder, and so does every verb.

    Nothing is pruned, and all formats but bitmap_int8 give the weights back bit for bit (-0 as 0). The layer that makes logits,
    embeddings and the rest stay as they are. A folder that is packed already is packed anew.

    Args:
        model: as load_model takes it; only read.
        out: the new folder.
        format: bitmap, bitmap_int8, packed, tcabme, spdp, 2:4 or macko.
        dtype: float32, bfloat16 or float16, of all weights; None: as the model is stored.
        progress: called after each layer.
    Raises:
        XmsimError: no such format, weights that it cannot hold (2:4), the model cannot be loaded, or the folder not be written.
    """
    check_free(out)
    if format not in PACKERS:
        raise ModelError(f"no format {format}; {nearest(format, tuple(PACKERS))}")
    kind = dtype or stored_dtype(model)
    loaded = load_model(model, dtype=kind)
    restore_layers(loaded.model)
    layers = linear_layers(loaded.model)
    matrices: dict[str, StoredFormat] = {}
    kept = weights = 0
    for name, layer in layers.items():
        weight = weight_matrix(layer).contiguous()
        try:
            matrices[name] = PACKERS[format](weight)
        except (TypeError, ValueError) as error:
            raise ModelError(f"{name} cannot be stored as {format}: {error}") from error
        kept, weights = kept + int(weight.count_nonzero()), weights + weight.numel()
        progress(len(matrices), len(layers))
    write_folder(out, lambda folder: _write(folder, loaded, matrices))
    packed = sum(matrix.nbytes for matrix in matrices.values())
    dense = weights * _ELEMENT_BYTES[kind]
    return ConvertedModel(loaded.name, format, kind, len(matrices), kept / weights, packed, dense, share_of_experts(loaded.model))


def _write(folder: Path, loaded: LoadedModel, matrices: Matrices) -> None:
    from safetensors.torch import save_file

    write_format(folder / LAYERS_FILE, matrices)
    packed, seen, rest = {f"{name}.weight" for name in matrices}, set(), {}
    for name, tensor in loaded.model.state_dict().items():
        if name not in packed and tensor.data_ptr() not in seen:  # tied weights are stored once
            seen.add(tensor.data_ptr())
            rest[name] = tensor.contiguous()
    save_file(rest, folder / REST_FILE, metadata={"format": "pt"})
    loaded.model.config.save_pretrained(folder)
    if loaded.model.can_generate():
        loaded.model.generation_config.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
