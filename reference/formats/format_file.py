"""Packed weights on disk: any number of named matrices, each in its format, in one safetensors file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from xmsim.configs.errors import RecordError, nearest
from xmsim.reference.formats.column_bitmap import ColumnBitmap
from xmsim.reference.formats.dense_tiles import DenseTiles
from xmsim.reference.formats.macko import Macko
from xmsim.reference.formats.sparse_bitmap import SparseBitmap
from xmsim.reference.formats.tca_bme import TcaBme
from xmsim.reference.formats.tensor_file import read_tensor_file, write_tensor_file
from xmsim.reference.formats.tile_order import TileOrder
from xmsim.reference.formats.two_four import TwoFour

StoredFormat = SparseBitmap | TcaBme | ColumnBitmap | TwoFour | Macko | DenseTiles

FORMATS: dict[str, type[StoredFormat]] = {  # by the names that files and the command line use
    "bitmap": SparseBitmap,
    "tcabme": TcaBme,
    "spdp": ColumnBitmap,
    "2:4": TwoFour,
    "macko": Macko,
    "packed": DenseTiles,  # dense, in the order of our kernels
}
KIND, VERSION = "weights", 1


def write_format(path: Path, matrices: Mapping[str, StoredFormat]) -> None:
    """Write packed matrices under their names, whole or not at all.

    Raises:
        XmsimError: the disk is full or the folder cannot be written.
    """
    tensors, facts = {}, {}
    names = {kind: name for name, kind in FORMATS.items()}
    for matrix_name, matrix in matrices.items():
        facts[matrix_name] = {"format": names[type(matrix)], "as_tensor": matrix.as_tensor, **_shape_and_element(matrix)}
        for field in fields(matrix):
            part = getattr(matrix, field.name)
            if isinstance(part, np.ndarray):
                tensors[f"{matrix_name}/{field.name}"] = part
    write_tensor_file(path, KIND, VERSION, tensors, facts)


def read_format(path: Path) -> dict[str, StoredFormat]:
    """The packed matrices of a file, by their names.

    Raises:
        RecordError: not readable, not such a file, of a later version, or its parts do not fit each other.
    """
    tensors, facts = read_tensor_file(path, KIND, VERSION)
    matrices = {}
    for matrix_name, known in facts.items():
        parts = {key.rpartition("/")[2]: part for key, part in tensors.items() if key.rpartition("/")[0] == matrix_name}
        try:
            matrices[matrix_name] = _built(known, parts)
        except (ValueError, TypeError, LookupError, OverflowError) as error:
            raise RecordError(f"{path}: {matrix_name}: {error}; the file is damaged, convert the model again") from error
    return matrices


def _shape_and_element(matrix: StoredFormat) -> dict[str, Any]:
    if isinstance(matrix, SparseBitmap | DenseTiles):
        order = matrix.order
        return {"shape": [order.out_features, order.in_features], "element": order.element}
    return {"shape": list(matrix.shape), "element": matrix.element}


def _built(known: Mapping[str, Any], parts: Mapping[str, Any]) -> StoredFormat:
    if known["format"] not in FORMATS:
        raise ValueError(f"no format {known['format']}; {nearest(str(known['format']), tuple(FORMATS))}")
    kind: Any = FORMATS[known["format"]]
    rows, columns = (int(size) for size in known["shape"])
    as_tensor = bool(known["as_tensor"])
    matrix: StoredFormat
    if kind in (SparseBitmap, DenseTiles):
        matrix = kind(order=TileOrder(rows, columns, known["element"]), as_tensor=as_tensor, **parts)
    else:
        matrix = kind(shape=(rows, columns), element=known["element"], as_tensor=as_tensor, **parts)
    return matrix
