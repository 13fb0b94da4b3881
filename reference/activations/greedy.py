"""Sharing a block's activation sparsity out among its projections, one small step after the other.

Source: TEAL (arXiv 2408.14690); FasterDecoding/TEAL at 5baaec8, teal/greedyopt.py.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xmsim.configs.errors import RecordError
from xmsim.configs.files import open_table, write_text
from xmsim.reference.attention.arrays import is_tensor

_SPARSITY, _ERROR, _UNIFORM_ERROR = "Effective Sparsity", "Activation Error", "Baseline Error"  # columns of the published tables


@dataclass(frozen=True, slots=True)
class GreedyStep:
    """One row of a block's table."""

    effective_sparsity: float  # mean over the projections, weighted with their parameters
    error: float  # of the block's output, tail_error
    uniform_error: float  # at the same effective sparsity in every projection
    sparsities: dict[str, float]  # of each projection


def effective_sparsity(sparsities: Mapping[str, float], parameters: Mapping[str, float]) -> float:
    """The mean sparsity of projections, weighted with their numbers of parameters."""
    return sum(sparsities[name] * count for name, count in parameters.items()) / sum(parameters.values())


def tail_error(output: Any, dense_output: Any, *, last_share: float = 0.25) -> float:
    """How far a block's output is from the dense one: the L2 norm along the last quarter of the positions, mean over batch and channels.

    Args:
        output, dense_output: float [batch, tokens, channels]; NumPy arrays or torch tensors.
        last_share: share of the positions that counts, above 0 and at most 1.
    Raises: ValueError naming the argument: shapes that differ, a share out of its range, no position that counts.
    """
    if not 0 < last_share <= 1:
        raise ValueError(f"last_share: {last_share} is not a share; choose above 0 and at most 1")
    if output.ndim != 3 or tuple(output.shape) != tuple(dense_output.shape):
        raise ValueError(f"output: shapes {tuple(output.shape)} and {tuple(dense_output.shape)} are not both one [batch, tokens, channels]")
    first = int(output.shape[1] * (1 - last_share))
    if 0 in output.shape or first == output.shape[1]:
        raise ValueError(f"output: shape {tuple(output.shape)} has no position in its last {last_share:.0%}; use more tokens")
    if is_tensor(output):
        return float((output[:, first:].double() - dense_output[:, first:].double()).norm(dim=1).mean())
    return float(np.linalg.norm(output[:, first:].astype(np.float64) - dense_output[:, first:].astype(np.float64), axis=1).mean())


def greedy_steps(
    block_error: Callable[[Mapping[str, float]], float], parameters: Mapping[str, float], *, step: float = 0.05, until: float = 0.9
) -> tuple[GreedyStep, ...]:
    """Raise the sparsity where it hurts least, again and again, until the block has enough.

    A step adds the same number of parameters to any projection: `step` to the first, and to others as much more as they are smaller. It
    ends at 1, where the published code goes on beyond.

    Args:
        block_error: error of the block's output when each projection drops this share of its inputs.
        parameters: of each projection; only their ratios count. Shipped code has k and v eightfold too small for models without grouped
            queries; the shipped tables were made with the true ones.
        step: above 0 and at most 1.
        until: effective sparsity to reach, at least 0 and at most 1.
    Raises: ValueError naming the argument: out of its range, no parameters; an error that is NaN.
    """
    if not 0 < step <= 1:
        raise ValueError(f"step: {step} is not a step; choose above 0 and at most 1")
    if not 0 <= until <= 1:
        raise ValueError(f"until: {until} is not a share; choose 0 to 1")
    if not parameters or min(parameters.values()) <= 0:
        raise ValueError("parameters: a number above 0 for each projection is needed")
    unit = step * next(iter(parameters.values()))
    sparsities = dict.fromkeys(parameters, 0.0)
    steps = []
    while effective_sparsity(sparsities, parameters) < until and min(sparsities.values()) < 1:
        candidates = [
            sparsities | {name: min(1.0, sparsities[name] + unit / parameters[name])} for name in parameters if sparsities[name] < 1
        ]
        errors = [block_error(candidate) for candidate in candidates]
        if any(error != error for error in errors):
            raise ValueError("block_error: gave NaN; the block's output is meaningless, check the weights and the calibration text")
        best = int(np.argmin(errors))
        sparsities = candidates[best]
        reached = effective_sparsity(sparsities, parameters)
        steps.append(GreedyStep(reached, errors[best], block_error(dict.fromkeys(parameters, reached)), sparsities))
    return tuple(steps)


def nearest_step(steps: Sequence[GreedyStep], sparsity: float) -> GreedyStep:
    """The step of a table whose effective sparsity is nearest to a target; of two equally near the sparser one comes second."""
    if not steps:
        raise ValueError("steps: the table is empty; run the greedy allocation first")
    return min(steps, key=lambda row: abs(row.effective_sparsity - sparsity))


def write_greedy_table(path: Path, steps: Iterable[GreedyStep]) -> None:
    """Write a table with the columns of TEAL's authors, whole or not at all.

    Raises:
        XmsimError: the disk is full or the folder cannot be written.
    """
    rows = [
        {_SPARSITY: row.effective_sparsity, _ERROR: row.error, _UNIFORM_ERROR: row.uniform_error} | dict(row.sparsities) for row in steps
    ]
    if not rows:
        raise ValueError("steps: the table is empty; run the greedy allocation first")
    text = io.StringIO()
    table = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_text(path, text.getvalue())


def read_greedy_table(path: Path) -> tuple[GreedyStep, ...]:
    """A table of write_greedy_table, or one that TEAL's authors ship (lookup/layer-N/results.csv).

    Raises:
        RecordError: not readable, or not such a table.
    """
    try:
        rows = [{name: float(cell) for name, cell in row.items()} for row in csv.DictReader(open_table(path))]
        steps = tuple(GreedyStep(row.pop(_SPARSITY), row.pop(_ERROR), row.pop(_UNIFORM_ERROR), row) for row in rows)
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, TypeError, KeyError, csv.Error) as error:
        raise RecordError(f"{path}: not a table of greedy sparsities ({error}); make it again") from error
    if not steps or not all(row.sparsities for row in steps):
        raise RecordError(f"{path}: holds no step with projections; make it again")
    return steps
