"""DynaX's banked SRAM: one word a cycle over all banks, read data a cycle later.

Source: released RTL of DynaX, hardware/execute_unit/sram. The released output shows the bank that is addressed while the data leave; the
repaired one that which was addressed when they were asked for.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from xmsim.sim.schedule import Int64Array

UNDEFINED = -1  # data of a bank that was written in the cycle before


class SramTrace(NamedTuple):
    """Data on the output in each cycle, or UNDEFINED; int64 [cycles]."""

    released: Int64Array
    repaired: Int64Array


def trace_sram(address: Int64Array, data: Int64Array, write: Int64Array, *, banks: int, words: int) -> SramTrace:
    """Write `data`, or read, in each cycle; all int64 [cycles]. The bank is address // words."""
    memory = np.zeros((banks, words), np.int64)
    latched = np.full(banks, UNDEFINED)
    asked = 0
    trace = SramTrace(np.zeros_like(address), np.zeros_like(address))
    for cycle, (bank, word) in enumerate(zip(address // words, address % words, strict=True)):
        trace.released[cycle] = latched[bank]
        trace.repaired[cycle] = latched[asked]
        latched = memory[:, word].copy()
        if write[cycle]:
            memory[bank, word] = data[cycle]
            latched[bank] = UNDEFINED
        asked = bank
    return trace
