"""A systolic array: its dimensions, and the cycles of a matrix product in each of two dataflows.

A product is [rows, inner] × [inner, columns]. What does not fit the array is cut into folds, one after the other; fill and drain
are paid for in each, and a fold that fills the array in part takes as long as a full one.
"""

from __future__ import annotations

from xmsim.configs.schema import Config, PositiveInt


class PeArrayConfig(Config):
    """A grid of multiply-accumulate units."""

    rows: PositiveInt
    columns: PositiveInt


def output_stationary_cycles(rows: int, columns: int, inner: int, config: PeArrayConfig) -> int:
    """Cycles of a product whose sums stay in the units, while both factors stream past from two sides.

    Product k of unit (r, c) happens at edge k + r + c + 1, so that a fold takes K + R + C − 2; there are ⌈M/R⌉·⌈N/C⌉.
    Source: SCALE-Sim, systolic_compute_os; `systolic_array.output_stationary` counts the same, register by register.
    """
    folds = -(-rows // config.rows) * -(-columns // config.columns)
    return folds * (inner + config.rows + config.columns - 2)


def weight_stationary_cycles(rows: int, columns: int, inner: int, config: PeArrayConfig) -> int:
    """Cycles of a product whose second factor stays in the units, while rows of the first stream past and sums run down.

    A fold loads its R rows of weights, then streams all M rows: R + (M + R + C − 2); there are ⌈K/R⌉·⌈N/C⌉, whose sums are added up
    outside of the array. Source: SCALE-Sim, systolic_compute_ws; `systolic_array.weight_stationary` counts the same.
    """
    folds = -(-inner // config.rows) * -(-columns // config.columns)
    return folds * (config.rows + rows + config.rows + config.columns - 2)


def output_stationary_macs(rows: int, columns: int, inner: int, config: PeArrayConfig) -> int:
    """Multiply-accumulates of all units while factors stream in, idle units included: K of each in each of ⌈M/R⌉·⌈N/C⌉ folds."""
    return -(-rows // config.rows) * -(-columns // config.columns) * config.rows * config.columns * inner


def weight_stationary_macs(rows: int, columns: int, inner: int, config: PeArrayConfig) -> int:
    """The same where the second factor stays: M of each in each of ⌈K/R⌉·⌈N/C⌉ folds."""
    return -(-inner // config.rows) * -(-columns // config.columns) * config.rows * config.columns * rows


def scalesim_cycles(rows: int, columns: int, inner: int, config: PeArrayConfig) -> int:
    """What SCALE-Sim (3.0.0, run mode CALC, dataflow os) prints as the compute cycles of a layer: one too few.

    Source: runs of it; its issue 125 has the one.
    """
    return output_stationary_cycles(rows, columns, inner, config) - 1


def scalesim_weight_stationary_cycles(rows: int, columns: int, inner: int, config: PeArrayConfig) -> int:
    """What SCALE-Sim prints with dataflow ws, stall cycles left out: one too few, as in `scalesim_cycles`."""
    return weight_stationary_cycles(rows, columns, inner, config) - 1
