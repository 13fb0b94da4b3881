"""Which runs a model can be asked about at all: a record's numbers may be anything, and a workload of a billion tokens fits nowhere."""

from __future__ import annotations

from xmsim.accel_models.host.constants import MissingConstantError
from xmsim.configs.errors import RecordError
from xmsim.workloads.measuring.host_check_record import (
    DECODE,
    LEAST_MS,
    LINEAR,
    MASK,
    MOST_MS,
    PREDICTION,
    PREFILL,
    HostRun,
)

MOST_COUNT = 2**24  # of anything that a shape counts
MOST_THREADS = 2**12
MOST_MASK_WORDS = 2**21  # of 64 pairs: of all heads of a prefill, whose mask is made; 8192 tokens of 2 heads
LEAST_DRIFT, MOST_DRIFT = 1e-6, 1e6  # of the core, and nanoseconds of a line
_COUNT, _BITS = (1, MOST_COUNT), (0, 64)
_HEADS = dict.fromkeys(("tokens", "heads", "kv_heads", "head_dim"), _COUNT)
_WHOLE = {
    LINEAR: dict.fromkeys(("in_features", "out_features", "tokens"), _COUNT),
    PREFILL: _HEADS,
    DECODE: _HEADS,
    PREDICTION: _HEADS | {"bits": _BITS},
    MASK: _HEADS | {"bits": _BITS},
}
_OPTIONAL = {PREFILL: {"kept": (1, 64)}, PREDICTION: {"classified_again": (0, 2**40), "ranked_again": (0, 2**40)}}
_SHARES = {LINEAR: "sparsity", DECODE: "kv_density"}


def check_run(run: HostRun, source: str) -> None:
    """Refuse a run that no workload can be made of.

    Raises:
        RecordError: a size is missing, no whole number, or beyond all that is measured; the text names the run's operation and the size.
        MissingConstantError: a mask too large to be made for a prediction.
    """
    place = f"{source}: {run.operation}, {run.kernel}"
    if run.operation not in _WHOLE:
        return  # has no model, which is said elsewhere
    _whole(place, "threads", run.threads, 1, MOST_THREADS)
    for name, (least, most) in _WHOLE[run.operation].items():
        _whole(place, name, run.shape.get(name), least, most)
    for name, (least, most) in _OPTIONAL.get(run.operation, {}).items():
        if name in run.shape:
            _whole(place, name, run.shape[name], least, most)
    if (share := _SHARES.get(run.operation)) and share in run.shape:
        _number(place, share, run.shape[share], 0, 1)
    _number(place, "median_ms", run.timing.median_ms, LEAST_MS, MOST_MS)
    for name, drift in (("read_line_ns", run.minute.read_line_ns), ("core_drift", run.minute.core_drift)):
        if drift is not None:
            _number(place, name, drift, LEAST_DRIFT, MOST_DRIFT)
    if run.operation != LINEAR:
        _check_heads(run, place)


def _check_heads(run: HostRun, place: str) -> None:
    tokens, heads, kv_heads = (run.shape[name] for name in ("tokens", "heads", "kv_heads"))
    if heads % kv_heads:
        raise RecordError(f"{place}: {heads} heads do not share {kv_heads} KV heads evenly; was the file edited?")
    words = heads * -(-tokens // 64) * (tokens if run.operation in (PREFILL, MASK) else 1)
    if words > MOST_MASK_WORDS:
        raise MissingConstantError(f"a mask of {heads} heads and {tokens} tokens has more pairs than are made, {64 * MOST_MASK_WORDS}")


def _whole(place: str, name: str, value: object, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise RecordError(f"{place}: {name} is no whole number from {least} to {most}; was the file edited?")


def _number(place: str, name: str, value: object, least: float, most: float) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
        raise RecordError(f"{place}: {name} is no number from {least:g} to {most:g}; was the file edited?")
