"""Search of a space too large to be swept: Optuna's NSGA-II over the same axes.

The search is seeded and waits for a whole generation, so its trials are the same whoever simulates them and whatever is simulated
already: started again, it asks for the same points, and finds in the run store those that it had come to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from xmsim.accel_models.sweep.points import Point, Sweep
from xmsim.configs.errors import XmsimError

OBJECTIVES = ("latency_ms", "energy_pj", "area_mm2")
GENERATION = 32  # trials that are simulated together

Evaluate = Callable[[Sequence[Point]], Mapping[str, Mapping[str, float] | None]]  # {key: metrics}, None: the point failed


def search(sweep: Sweep, evaluate: Evaluate, *, trials: int, objectives: Sequence[str] = OBJECTIVES, seed: int = 0) -> list[Point]:
    """Try so many points and give those that were tried, in order, each once.

    Args:
        evaluate: gives the metrics of points, simulated or remembered.
        objectives: metrics that are to be low.
    Raises:
        XmsimError: Optuna is not installed, the sweep has several traces, or a machine does not know an objective.
    """
    try:
        import optuna
    except ImportError as error:
        raise XmsimError('--search: Optuna is not installed; pip install "xmsim[search]"') from error
    if len(sweep.traces) > 1:
        raise XmsimError(f"--search: times on {len(sweep.traces)} traces do not compare; search one of them at a time")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.NSGAIISampler(population_size=min(GENERATION, trials), seed=seed)
    study = optuna.create_study(directions=["minimize"] * len(objectives), sampler=sampler)
    tried: dict[str, Point] = {}
    for first in range(0, trials, GENERATION):
        asked = [study.ask() for _ in range(min(GENERATION, trials - first))]
        points = [sweep.point([trial.suggest_int(str(at), 0, choices - 1) for at, choices in enumerate(sweep.shape)]) for trial in asked]
        tried |= {point.key: point for point in points}
        metrics = evaluate(points)
        for trial, point in zip(asked, points, strict=True):
            found = metrics[point.key]
            if found is None:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(trial, [_value(point, found, objective) for objective in objectives])
    return list(tried.values())


def _value(point: Point, metrics: Mapping[str, float], objective: str) -> float:
    if objective not in metrics:
        known = ", ".join(metrics)
        raise XmsimError(
            f"--objective {objective}: {point.machine.name} has no such number; it has {known}; area and energy need `technology`"
        )
    return metrics[objective]
