"""A systolic array register by register, in two dataflows: the products it computes, and the edges they take.

Nothing here counts with a formula: operands carry a valid bit, and a fold ends when the last unit has all its products. Operands beyond
a matrix are valid zeros. Source: textbook arrays, whose edges are those of SCALE-Sim's demand matrices.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from xmsim.accel_models.systolic import PeArrayConfig
from xmsim.sim.schedule import Int64Array


class ArrayRun(NamedTuple):
    """A product, and the edges until its last sum was complete."""

    product: Int64Array  # [rows, columns]
    edges: int


def output_stationary(left: Int64Array, top: Int64Array, config: PeArrayConfig) -> ArrayRun:
    """[rows, inner] × [inner, columns] with the sums in the units, fold after fold."""
    left_folds, top_folds = _padded(left, config.rows, 1), _padded(top, 1, config.columns)
    product = np.zeros((len(left_folds), top_folds.shape[1]), np.int64)
    edges = _output_stationary_folds(left_folds, top_folds, config.rows, config.columns, product)
    return ArrayRun(product[: len(left), : top.shape[1]], edges)


def weight_stationary(inputs: Int64Array, weights: Int64Array, config: PeArrayConfig) -> ArrayRun:
    """[rows, inner] × [inner, columns] with the second factor in the units, fold after fold, sums added up outside."""
    inputs_folds, weights_folds = _padded(inputs, 1, config.rows), _padded(weights, config.rows, config.columns)
    product = np.zeros((len(inputs), weights_folds.shape[1]), np.int64)
    edges = _weight_stationary_folds(inputs_folds, weights_folds, config.rows, config.columns, product)
    return ArrayRun(product[:, : weights.shape[1]], edges)


def _padded(matrix: Int64Array, rows: int, columns: int) -> Int64Array:
    """The matrix with zeros up to multiples of rows and columns."""
    return np.pad(matrix, ((0, -matrix.shape[0] % rows), (0, -matrix.shape[1] % columns)))


@njit(cache=True)
def _output_stationary_folds(left: Int64Array, top: Int64Array, rows: int, columns: int, product: Int64Array) -> int:
    edges = 0
    for row in range(0, len(left), rows):
        for column in range(0, top.shape[1], columns):
            sums = product[row : row + rows, column : column + columns]
            edges += _output_stationary_fold(left[row : row + rows], top[:, column : column + columns], sums)
    return edges


@njit(cache=True)
def _output_stationary_fold(left: Int64Array, top: Int64Array, sums: Int64Array) -> int:
    """Left operands move a column an edge, top operands a row; a unit that holds both adds their product. Returns the edges."""
    rows, columns = sums.shape
    inner = len(top)
    left_word, left_valid = np.zeros((rows, columns), np.int64), np.zeros((rows, columns), np.bool_)
    top_word, top_valid = np.zeros((rows, columns), np.int64), np.zeros((rows, columns), np.bool_)
    products = np.zeros((rows, columns), np.int64)
    edge = 0
    while products.min() < inner:
        for row in range(rows - 1, -1, -1):  # from the last on, because each unit takes the old content of its neighbours
            for column in range(columns - 1, -1, -1):
                if column:
                    left_word[row, column] = left_word[row, column - 1]
                    left_valid[row, column] = left_valid[row, column - 1]
                else:
                    left_valid[row, 0] = 0 <= edge - row < inner  # each row is fed an edge after the one above
                    left_word[row, 0] = left[row, edge - row] if left_valid[row, 0] else 0
                if row:
                    top_word[row, column] = top_word[row - 1, column]
                    top_valid[row, column] = top_valid[row - 1, column]
                else:
                    top_valid[0, column] = 0 <= edge - column < inner
                    top_word[0, column] = top[edge - column, column] if top_valid[0, column] else 0
                if left_valid[row, column] and top_valid[row, column]:
                    sums[row, column] += left_word[row, column] * top_word[row, column]
                    products[row, column] += 1
        edge += 1
    return edge


@njit(cache=True)
def _weight_stationary_folds(inputs: Int64Array, weights: Int64Array, rows: int, columns: int, product: Int64Array) -> int:
    edges = 0
    for column in range(0, weights.shape[1], columns):
        for row in range(0, len(weights), rows):
            fold = weights[row : row + rows, column : column + columns]
            edges += _weight_stationary_fold(inputs[:, row : row + rows], fold, product[:, column : column + columns])
    return edges


@njit(cache=True)
def _weight_stationary_fold(inputs: Int64Array, weights: Int64Array, product: Int64Array) -> int:
    """Weights are pushed in from above, the last row first; then inputs move a column an edge and sums a row. Returns the edges."""
    rows, columns = weights.shape
    held, is_held = np.zeros((rows, columns), np.int64), np.zeros(rows, np.bool_)
    edge = 0
    while not is_held[rows - 1]:
        for row in range(rows - 1, 0, -1):
            held[row], is_held[row] = held[row - 1], is_held[row - 1]
        held[0], is_held[0] = weights[rows - 1 - edge], True
        edge += 1
    input_word, input_valid = np.zeros((rows, columns), np.int64), np.zeros((rows, columns), np.bool_)
    partial_sum = np.zeros((rows, columns), np.int64)
    complete = np.zeros(columns, np.int64)  # sums that have left each column
    step = 0
    while complete.min() < len(inputs):
        for row in range(rows - 1, -1, -1):
            for column in range(columns - 1, -1, -1):
                if column:
                    input_word[row, column] = input_word[row, column - 1]
                    input_valid[row, column] = input_valid[row, column - 1]
                else:
                    input_valid[row, 0] = 0 <= step - row < len(inputs)
                    input_word[row, 0] = inputs[step - row, row] if input_valid[row, 0] else 0
                from_above = partial_sum[row - 1, column] if row else 0
                partial_sum[row, column] = from_above + held[row, column] * input_word[row, column]
        for column in range(columns):
            if input_valid[rows - 1, column]:
                product[complete[column], column] += partial_sum[rows - 1, column]
                complete[column] += 1
        step += 1
    return edge + step
