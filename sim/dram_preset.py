"""A DRAM of a kind, as `configs/dram` describes it, and the bank model that a machine of some clock sees of it."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Self

from pydantic import model_validator

from xmsim.configs.schema import Config, PositiveInt, read_config
from xmsim.configs.shipped import find_config, shipped_names
from xmsim.configs.technology_tables import Limits
from xmsim.sim.channel import rounded_rate
from xmsim.sim.dram_banks import BankModel

FOLDER = "dram"


class DramOrganisation(Config):
    """What a physical channel is made of, and how addresses are spread."""

    bank_groups: PositiveInt
    banks_per_group: PositiveInt
    row_bytes: PositiveInt  # of a bank, over all devices of the channel
    burst_bytes: PositiveInt
    interleave_bytes: PositiveInt  # bytes that stay in one bank group of one channel

    @property
    def banks(self) -> int:
        """Of a channel."""
        return self.bank_groups * self.banks_per_group

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        if self.interleave_bytes % self.burst_bytes or self.row_bytes % self.interleave_bytes:
            raise ValueError("interleave_bytes must be a multiple of burst_bytes and divide row_bytes; take one of the two")
        return self


class DramTiming(Config):
    """In clocks of the command bus; the names of the standards stand in brackets."""

    burst_clocks: PositiveInt  # (tCCD_S)
    same_group_burst_clocks: PositiveInt  # (tCCD_L)
    activate_to_column_clocks: PositiveInt  # (tRCD)
    read_latency_clocks: PositiveInt  # (CL, RL)
    write_latency_clocks: PositiveInt  # (CWL, WL)
    row_open_clocks: PositiveInt  # (tRAS)
    precharge_clocks: PositiveInt  # (tRP)
    read_to_precharge_clocks: PositiveInt  # (tRTP)
    write_recovery_clocks: PositiveInt  # (tWR)
    activate_gap_clocks: PositiveInt  # (tRRD_S)
    four_activates_clocks: PositiveInt  # (tFAW)
    write_to_read_clocks: PositiveInt  # (tWTR_L), from the last data to the read command
    read_to_write_clocks: PositiveInt  # on the data bus, from the last data read to the first written
    refresh_interval_clocks: PositiveInt  # (tREFI)
    refresh_clocks: PositiveInt  # (tRFC, all banks)


class DramEnergy(Config):
    """What an action costs, low, nominal and high; the actions of a channel with banks count them."""

    activate_pj: Limits  # of a row, with its precharge
    read_pj_per_bit: Limits
    write_pj_per_bit: Limits
    refresh_pj: Limits  # of all banks of a channel


class DramPreset(Config):
    """A kind of DRAM."""

    standard: str
    clock_mhz: PositiveInt  # of the command bus
    channels: PositiveInt  # of the module, package or stack as it is sold
    organisation: DramOrganisation
    timing: DramTiming
    energy: DramEnergy
    sources: dict[str, str]


def shipped_kinds() -> tuple[str, ...]:
    """Names of the kinds of DRAM that come with xmsim."""
    return shipped_names(FOLDER)


def load_preset(kind: str | Path) -> DramPreset:
    """The kind of DRAM that a file describes; a plain name is looked up among the shipped ones.

    Raises:
        ConfigError: no such kind, or its file is wrong.
    """
    return read_config(find_config(FOLDER, kind, "kind of DRAM"), DramPreset)


def bank_model(preset: DramPreset, channels: int, machine_mhz: Fraction) -> BankModel:
    """`channels` of this kind, as a machine of that clock sees them; a tick is the longest time of which both clocks are multiples."""
    times = {name.removesuffix("_clocks"): clocks for name, clocks in preset.timing.model_dump().items()}
    ratio = rounded_rate(Fraction(preset.clock_mhz) / machine_mhz)  # DRAM clocks in a cycle
    ticks_per_cycle, ticks_per_clock = ratio.numerator, ratio.denominator
    times["write_to_read"] += times["read_latency"]  # data to data
    ticks = {f"{name}_ticks": clocks * ticks_per_clock for name, clocks in times.items()}
    return BankModel(ticks_per_cycle=ticks_per_cycle, channels=channels, **preset.organisation.model_dump(), **ticks)
