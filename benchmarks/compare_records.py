"""Ratios of new timings to the committed ones: python benchmarks/compare_records.py NEW_RECORD...

Above 1 is slower, or more memory. Times of different hosts are not comparable; both hosts are printed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from record import FORMAT, VERSION

from xmsim.configs.record import read_record

COMMITTED = Path(__file__).resolve().parents[1] / "reports" / "measured"
# what says which run of a benchmark, or which benchmark, a number belongs to; nothing that is measured
IDENTIFYING = (
    "name", "kernel", "machine", "shape", "phase", "dtype", "in_features", "out_features", "heads", "kv_heads", "head_dim", "tokens",
    "threads", "points", "jobs",
)  # fmt: skip
UNITS = ("_s", "_ms", "_mb")  # of numbers that grow when a program gets worse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path, nargs="+")
    news = [read_record(path, FORMAT, VERSION) for path in parser.parse_args().record]
    olds = [read_record(path, FORMAT, VERSION) for path in committed_benchmarks()]
    for word, records in (("committed", olds), ("new", news)):
        print(f"{word:9} {', '.join(sorted({host_name(record['host']) for record in records}))}")
    committed = {name: value for record in olds for name, value in numbers(record).items()}
    print(f"{'committed':>12} {'new':>12} {'ratio':>7}")
    for name, value in ((name, value) for record in news for name, value in numbers(record).items()):
        old = committed.get(name)
        print(f"{old:12.3f} {value:12.3f} {value / old:7.2f}  {name}" if old else f"{'-':>12} {value:12.3f} {'-':>7}  {name}")


def host_name(host: dict[str, Any]) -> str:
    """Its processor, its GPU if there is one, and its system."""
    return f"{host['cpu']}{' with ' + host['gpu'] if host.get('gpu') else ''} on {host['system']}"


def committed_benchmarks() -> list[Path]:
    """The committed files that benchmarks of a CPU or a GPU wrote."""
    paths = sorted(path for kind in ("cpu", "gpu") for path in COMMITTED.glob(f"*_{kind}.json"))
    return [path for path in paths if json.loads(path.read_text(encoding="utf-8"))["format"] == f"xmsim.{FORMAT}"]


def numbers(record: dict[str, Any]) -> dict[str, float]:
    """What a record measured, by what it was measured on; the unit ends the name.

    Raises:
        ValueError: two runs cannot be told apart.
    """
    if "runs" not in record:
        measured = [key for key in record if key.endswith(UNITS) and "_per_" not in key]
        return {f"{label(record)} {key}": record[key] for key in measured}
    found = {f"{label(run)} median_ms": run["median_ms"] for run in record["runs"]}
    if len(found) < len(record["runs"]):
        raise ValueError(f"two runs are alike in {', '.join(IDENTIFYING)}; name what tells them apart in IDENTIFYING")
    return found


def label(run: dict[str, Any]) -> str:
    """All that identifies a run."""
    return ", ".join(str(run[key]) if isinstance(run[key], str | dict) else f"{key} {run[key]}" for key in IDENTIFYING if key in run)


if __name__ == "__main__":
    main()
