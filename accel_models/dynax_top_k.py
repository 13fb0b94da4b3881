"""DynaX's top-k cascade, register by register: the N largest of every M elements that stream past, one a cycle, in order of size.

The first stage counts the elements of a block. Every stage keeps the largest that it sees and passes on the other one. When a block has
ended, a pulse goes down the stages, one a cycle, and tells that the index of a stage may be taken.

Source: released RTL of DynaX, hardware/predict_unit/topk; its defects are repaired one by one.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
from numba import njit
from pydantic import model_validator

from xmsim.configs.schema import Config, PositiveInt
from xmsim.sim.schedule import Int64Array


class PruningConfig(Config):
    """The N of every M that the top-k cascade ranks."""

    block: PositiveInt
    kept: PositiveInt

    @model_validator(mode="after")
    def _check_kept(self) -> Self:
        if self.kept > self.block:
            raise ValueError(f"kept: {self.kept} of every {self.block} keys cannot be kept; lower kept or raise block")
        return self


def rank_latency_cycles(rank: int) -> int:
    """Cycles from the entering of a block's last element to the index of its rank-th largest, counted from 0. Source: released RTL."""
    return rank + 1


def index_record_bytes(config: PruningConfig) -> int:
    """Bytes the pruning of one row and block leaves behind: N ranked indices and a 16-bit block sum.

    Source: N·log2 M + 16 bits, 56 for 8:32 and 112 for 16:64, against 512 and 1024 for the scores themselves.
    """
    return -(-(config.kept * (config.block - 1).bit_length() + 16) // 8)


class Repairs(NamedTuple):
    """Which defects of the released cascade are mended."""

    last_loser: bool  # the end of a block clears what a stage keeps, and not what it passes on, too: released, one element is lost
    gaps: bool  # without an element the first stage passes on 0: released, it repeats what it passed on last
    ties: bool  # of equal elements a stage keeps that of the lower index: released, a displaced one falls behind equal later ones


RELEASED = Repairs(last_loser=False, gaps=False, ties=False)
REPAIRED = Repairs(last_loser=True, gaps=True, ties=True)


class TopKTrace(NamedTuple):
    """Register contents after each edge; int64 [edges, N]."""

    passed_on: Int64Array  # what a stage does not keep
    kept_index: Int64Array  # of what a stage keeps or, when `valid`, has kept; of an earlier block where nothing positive came by
    valid: Int64Array  # 1: the index of the block that has just ended


class _Stages(NamedTuple):
    """Registers, int64 [N]."""

    kept: Int64Array
    kept_index: Int64Array
    passed_on: Int64Array
    passed_on_index: Int64Array
    valid: Int64Array
    position: Int64Array  # [1], of the next element in its block


def trace_top_k(enable: Int64Array, data: Int64Array, config: PruningConfig, repairs: Repairs) -> TopKTrace:
    """Run the cascade from reset, one step an edge; enable and data int64 [edges]. Without `enable` there is no element."""
    trace = TopKTrace(*(np.zeros((len(data), config.kept), np.int64) for _ in range(3)))
    stages = _Stages(*(np.zeros(places, np.int64) for places in (*(config.kept,) * 5, 1)))
    _run(stages, np.ascontiguousarray(enable), np.ascontiguousarray(data), config.block, repairs, trace)
    return trace


@njit(cache=True)
def _run(stages: _Stages, enable: Int64Array, data: Int64Array, block: int, repairs: Repairs, trace: TopKTrace) -> None:
    for edge in range(len(data)):
        for stage in range(len(stages.kept) - 1, 0, -1):  # from the last on, because each takes what the one before passed on earlier
            before = stage - 1
            displaces = stages.passed_on[before] > stages.kept[stage] or (
                repairs.ties
                and stages.passed_on[before] == stages.kept[stage] > 0
                and stages.passed_on_index[before] < stages.kept_index[stage]
            )
            _take(stages, stage, stages.passed_on[before], stages.passed_on_index[before], displaces)
            stages.valid[stage] = stages.valid[before]
            if stages.valid[stage]:
                _end_block(stages, stage, repairs)
        stages.valid[0] = 0
        if enable[edge]:
            _take(stages, 0, data[edge], stages.position[0], data[edge] > stages.kept[0])
            stages.position[0] = (stages.position[0] + 1) % block
            if stages.position[0] == 0:
                stages.valid[0] = 1
                _end_block(stages, 0, repairs)
        elif repairs.gaps:
            stages.passed_on[0] = 0
        trace.passed_on[edge] = stages.passed_on
        trace.kept_index[edge] = stages.kept_index
        trace.valid[edge] = stages.valid


@njit(cache=True)
def _take(stages: _Stages, stage: int, element: int, index: int, displaces: bool) -> None:
    """Keep an element and pass on what was kept, or pass it on itself."""
    if displaces:
        stages.passed_on[stage], stages.passed_on_index[stage] = stages.kept[stage], stages.kept_index[stage]
        stages.kept[stage], stages.kept_index[stage] = element, index
    else:
        stages.passed_on[stage], stages.passed_on_index[stage] = element, index


@njit(cache=True)
def _end_block(stages: _Stages, stage: int, repairs: Repairs) -> None:
    stages.kept[stage] = 0
    if not repairs.last_loser:
        stages.passed_on[stage] = 0
