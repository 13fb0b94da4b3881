"""When the bytes of a request have crossed a channel, exact for any bandwidth fraction."""

from __future__ import annotations

from fractions import Fraction

from xmsim.sim.schedule import Channel


class ChannelClock:
    """The line of one channel; time is kept in 1/numerator cycles so that no request is rounded on its own."""

    def __init__(self, channel: Channel) -> None:
        self._numerator = channel.bytes_per_cycle.numerator
        self._denominator = channel.bytes_per_cycle.denominator
        self._latency_cycles = channel.latency_cycles
        self._free = 0

    @property
    def free_cycle(self) -> Fraction:
        """When the last byte of the requests so far has crossed."""
        return Fraction(self._free, self._numerator)

    def serve(self, cycle: int, size_bytes: int, write: bool) -> int:
        """The cycle in which a request placed in `cycle` has its data (a read) or is taken over (a write)."""
        self._free = max(cycle * self._numerator, self._free) + size_bytes * self._denominator
        over = -(-self._free // self._numerator)
        return over if write else over + self._latency_cycles
