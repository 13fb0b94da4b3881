"""Ratios of new timings to the committed ones: python benchmarks/compare_records.py NEW_RECORD...

Above 1 is slower, or more memory. Times of different hosts are not comparable; both hosts are printed.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from record import FORMAT, VERSION

from xmsim.configs.record import read_record

COMMITTED = Path(__file__).resolve().parents[1] / "reports" / "measured"
PREFILL_KEYS = ("masks_cpu_s", "simulation_cpu_s", "peak_memory_mb")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path, nargs="+")
    news = [read_record(path, FORMAT, VERSION) for path in parser.parse_args().record]
    olds = [read_record(COMMITTED / f"{name}_cpu.json", FORMAT, VERSION) for name in ("engines", "masks", "llama_prefill")]
    for word, records in (("committed", olds), ("new", news)):
        print(f"{word:9} {', '.join(sorted({record['host']['cpu'] + ' on ' + record['host']['system'] for record in records}))}")
    committed = {name: value for record in olds for name, value in _numbers(record).items()}
    print(f"{'committed':>12} {'new':>12} {'ratio':>7}")
    for name, value in ((name, value) for record in news for name, value in _numbers(record).items()):
        old = committed.get(name)
        print(f"{old:12.3f} {value:12.3f} {value / old:7.2f}  {name}" if old else f"{'-':>12} {value:12.3f} {'-':>7}  {name}")


def _numbers(record: dict[str, Any]) -> dict[str, float]:
    """What a record measured; the unit ends the name."""
    if "runs" in record:
        return {f"{run['name']} median_ms": run["median_ms"] for run in record["runs"]}
    return {f"prefill of {record['heads']} heads on {record['machine']} {key}": record[key] for key in PREFILL_KEYS}


if __name__ == "__main__":
    main()
