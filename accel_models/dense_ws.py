"""A dense weight-stationary systolic array with a softmax unit: keys, later values, stay in the units while queries stream past."""

from __future__ import annotations

from typing import ClassVar

from xmsim.accel_models.accelerator import MachineConfig
from xmsim.accel_models.systolic import scalesim_weight_stationary_cycles, weight_stationary_cycles, weight_stationary_macs
from xmsim.accel_models.systolic_attention import SystolicAttention, SystolicConfig
from xmsim.configs.schema import PositiveInt

__all__ = ["DenseWeightStationary", "DenseWeightStationaryConfig", "scalesim_weight_stationary_cycles"]


class DenseWeightStationaryConfig(SystolicConfig):
    """Keys of a weight-stationary machine's YAML."""

    query_tile: PositiveInt  # queries that stream past a fold of keys or values; the more, the less its load and skew weigh


class DenseWeightStationary(SystolicAttention):
    """A fold is `rows` channels of `columns` keys, later `rows` keys of `columns` channels; a column adds up its products."""

    Config: ClassVar[type[MachineConfig]] = DenseWeightStationaryConfig
    config: DenseWeightStationaryConfig
    tile_key = "query_tile"

    @property
    def tile_queries(self) -> int:
        return self.config.query_tile

    @property
    def chain(self) -> int:
        return self.config.pe_array.rows

    def product_cycles(self, rows: int, columns: int, inner: int) -> int:
        return weight_stationary_cycles(rows, columns, inner, self.config.pe_array)

    def product_macs(self, rows: int, columns: int, inner: int) -> int:
        return weight_stationary_macs(rows, columns, inner, self.config.pe_array)
