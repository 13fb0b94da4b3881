"""Timelines as Chrome trace-event JSON, which Perfetto (ui.perfetto.dev) and chrome://tracing open: docs/timeline.md.

The format counts in microseconds; here 1 us stands for 1 cycle, so that whole cycles stay whole at any clock. The key
`displayTimeUnit` is left out because Perfetto would read times as nanoseconds by it, and our header comes after the events because
Perfetto stops reading at the first key that it does not know.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from xmsim.configs.files import write_whole
from xmsim.configs.record import record_text
from xmsim.sim.log import EngineLog, head_accounts, idle_cycles, layer_account
from xmsim.sim.schedule import Schedule
from xmsim.sim.timeline import BUSY, Spans, channel_uses, queue_occupancy, server_spans

TIMELINE_VERSION = 1

_PROCESS = 1
_HEADS_THREAD = 1  # threads are numbered from here on in the order in which they are drawn
_THOUSAND = 1000  # places of a cycle that are kept where bytes cross a channel


def write_timeline(path: Path, schedule: Schedule, log: EngineLog, *, title: str, facts: dict[str, Any]) -> None:
    """Write one run as a timeline, whole or not at all; gzipped if the name ends in .gz.

    Args:
        title: what was run, e.g. machine and layer; the name of the process that holds all tracks.
        facts: what else a reader must know, e.g. the clock; keys with their units.
    Raises:
        XmsimError: the file cannot be written.
    """
    account = layer_account(schedule, log)
    body = facts | {
        "microseconds_per_cycle": 1,
        "total_cycles": log.cycles,
        "busy_cycles": account.busy,
        "stall_cycles": account.stalls,
        "idle_cycles": idle_cycles(schedule, log),
    }

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            if path.suffix == ".gz":
                # without name and time, so that equal runs give equal files; level 9 takes three times as long for 5 % less
                with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0) as packed:
                    _write_events(packed, schedule, log, title, body)
            else:
                _write_events(file, schedule, log, title, body)

    write_whole(path, write)


def _write_events(file: Any, schedule: Schedule, log: EngineLog, title: str, body: dict[str, Any]) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="\n")
    text.write('{"traceEvents":[\n' + _named("process_name", _HEADS_THREAD, title))
    for event in _events(schedule, log):
        text.write(",\n" + event)
    text.write("\n],\n" + record_text("timeline", TIMELINE_VERSION, body).removeprefix("{\n"))
    text.flush()
    text.detach()  # the file is closed by whoever opened it


def _events(schedule: Schedule, log: EngineLog) -> Iterator[str]:
    yield _named("thread_name", _HEADS_THREAD, "heads")
    yield from _head_slices(schedule, log)
    spans = server_spans(schedule, log)
    new_server = np.diff(spans.stage, prepend=-1) | np.diff(spans.server, prepend=-1)
    first_spans = np.append(np.flatnonzero(new_server), len(new_server)).tolist()
    for thread, (first, last) in enumerate(pairwise(first_spans), _HEADS_THREAD + 1):
        yield from _server_slices(schedule, spans, first, last, thread)
    for number, stage in enumerate(schedule.stages):
        name = _quoted(stage.name)  # Perfetto adds the key of the argument
        for cycle, waiting in zip(*(column.tolist() for column in queue_occupancy(schedule, log, number)), strict=True):
            yield f'{{"ph":"C","pid":{_PROCESS},"ts":{cycle},"name":{name},"args":{{"queue":{waiting}}}}}'
    yield from _channel_slices(schedule, log, _HEADS_THREAD + len(first_spans))


def _head_slices(schedule: Schedule, log: EngineLog) -> Iterator[str]:
    finished, accounts = 0, head_accounts(schedule, log)
    names = {head: f"head {head}" for head in accounts}
    if min(accounts, default=0) < 0:  # the phases around attention are numbered beside its heads
        names |= {min(accounts): "input projections", max(accounts): "output projection"}
    for head, (cycles, _) in accounts.items():
        if cycles:
            yield _slice(_HEADS_THREAD, finished, cycles, _quoted(names[head]))
        finished += cycles


def _server_slices(schedule: Schedule, spans: Spans, first: int, last: int, thread: int) -> Iterator[str]:
    """The spans `first` up to `last`, which are those of one server."""
    number, server = int(spans.stage[first]), int(spans.server[first])
    stage = schedule.stages[number]
    yield _named("thread_name", thread, f"{number} {stage.name}" + (f" [{server}]" if stage.servers > 1 else ""))
    stalls = [_quoted(cause) for cause in spans.causes]
    columns = (column[first:last].tolist() for column in (spans.begin, spans.cycles, spans.cause, spans.job))
    for begin, cycles, cause, job in zip(*columns, strict=True):
        yield _slice(thread, begin, cycles, f'"job {job}"' if cause == BUSY else stalls[cause])


def _channel_slices(schedule: Schedule, log: EngineLog, first_thread: int) -> Iterator[str]:
    """What crosses each channel, by the stage that asked for it."""
    for thread, channel in enumerate(schedule.channels, first_thread):
        yield _named("thread_name", thread, channel.name)
    stages = [_quoted(stage.name) for stage in schedule.stages]
    for use in channel_uses(schedule, log):
        begin, end = (round(_THOUSAND * cycle) for cycle in (use.begin_cycle, use.end_cycle))
        yield _slice(first_thread + use.channel, _thousandths(begin), _thousandths(end - begin), stages[schedule.visit_stage[use.visit]])


def _slice(thread: int, begin: int | str, cycles: int | str, quoted_name: str) -> str:
    return f'{{"ph":"X","pid":{_PROCESS},"tid":{thread},"ts":{begin},"dur":{cycles},"name":{quoted_name}}}'


def _named(what: str, thread: int, name: str) -> str:
    return f'{{"ph":"M","pid":{_PROCESS},"tid":{thread},"name":"{what}","args":{{"name":{_quoted(name)}}}}}'


def _quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)  # Perfetto reads no \u escapes


def _thousandths(count: int) -> str:
    """A decimal number; exact, and without digits that say nothing."""
    whole, rest = divmod(count, _THOUSAND)
    return f"{whole}.{rest:03d}".rstrip("0") if rest else str(whole)
