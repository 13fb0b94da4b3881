"""From the points that are still to be simulated to their outcomes, point by point."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path

from xmsim.accel_models.sweep.code_version import code_sha256
from xmsim.accel_models.sweep.masks import MaskFolder
from xmsim.accel_models.sweep.points import Point, TracePart
from xmsim.accel_models.sweep.simulate import MaskTask, Outcome, PlannedPoint, PointTask, make_mask, simulate_points
from xmsim.accel_models.sweep.workers import Workers
from xmsim.traces.store import Trace

PAIRS_A_TASK = 4e8  # query-key pairs, of all its points together: half a second of work, which is what a kill costs
PAIRS_A_RUN = 1e6  # what the shortest run costs, however few its pairs: that of a decoded token
POINTS_A_TASK = 32  # at most

Progress = Callable[[str, int, int], None]  # (things, done, of)


def run_points(
    points: Iterable[Point],
    workers: Workers,
    masks: Path,
    *,
    done: Collection[str],
    error_bars: bool,
    progress: Progress = lambda things, done, of: None,
) -> Iterator[Outcome]:
    """Simulate every point whose key is not done, each key once. Outcomes come in any order, and are the same for any workers.

    Args:
        masks: folder for mask files; workers on other machines see it, and the traces, at the same path.
        done: keys of points that are not simulated again.
        error_bars: of area and energy, besides nominal values.
    Raises:
        XmsimError: a worker is gone, or is not what this process is.
    """
    todo = {point.key: point for point in points if point.key not in done}
    unmade = _make_masks(todo.values(), workers, masks, progress)
    outcomes = _refused_and_simulated(todo.values(), unmade, workers, masks, error_bars)
    progress("points", 0, len(todo))
    for count, outcome in enumerate(outcomes, 1):
        yield outcome
        progress("points", count, len(todo))


def _refused_and_simulated(
    points: Iterable[Point], unmade: Mapping[str, str], workers: Workers, masks: Path, error_bars: bool
) -> Iterator[Outcome]:
    served = []
    for point in points:
        if point.mask_key in unmade:
            yield Outcome(point.key, None, unmade[point.mask_key])
        else:
            served.append(point)
    for outcomes in workers.map(simulate_points, _point_tasks(served, masks, error_bars)):
        yield from outcomes


def _make_masks(points: Iterable[Point], workers: Workers, masks: Path, progress: Progress) -> dict[str, str]:
    """Make every mask that the points need and that is not there; gives {mask key: why it cannot be made}."""
    folder = MaskFolder(masks)
    needed = {point.mask_key: point for point in points if point.method is not None}
    tasks = [
        MaskTask(key, point.trace.path.resolve(), point.trace.sha256, point.part, masks.resolve(), point.method, layer, code_sha256())
        for key, point in needed.items()
        for layer in point.part.layers
        if point.method is not None and folder.missing(point.trace, point.part, point.method, layer)
    ]
    unmade: dict[str, str] = {}
    for count, (key, error) in enumerate(workers.map(make_mask, tasks), 1):
        if error is not None:
            unmade[key] = min(error, unmade.get(key, error))  # of several layers the same one, in whatever order they come
        progress("masks", count, len(tasks))
    return unmade


def _point_tasks(points: Iterable[Point], masks: Path, error_bars: bool) -> Iterator[PointTask]:
    """Points of equal Schedules together, in tasks of half a second."""

    def place(point: Point) -> tuple[str, str]:
        return point.machine.source, point.trace.sha256

    for _, alike in groupby(sorted(points, key=lambda point: (*place(point), point.schedule_key)), key=place):
        members = list(alike)
        size = max(1, min(POINTS_A_TASK, round(PAIRS_A_TASK / _pairs(members[0].trace, members[0].part))))
        for first in range(0, len(members), size):
            some = members[first : first + size]
            machine, trace, part = some[0].machine, some[0].trace, some[0].part
            yield PointTask(
                machine=machine.source,
                config=machine.config,
                trace=trace.path.resolve(),
                trace_sha256=trace.sha256,
                part=part,
                masks=masks.resolve(),
                points=tuple(PlannedPoint(one.key, one.schedule_key, one.method, dict(one.values)) for one in some),
                error_bars=error_bars,
                code_sha256=code_sha256(),
            )


def _pairs(trace: Trace, part: TracePart) -> float:
    """Query-key pairs of all layers, heads and windows, allowed or not; of a run at least `PAIRS_A_RUN`."""
    heads = len(trace.manifest.head_ids)
    runs = [
        heads * keys * (keys if part.decode_tokens is None else 1)
        for tokens in trace.manifest.valid_tokens
        for keys in part.cache_tokens(tokens)
    ]
    return len(part.layers) * sum(max(pairs, PAIRS_A_RUN) for pairs in runs)
