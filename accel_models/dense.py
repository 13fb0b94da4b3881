"""A dense output-stationary systolic array with a softmax unit."""

from __future__ import annotations

from typing import ClassVar

from xmsim.accel_models.accelerator import MachineConfig
from xmsim.accel_models.systolic import output_stationary_cycles, output_stationary_macs, scalesim_cycles
from xmsim.accel_models.systolic_attention import SystolicAttention, SystolicConfig

__all__ = ["Dense", "DenseConfig", "scalesim_cycles"]


class DenseConfig(SystolicConfig):
    """Keys of an output-stationary machine's YAML."""


class Dense(SystolicAttention):
    """Each unit holds one score, later one output; a tile has as many queries as the array has rows."""

    Config: ClassVar[type[MachineConfig]] = DenseConfig
    tile_key = "pe_array.rows"

    @property
    def tile_queries(self) -> int:
        return self.config.pe_array.rows

    @property
    def chain(self) -> None:
        """A unit adds up all products of its sum."""

    def product_cycles(self, rows: int, columns: int, inner: int) -> int:
        return output_stationary_cycles(rows, columns, inner, self.config.pe_array)

    def product_macs(self, rows: int, columns: int, inner: int) -> int:
        return output_stationary_macs(rows, columns, inner, self.config.pe_array)
