"""What a DRAM is made of and how long its commands take: the bank model of a channel. `row_walk` says what a request takes in it."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class BankModel:
    """Physical channels with bank groups, banks and rows; times in ticks, so that DRAM clock and machine cycle are whole numbers of them.

    Bytes go round the lanes, `interleave_bytes` to each: first over the channels, then over the bank groups. The rows of one number in all
    lanes hold `span_bytes` that follow each other; the next span is in the next bank. `interleave_bytes` is a multiple of `burst_bytes` and
    divides `row_bytes`.
    """

    ticks_per_cycle: int
    channels: int  # with a data bus and a command bus each
    bank_groups: int  # of a channel
    banks_per_group: int
    row_bytes: int  # of a row of one bank, over all devices of the channel
    burst_bytes: int  # least that a channel transfers
    interleave_bytes: int
    burst_ticks: int  # tCCD_S: a burst on the bus
    same_group_burst_ticks: int  # tCCD_L: from burst to burst of one bank group
    activate_to_column_ticks: int  # tRCD
    read_latency_ticks: int  # CL, RL
    write_latency_ticks: int  # CWL, WL
    row_open_ticks: int  # tRAS
    precharge_ticks: int  # tRP
    read_to_precharge_ticks: int  # tRTP
    write_recovery_ticks: int  # tWR, from the last data
    activate_gap_ticks: int  # tRRD_S
    four_activates_ticks: int  # tFAW
    write_to_read_ticks: int  # from the last data written to the first data read: tWTR_L + CL
    read_to_write_ticks: int  # from the last data read to the first data written
    refresh_interval_ticks: int  # tREFI
    refresh_ticks: int  # tRFC of all banks

    @property
    def lanes(self) -> int:
        return self.channels * self.bank_groups

    @property
    def span_bytes(self) -> int:
        return self.lanes * self.row_bytes

    @property
    def bytes_per_cycle(self) -> Fraction:
        """The peak of all buses."""
        return Fraction(self.channels * self.burst_bytes * self.ticks_per_cycle, self.burst_ticks)

    def bursts(self, address: npt.NDArray[np.int64], size_bytes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Bursts of each request: whole ones, also where it begins or ends in the middle of one."""
        return -(-(address + size_bytes) // self.burst_bytes) - address // self.burst_bytes

    def refreshes(self, first_cycle: int, end_cycle: int) -> int:
        """Refreshes of all channels that fall due after `first_cycle`, up to `end_cycle`."""
        due = [cycle * self.ticks_per_cycle // self.refresh_interval_ticks for cycle in (first_cycle, end_cycle)]
        return self.channels * (due[1] - due[0])

    def longest_ticks(self, address: npt.NDArray[np.int64], size_bytes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Ticks that each request takes at most after all earlier ones are over, whatever state they leave the banks in.

        In every span a refresh comes first, the bus turns, and each row is one after another precharged, activated and read at the rate
        of one bank group.
        """
        bursts = self.bursts(address, size_bytes)
        first, end = address // self.burst_bytes * self.burst_bytes, -(-(address + size_bytes) // self.burst_bytes) * self.burst_bytes
        spans = (end - 1) // self.span_bytes - first // self.span_bytes + 1
        chunks = (end - 1) // self.interleave_bytes - first // self.interleave_bytes + 1
        rows = np.minimum(-(-chunks // self.channels), self.bank_groups)
        channel_bursts = np.minimum(bursts, -(-chunks // self.channels) * (self.interleave_bytes // self.burst_bytes))
        settled = max(self.row_open_ticks, self.write_recovery_ticks, self.read_to_precharge_ticks) + self.precharge_ticks
        activation = max(self.activate_gap_ticks, self.four_activates_ticks) + self.activate_to_column_ticks
        latency = max(self.read_latency_ticks, self.write_latency_ticks) + max(self.write_to_read_ticks, self.read_to_write_ticks)
        data = channel_bursts * max(self.burst_ticks, self.same_group_burst_ticks)
        return spans * (settled + self.refresh_ticks + rows * (settled + activation + latency + self.same_group_burst_ticks)) + data
