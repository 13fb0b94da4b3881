"""What requests take in a DRAM with banks, on a toy small enough to count by hand; a tick is a cycle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from xmsim.sim.channel import ChannelClock
from xmsim.sim.dram_banks import BankModel
from xmsim.sim.schedule import Channel

TOY = BankModel(
    ticks_per_cycle=1,
    channels=1,
    bank_groups=1,
    banks_per_group=2,
    row_bytes=256,
    burst_bytes=64,
    interleave_bytes=256,
    burst_ticks=4,
    same_group_burst_ticks=4,
    activate_to_column_ticks=10,
    read_latency_ticks=12,
    write_latency_ticks=8,
    row_open_ticks=30,
    precharge_ticks=11,
    read_to_precharge_ticks=5,
    write_recovery_ticks=15,
    activate_gap_ticks=4,
    four_activates_ticks=20,
    write_to_read_ticks=20,
    read_to_write_ticks=2,
    refresh_interval_ticks=10**6,
    refresh_ticks=30,
)
READ, WRITE = False, True
HIT, MISS, CONFLICT = [1, 0, 0], [0, 1, 0], [0, 0, 1]


def clock_of(banks: BankModel, latency_cycles: int = 0) -> ChannelClock:
    return ChannelClock(Channel("dram", banks.bytes_per_cycle, latency_cycles, banks))


def done(clock: ChannelClock, cycle: int, address: int, size_bytes: int = 64, write: bool = READ) -> int:
    return clock.serve(cycle, address, size_bytes, write)[0]


@pytest.mark.parametrize(
    ("second_address", "cycles", "rows"),
    [
        pytest.param(64, 12 + 4, HIT, id="an open row takes the column latency and a burst"),
        pytest.param(256, 10 + 12 + 4, MISS, id="a closed bank an activate before them"),
        pytest.param(512, 11 + 10 + 12 + 4, CONFLICT, id="another open row a precharge before that"),
    ],
)
def test_what_a_read_of_a_bank_in_each_state_takes(second_address, cycles, rows):
    clock = clock_of(TOY)
    assert done(clock, 0, 0) == 10 + 12 + 4
    after, met = clock.serve(100, second_address, 64, READ)
    assert after == 100 + cycles and met.tolist() == rows


def test_a_row_stays_open_as_long_as_it_must_before_the_next():
    clock = clock_of(TOY)
    done(clock, 0, 0)
    assert done(clock, 0, 512) == 30 + 11 + 10 + 12 + 4  # the first row may be closed at 30


def test_rows_of_other_banks_are_opened_while_the_bus_is_busy():
    after, rows = clock_of(TOY).serve(0, 0, 1024, READ)
    # rows 0 and 1 from 22 to 54; row 2 closes row 0 at 30 and is read from 30 + 11 + 10 + 12 = 63 on; row 3 follows without a gap
    assert after == 63 + 2 * 16 and rows.tolist() == [0, 2, 2]


def test_the_bus_turns_in_the_time_that_each_direction_needs():
    clock = clock_of(TOY)
    assert done(clock, 0, 0, write=WRITE) == 10 + 8 + 4
    assert done(clock, 0, 0) == 22 + 20 + 4
    assert done(clock, 0, 0, write=WRITE) == 46 + 2 + 4


def test_a_written_row_closes_after_the_write_recovery():
    clock = clock_of(replace(TOY, row_open_ticks=1))
    done(clock, 0, 0, write=WRITE)
    assert done(clock, 0, 512) == 22 + 15 + 11 + 10 + 12 + 4


def test_five_activates_take_more_than_the_window_of_four():
    clock = clock_of(replace(TOY, banks_per_group=8))
    assert [done(clock, 0, 256 * bank) for bank in range(5)] == [26, 30, 34, 38, 20 + 10 + 12 + 4]


def test_a_refresh_closes_the_rows_and_holds_the_banks():
    clock = clock_of(replace(TOY, refresh_interval_ticks=100))
    done(clock, 0, 0)
    after, rows = clock.serve(105, 0, 64, READ)
    assert after == 100 + 11 + 30 + 10 + 12 + 4 and rows.tolist() == MISS
    after, rows = clock.serve(399, 0, 64, READ)  # the refreshes at 200 and 300 found an idle channel
    assert after == 399 + 10 + 12 + 4 and rows.tolist() == MISS


def test_channels_work_side_by_side():
    after, rows = clock_of(replace(TOY, channels=2)).serve(0, 0, 512, READ)
    assert after == 10 + 12 + 16 and rows.tolist() == [0, 2, 0]


def test_bursts_of_one_bank_group_follow_each_other_more_slowly_than_those_of_two():
    groups = replace(TOY, bank_groups=2, interleave_bytes=64, same_group_burst_ticks=8)
    clock = clock_of(groups)
    assert (done(clock, 0, 0), done(clock, 0, 64)) == (26, 30)
    clock = clock_of(groups)
    assert (done(clock, 0, 0), done(clock, 0, 128)) == (26, 34)
    assert done(clock_of(groups), 0, 0, 512) == 22 + 8 * 4  # those of the two alternate


def test_a_request_in_the_middle_of_a_burst_transfers_all_of_it():
    sizes = np.array([1, 2, 64, 64])
    assert TOY.bursts(np.array([0, 63, 64, 96]), sizes).tolist() == [1, 2, 1, 2]
    assert done(clock_of(TOY), 0, 63, 2) == 10 + 12 + 2 * 4


def test_the_latency_of_the_way_is_added_to_reads_alone():
    assert done(clock_of(TOY, latency_cycles=7), 0, 0) == 26 + 7
    assert done(clock_of(TOY, latency_cycles=7), 0, 0, write=WRITE) == 22


def test_refreshes_of_parts_of_a_run_add_up():
    banks = replace(TOY, channels=3, refresh_interval_ticks=100, ticks_per_cycle=2)
    assert banks.refreshes(0, 49) == 0 and banks.refreshes(0, 50) == 3
    assert banks.refreshes(0, 333) + banks.refreshes(333, 1000) == banks.refreshes(0, 1000) == 60
