"""Measured runs in the groups in which they may be compared: one host, one device, one number of threads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from xmsim.reports.load import Comparison, implementation
from xmsim.workloads.measurement import Host, MeasuredRun

DENSE = "dense attention"
SPARSE = "sparse attention"
MASK = "mask"


@dataclass(frozen=True, slots=True)
class TotalTime:
    """The sum over layers and windows of medians, and of quartiles (as if all runs were slow together: the wider choice)."""

    median_ms: float
    first_quartile_ms: float
    third_quartile_ms: float
    n: int  # fewest repetitions of any of them

    def __add__(self, other: TotalTime) -> TotalTime:
        return TotalTime(
            self.median_ms + other.median_ms,
            self.first_quartile_ms + other.first_quartile_ms,
            self.third_quartile_ms + other.third_quartile_ms,
            min(self.n, other.n),
        )


def total_time(runs: Iterable[MeasuredRun]) -> TotalTime:
    timings = [run.timing for run in runs]
    return TotalTime(
        sum(timing.median_ms for timing in timings),
        sum(timing.first_quartile_ms for timing in timings),
        sum(timing.third_quartile_ms for timing in timings),
        min(timing.n for timing in timings),
    )


@dataclass(frozen=True, slots=True)
class Series:
    """One operation as one backend does it, over all layers and windows."""

    path: Path
    operation: str
    method: str
    backend: str
    dtype: str
    runs: tuple[MeasuredRun, ...]

    @property
    def total(self) -> TotalTime:
        return total_time(self.runs)

    @property
    def name(self) -> str:
        """What is timed: dense attention, sparse attention xm, mask xm."""
        return self.operation if self.operation == DENSE else f"{self.operation} {self.method}"

    @property
    def means(self) -> str:
        """With what: numba gather, float32."""
        return f"{self.backend}, {self.dtype}"


@dataclass(frozen=True, slots=True)
class Bench:
    """All that was measured on one device with one number of threads."""

    host: Host
    device: str  # "cpu" or "cuda"
    threads: int
    series: tuple[Series, ...]

    @property
    def title(self) -> str:
        if self.device == "cpu":
            return f"measured on {self.host.cpu}, {self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"measured on {self.host.gpu or self.device}"

    @property
    def dense(self) -> Series | None:
        """The fastest dense attention: the baseline."""
        return self._fastest(DENSE)

    @property
    def sparse(self) -> Series | None:
        """The fastest sparse attention, the making of its mask included where that was measured."""
        candidates = [series for series in self.series if series.operation == SPARSE]
        return min(candidates, key=lambda series: self.with_mask(series).median_ms, default=None)

    def mask_of(self, sparse: Series) -> Series | None:
        """The fastest making of the masks that a sparse attention uses."""
        return self._fastest(MASK, sparse.method)

    def with_mask(self, sparse: Series) -> TotalTime:
        mask = self.mask_of(sparse)
        return sparse.total + mask.total if mask else sparse.total

    def _fastest(self, operation: str, method: str | None = None) -> Series | None:
        candidates = [one for one in self.series if one.operation == operation and method in (None, one.method)]
        return min(candidates, key=lambda one: one.total.median_ms, default=None)


def benches(comparison: Comparison) -> tuple[Bench, ...]:
    """The measured series by host, device and threads."""
    found: list[Bench] = []
    for measured in comparison.measured:
        runs: dict[tuple[str, int, str, str, str, str], list[MeasuredRun]] = {}
        for run in measured.record.runs:
            runs.setdefault(implementation(run), []).append(run)
        for (device, threads, operation, method, backend, dtype), its_runs in runs.items():
            series = Series(measured.path, operation, method, backend, dtype, tuple(its_runs))
            same = (measured.record.host, device, threads)
            place = next((i for i, bench in enumerate(found) if (bench.host, bench.device, bench.threads) == same), None)
            if place is None:
                found.append(Bench(*same, series=(series,)))
            else:
                found[place] = Bench(*same, series=(*found[place].series, series))
    return tuple(found)
