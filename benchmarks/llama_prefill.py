"""The 1024 heads of a Llama-3-8B-shaped prefill of 4096 tokens through one machine: `python benchmarks/llama_prefill.py [machine]`.

Prints JSON, and keeps it as a record with --out: CPU seconds of making the masks and of simulating them, simulated cycles, and the
peak memory of the process. Goal for dynax_l on one core: 25 CPU-seconds and 1 GB. The masks are described in
workloads/synthetic_prefill.py; making them is not part of the simulation.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean

from record import FORMAT, VERSION

from xmsim.accel_models import load_accelerator
from xmsim.configs.codec import encode
from xmsim.configs.record import write_record
from xmsim.workloads.measuring.host import describe_host
from xmsim.workloads.synthetic_prefill import LLAMA_3_8B, prefill_layers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("machine", nargs="?", default="dynax_l")
    parser.add_argument("--layers", type=int, default=LLAMA_3_8B.layers)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    shape = replace(LLAMA_3_8B, layers=arguments.layers)
    machine = load_accelerator(arguments.machine)
    _warm_up(arguments.machine)
    masks_s, simulation_s, cycles, densities = 0.0, 0.0, 0, []
    started = time.process_time()
    for workload in prefill_layers(shape, seed=0):
        made = time.process_time()
        result = machine.simulate(workload)
        simulated = time.process_time()
        masks_s, simulation_s = masks_s + made - started, simulation_s + simulated - made
        cycles += result.cycles
        densities.append(result.densities.density)
        started = time.process_time()
    record = {
        "machine": machine.name,
        "shape": asdict(shape),
        "heads": shape.layers * shape.heads,
        "density": round(fmean(densities), 4),
        "simulated_cycles": cycles,
        "masks_cpu_s": round(masks_s, 2),
        "simulation_cpu_s": round(simulation_s, 2),
        "cycles_per_cpu_s": round(cycles / simulation_s),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    print(json.dumps(record, indent=2))
    if arguments.out:
        write_record(arguments.out, FORMAT, VERSION, {"host": encode(describe_host()), **record})


def _warm_up(name: str) -> None:
    """Compile, so that the first run on a host is not slower than the next."""
    load_accelerator(name).simulate(next(prefill_layers(replace(LLAMA_3_8B, heads=1, kv_heads=1, tokens=256), seed=0)))


if __name__ == "__main__":
    main()
