"""All benchmarks of the CPU kernels, one process each: python benchmarks/cpu.py [--quick] [--out FOLDER]

Each binds its threads to cores and compares by turns in one run; see their own files. With --out, a record of each is kept there.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

PARTS = {"linear_cpu.json": "cpu_linear.py", "attention_cpu.json": "cpu_attention.py"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer shapes and rounds")
    parser.add_argument("--out", type=Path, help="folder for the records")
    arguments = parser.parse_args()
    for record, script in PARTS.items():
        command = [sys.executable, str(Path(__file__).with_name(script)), *(["--quick"] if arguments.quick else [])]
        if arguments.out:
            arguments.out.mkdir(parents=True, exist_ok=True)
            command += ["--out", str(arguments.out / record)]
        print(f"{script}:", flush=True)
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
