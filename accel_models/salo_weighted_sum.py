"""SALO's weighted-sum module: merges the passes of a row, as each knows only its own part of the softmax.

One module a row, all of them on one control signal. After a pass its row sum is aligned with the running sum (one cycle), both
become weights (one cycle), and the outputs, an element a cycle, are mixed into a buffer.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from xmsim.accel_models.salo_numbers import Words, saturate
from xmsim.sim.schedule import Int64Array

CLEAR, ALIGN, WEIGH, MIX = range(4)  # control
_SUM, _EXPONENT, _TOTAL, _TOTAL_EXPONENT, _OLD_WEIGHT, _NEW_WEIGHT, _PLACE = range(7)


class MergeRegisters(NamedTuple):
    """State of one module."""

    words: Int64Array  # [7]: running sum and exponent, those that include the new pass, two weights, the buffer place
    buffer: Int64Array  # [head_dim], merged outputs as accumulator words


def merge_cycles(head_dim: int) -> int:
    """Cycles of one merge; all but the first two coincide with the pass's output stream.

    Source: released RTL (WeightedSumModule): align, weigh, and an element a cycle.
    """
    return 2 + head_dim


def merge_registers(head_dim: int, format_words: Words) -> MergeRegisters:
    """A cleared module."""
    registers = MergeRegisters(np.zeros(7, np.int64), np.zeros(head_dim, np.int64))
    merge_step(registers, CLEAR, 0, 0, 0, format_words)
    return registers


@njit(cache=True)
def merge_step(registers: MergeRegisters, control: int, word: int, exponent: int, share: int, format_words: Words) -> int:
    """One clock edge; what the output port shows in that cycle, 0 unless mixing: the entry before it is mixed.

    Args:
        word: ALIGN: row sum of the new pass. MIX: the next element of its output.
        exponent: ALIGN: exponent of row sum and output.
        share: ALIGN: the word whose quotient by the total weighs the new output: the row sum where outputs are normalised (v1),
            else one (v2).

    Source: released RTL (WeightedSumModule). There weights keep no fraction bits and a cleared exponent is 0; here they have
    `weight_point`, and it is the lowest. The running sum is as wide as it must be.
    """
    state, buffer = registers.words, registers.buffer
    if control == CLEAR:
        state[:] = 0
        state[_EXPONENT] = format_words.lowest_exponent
        buffer[:] = 0
    elif control == ALIGN:
        common = max(exponent, state[_EXPONENT])
        old_shift, new_shift = common - state[_EXPONENT], common - exponent
        state[_TOTAL] = (state[_SUM] >> old_shift) + (word >> new_shift)
        state[_TOTAL_EXPONENT] = common
        state[_OLD_WEIGHT] = (state[_SUM] << format_words.weight_point) >> old_shift
        state[_NEW_WEIGHT] = (share << format_words.weight_point) >> new_shift
    elif control == WEIGH:
        total = max(state[_TOTAL], 1)  # a row that kept nothing has nothing to weigh
        state[_OLD_WEIGHT] //= total
        state[_NEW_WEIGHT] //= total
        state[_SUM] = state[_TOTAL]
        state[_EXPONENT] = state[_TOTAL_EXPONENT]
    else:
        place = state[_PLACE]
        shown = buffer[place]
        mixed = (state[_OLD_WEIGHT] * shown + state[_NEW_WEIGHT] * word) >> format_words.weight_point
        buffer[place] = saturate(mixed, format_words.accumulator_limit)
        state[_PLACE] = (place + 1) % len(buffer)
        return shown
    return 0
