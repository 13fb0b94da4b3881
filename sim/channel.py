"""When the bytes of a request have crossed a channel, exact for any bandwidth fraction and any clock of a DRAM."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from xmsim.sim.row_walk import closed_banks, walk_rows
from xmsim.sim.schedule import Channel, Int64Array

MOST_TICKS = 10**9  # of a cycle, so that 64-bit times hold billions of cycles


def rounded_rate(rate: Fraction) -> Fraction:
    """The rate itself or, where its terms are beyond `MOST_TICKS`, a fraction with lesser ones that differs by less than 1e-8 of it.

    A clock of 666.6666666666666 MHz is meant as two thirds of a GHz; time would be kept in 3·10¹⁵ parts of a cycle.
    """
    if max(rate.numerator, rate.denominator) <= MOST_TICKS:
        return rate
    return rate.limit_denominator(max(1, MOST_TICKS // max(Fraction(1), rate)))


class ChannelClock:
    """The line of one channel, or its banks; time is kept in ticks so that no request is rounded on its own."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._banks = closed_banks((channel,)) if channel.banks else None
        self._ticks_per_cycle = channel.ticks_per_cycle
        self._free = 0

    @property
    def free_cycle(self) -> Fraction:
        """When the last byte of the requests so far has crossed."""
        return Fraction(self._free, self._ticks_per_cycle)

    def serve(self, cycle: int, address: int, size_bytes: int, write: bool) -> tuple[int, Int64Array]:
        """The cycle in which a request placed in `cycle` has its data (a read) or is taken over (a write).

        With it the rows that were hit, missed, and in conflict; int64 [3], 0 without banks.
        """
        rows = np.zeros(3, np.int64)
        arrival = cycle * self._ticks_per_cycle
        if self._banks:
            over = int(walk_rows(self._banks, 0, arrival, address, size_bytes, int(write), rows))
        else:
            over = max(arrival, self._free) + size_bytes * self._channel.bytes_per_cycle.denominator
        self._free = max(self._free, over)
        over_cycle = -(-over // self._ticks_per_cycle)
        return over_cycle if write else over_cycle + self._channel.latency_cycles, rows
