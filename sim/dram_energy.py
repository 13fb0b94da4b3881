"""Energy of a DRAM: activations, bits and refreshes, each at the price that its kind in `configs/dram` has.

A channel with banks counts these actions. A line does not: it takes those of the same bytes at the same time on its kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Self

from xmsim.configs.costs import Factor, Term
from xmsim.configs.errors import ConfigError
from xmsim.configs.technology_tables import bar, technology_tables
from xmsim.sim.dram_preset import DramPreset, load_preset

PRICES = {"activate": "activate_pj", "read_bits": "read_pj_per_bit", "write_bits": "write_pj_per_bit", "refresh": "refresh_pj"}


@dataclass(frozen=True, slots=True)
class DramWork:
    """What a DRAM of a kind had to do; `activations_per_row` goes with activations that were not counted."""

    preset: DramPreset
    actions: Mapping[str, float]
    activations_per_row: tuple[Factor, ...] = ()

    @classmethod
    def of_line(cls, preset: DramPreset, gigabytes_per_second: float, read_bytes: float, write_bytes: float, milliseconds: float) -> Self:
        """These bytes on as many channels of a kind as give this bandwidth, refreshed for so long."""
        timing, row_bytes = preset.timing, preset.organisation.row_bytes
        channel_bytes_per_second = preset.organisation.burst_bytes * preset.clock_mhz * 1e6 / timing.burst_clocks
        intervals = milliseconds * 1e3 * preset.clock_mhz / timing.refresh_interval_clocks
        actions = {
            "activate": (read_bytes + write_bytes) / row_bytes,
            "read_bits": 8 * read_bytes,
            "write_bits": 8 * write_bytes,
            "refresh": intervals * gigabytes_per_second * 1e9 / channel_bytes_per_second,
        }
        table = technology_tables().dram.activations_per_row
        return cls(preset, actions, (Factor("DRAM as a line, activations of a row", bar(table.ratio), "", table.source),))

    def terms(self) -> list[Term]:
        """The energy, action by action."""
        terms = []
        for action, name in PRICES.items():
            source = self.preset.sources.get(f"energy.{name}", self.preset.sources.get("energy", ""))
            price = Factor(f"{self.preset.standard}, {action}", bar(getattr(self.preset.energy, name)), "pJ", source)
            ratios = self.activations_per_row if action == "activate" else ()
            terms.append(Term("dram", action, self.actions.get(action, 0), (price, *ratios)))
        return terms


@cache
def kind_of_line(name: str) -> DramPreset:
    """The kind that prices a line.

    Raises:
        ConfigError: no such kind.
    """
    try:
        return load_preset(name)
    except ConfigError as error:
        raise ConfigError(f"technology.dram: {error}") from error
