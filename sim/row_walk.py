"""What requests take in a DRAM with banks: the channel's function of docs/semantics.md, which walks row by row and not burst by burst."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from xmsim.sim.dram_banks import BankModel
from xmsim.sim.schedule import Channel, Int64Array

HIT, MISS, CONFLICT = range(3)  # the row was open; the bank was closed; another row of the bank was open

_LONG_AGO = -(2**60)  # of commands that were never given
_CLOSED = -1
_MODEL_FIELDS = tuple(one.name for one in fields(BankModel))
_NO_MODEL = BankModel(*(0 for _ in _MODEL_FIELDS))

# columns of the state
_BUS_FREE, _WRITES, _NEXT_REFRESH, _OLDEST, _ACTIVATED = range(5)  # _OLDEST: which of the four from _ACTIVATED on is the oldest
_OPEN_ROW, _READY, _COLUMN_READY = range(3)  # _READY: for a precharge of an open bank, for an activate of a closed one

_Model = np.dtype([*((name, np.int64) for name in _MODEL_FIELDS), ("first_channel", np.int64), ("first_lane", np.int64)])


class DramState(NamedTuple):
    """Of all channels of a Schedule, one after the other; a named tuple because numba can take that apart. Times are in ticks."""

    models: npt.NDArray[Any]  # [Schedule's channels] of _Model; with 0 channels where there is no bank model
    channels: Int64Array  # [physical channels, 8]: bus free, its last direction, next refresh, and the last four activates
    lanes: Int64Array  # [lanes], when the bank group takes its next burst
    banks: Int64Array  # [lanes, most banks of a group, 3]: open row, ready, ready for a column command


def closed_banks(channels: Sequence[Channel]) -> DramState:
    """The state before the first request: every bank is closed."""
    models = np.zeros(len(channels), _Model)
    first_channel = first_lane = 0
    for number, channel in enumerate(channels):
        model = channel.banks or _NO_MODEL
        models[number] = (*(getattr(model, name) for name in _MODEL_FIELDS), first_channel, first_lane)
        first_channel, first_lane = first_channel + model.channels, first_lane + model.lanes
    state = DramState(
        models,
        np.zeros((first_channel, _ACTIVATED + 4), np.int64),
        np.zeros(first_lane, np.int64),
        np.zeros((first_lane, models["banks_per_group"].max(initial=0), 3), np.int64),
    )
    state.channels[:, _WRITES] = -1
    state.channels[:, _ACTIVATED:] = _LONG_AGO
    state.channels[:, _NEXT_REFRESH] = np.repeat(models["refresh_interval_ticks"], models["channels"])
    state.banks[:, :, _OPEN_ROW] = _CLOSED
    return state


@njit(cache=True)
def walk_rows(state: DramState, number: int, arrival: int, address: int, size_bytes: int, write: int, rows: Int64Array) -> int:
    """The tick in which the last data of a request has crossed the bus of its channel; the banks are left as it leaves them.

    `number` is that of the Schedule's channel, `arrival` the tick in which the request is placed. `rows` [3] counts hits, misses and
    conflicts. Requests of one bus transfer their data in the order in which they are placed; rows are opened meanwhile.
    """
    model = state.models[number]
    lanes = model.channels * model.bank_groups
    span_bytes = lanes * model.row_bytes
    begin = address // model.burst_bytes * model.burst_bytes
    end = -(-(address + size_bytes) // model.burst_bytes) * model.burst_bytes
    over = arrival
    while begin < end:
        span = begin // span_bytes
        stop = min(end, (span + 1) * span_bytes)
        first_chunk, last_chunk = begin // model.interleave_bytes, (stop - 1) // model.interleave_bytes
        touched = min(lanes, last_chunk - first_chunk + 1)
        for step in range(min(model.channels, touched)):
            first_lane = (first_chunk + step) % lanes
            groups = (touched - step - 1) // model.channels + 1
            _refresh(state, model, first_lane % model.channels, arrival)
            over = max(over, _walk_channel(state, model, first_lane, groups, arrival, begin, stop, span, write, rows))
        begin = stop
    return over


@njit(cache=True)
def _walk_channel(
    state: DramState,
    model: Any,
    first_lane: int,
    groups: int,
    arrival: int,
    begin: int,
    stop: int,
    span: int,
    write: int,
    rows: Int64Array,
) -> int:
    """The part of a span that one channel holds: one row in each of so many bank groups, from that of its first lane on."""
    lanes = model.channels * model.bank_groups
    clock = state.channels[model.first_channel + first_lane % model.channels]
    latency = model.write_latency_ticks if write else model.read_latency_ticks
    bus = clock[_BUS_FREE]
    if clock[_WRITES] == 1 - write:
        bus += model.read_to_write_ticks if write else model.write_to_read_ticks
    clock[_WRITES] = write
    bank_number, row = span % model.banks_per_group, span // model.banks_per_group
    chunk_bytes = model.interleave_bytes
    stripe_bytes = lanes * chunk_bytes  # after which the lanes come round
    first_stripe, last_stripe = begin // stripe_bytes, stop // stripe_bytes
    begin_rest, stop_rest = begin - first_stripe * stripe_bytes, stop - last_stripe * stripe_bytes
    begun = -1
    over = arrival
    for turn in range(groups):
        lane = (first_lane + turn * model.channels) % lanes
        lane_at = lane * chunk_bytes  # in a stripe
        before_begin, before_stop = min(max(begin_rest - lane_at, 0), chunk_bytes), min(max(stop_rest - lane_at, 0), chunk_bytes)
        lane_bytes = (last_stripe - first_stripe) * chunk_bytes + before_stop - before_begin
        bursts = lane_bytes // model.burst_bytes
        lane += model.first_lane
        bank = state.banks[lane, bank_number]
        _open_row(model, clock, bank, row, arrival, rows)
        data = max(arrival + latency, bank[_COLUMN_READY] + latency, bus, state.lanes[lane])
        if begun < 0:
            begun = data
        bus = data + bursts * model.burst_ticks
        # bursts of the groups alternate, so those of one began with the first of all
        last = max(bus - model.burst_ticks, begun + (bursts - 1) * model.same_group_burst_ticks)
        state.lanes[lane] = last + model.same_group_burst_ticks
        over = max(over, last + model.burst_ticks)
        if write:
            bank[_READY] = max(bank[_READY], last + model.burst_ticks + model.write_recovery_ticks)
        else:
            bank[_READY] = max(bank[_READY], last - latency + model.read_to_precharge_ticks)
    clock[_BUS_FREE] = bus
    return over


@njit(cache=True)
def _open_row(model: Any, clock: Int64Array, bank: Int64Array, row: int, arrival: int, rows: Int64Array) -> None:
    """Precharge and activate as far as it is needed, and count which it was."""
    if bank[_OPEN_ROW] == row:
        rows[HIT] += 1
        return
    activate = max(arrival, bank[_READY])
    if bank[_OPEN_ROW] == _CLOSED:
        rows[MISS] += 1
    else:
        rows[CONFLICT] += 1
        activate += model.precharge_ticks
    oldest = clock[_OLDEST]
    newest = clock[_ACTIVATED + (oldest + 3) % 4]
    activate = max(activate, newest + model.activate_gap_ticks, clock[_ACTIVATED + oldest] + model.four_activates_ticks)
    clock[_ACTIVATED + oldest] = activate
    clock[_OLDEST] = (oldest + 1) % 4
    bank[_OPEN_ROW] = row
    bank[_READY] = activate + model.row_open_ticks
    bank[_COLUMN_READY] = activate + model.activate_to_column_ticks


@njit(cache=True)
def _refresh(state: DramState, model: Any, channel: int, arrival: int) -> None:
    """Refresh all banks if that has fallen due before the bus can take more; all rows are closed then."""
    clock = state.channels[model.first_channel + channel]
    now = max(arrival, clock[_BUS_FREE])
    if now < clock[_NEXT_REFRESH]:
        return
    due = now - (now - clock[_NEXT_REFRESH]) % model.refresh_interval_ticks  # of several, those before it found an idle channel
    first, end = model.first_lane + channel, model.first_lane + model.channels * model.bank_groups
    begin = max(due, clock[_BUS_FREE])
    for lane in range(first, end, model.channels):
        for bank in range(model.banks_per_group):
            begin = max(begin, state.banks[lane, bank, _READY])
    for lane in range(first, end, model.channels):
        for bank in range(model.banks_per_group):
            state.banks[lane, bank, _OPEN_ROW] = _CLOSED
            state.banks[lane, bank, _READY] = begin + model.precharge_ticks + model.refresh_ticks
    clock[_NEXT_REFRESH] = due + model.refresh_interval_ticks
