"""A model folder whose linear layers are stored packed. Plain transformers finds no weights in it, rather than half of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from xmsim.configs.errors import RecordError
from xmsim.configs.files import check_ordinary
from xmsim.reference.formats import FORMATS, DenseTiles, Macko, SparseBitmap, StoredFormat, read_format
from xmsim.workloads.models.linear_exchange import kernel_kinds, plain_layer, put_layer
from xmsim.workloads.pruning.pattern import weight_matrix

LAYERS_FILE = "linear_layers.safetensors"  # xmsim.weights: the matrices of the linear layers by their modules' names
REST_FILE = "other_weights.safetensors"  # everything else, as transformers calls it

Matrices = Mapping[str, StoredFormat]


def is_packed_folder(folder: str) -> bool:
    """Whether a model's folder is one of these."""
    return (Path(folder) / LAYERS_FILE).is_file()


def read_packed_folder(folder: str) -> tuple[dict[str, Any], dict[str, StoredFormat]]:
    """All tensors but the packed matrices, and these.

    Raises:
        RecordError: either file is damaged, or of a later version.
    """
    from safetensors.torch import load_file

    path = Path(folder) / REST_FILE
    try:
        check_ordinary(path)
        rest = load_file(path)
    except (OSError, SafetensorError, ValueError, TypeError, MemoryError) as error:
        raise RecordError(f"{path}: cannot be read ({error}); convert the model again") from error
    return rest, read_format(Path(folder) / LAYERS_FILE)


def put_packed_layers(model: Any, matrices: Matrices, dtype: Any) -> None:
    """Put a layer for each matrix in the place of the model's own, whose bias it takes over.

    On the CPU it is that of the format; only macko, which no kernel of ours reads there, is unpacked and goes to the bitmap's. Elsewhere
    all are unpacked into plain layers.

    Args:
        dtype: torch dtype; matrices that are stored in another are unpacked, rounded and packed again, int8 stays.
    Raises:
        AttributeError: the model has no such layer.
        ValueError: the layer has another shape.
    """
    for name, matrix in matrices.items():
        own = model.get_submodule(name)
        bias, shape = own.bias, tuple(weight_matrix(own).shape)
        layer = _dense_layer(matrix, bias, dtype) if model.device.type != "cpu" else _kernel_layer(matrix, bias, dtype)
        if (layer.out_features, layer.in_features) != shape:
            raise ValueError(f"{name} is stored as {layer.out_features} × {layer.in_features}, and the configuration asks for {shape}")
        put_layer(model, name, layer.to(model.device))


def _dense_layer(matrix: StoredFormat, bias: Any, dtype: Any) -> Any:
    return plain_layer(_tensor(matrix).to(dtype), bias)


def _kernel_layer(matrix: StoredFormat, bias: Any, dtype: Any) -> Any:
    kinds = kernel_kinds()
    element = matrix.order.element if isinstance(matrix, SparseBitmap | DenseTiles) else matrix.element
    if isinstance(matrix, SparseBitmap) and element == "int8":
        return kinds["bitmap_int8"].from_packed(matrix, bias)
    stored_as = next(name for name, form in FORMATS.items() if type(matrix) is form)
    kind = kinds[stored_as if stored_as in kinds else "bitmap"]
    if element != str(dtype).removeprefix("torch.") or isinstance(matrix, Macko):
        return kind.from_linear(_dense_layer(matrix, bias, dtype))
    return kind.from_packed(matrix, bias)


def _tensor(matrix: StoredFormat) -> Any:
    import torch

    dense = matrix.to_dense()
    return dense if isinstance(dense, torch.Tensor) else torch.from_numpy(dense)
