"""When the bytes of a request have crossed a channel, exact for any bandwidth fraction and any clock of a DRAM."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from xmsim.sim.row_walk import closed_banks, walk_rows
from xmsim.sim.schedule import Channel, Int64Array


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
