"""Keep what pytest-benchmark measured as a record: python benchmarks/record.py BENCHMARK_JSON RECORD_JSON

The record has the host as all our measurements do, and no names of machines or people.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from xmsim.configs.codec import encode
from xmsim.configs.record import write_record
from xmsim.workloads.measuring.host import describe_host

FORMAT, VERSION = "benchmark", 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", type=Path)
    parser.add_argument("record", type=Path)
    args = parser.parse_args()
    runs = [
        {
            "name": run["name"],
            "n": run["stats"]["rounds"],
            "median_ms": 1e3 * run["stats"]["median"],
            "first_quartile_ms": 1e3 * run["stats"]["q1"],
            "third_quartile_ms": 1e3 * run["stats"]["q3"],
            "min_ms": 1e3 * run["stats"]["min"],
            "max_ms": 1e3 * run["stats"]["max"],
            **run["extra_info"],
        }
        for run in json.loads(args.benchmark.read_text(encoding="utf-8"))["benchmarks"]
    ]
    write_record(args.record, FORMAT, VERSION, {"host": encode(describe_host()), "runs": runs})


if __name__ == "__main__":
    main()
