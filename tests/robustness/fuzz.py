"""A long run: python -m tests.robustness.fuzz --minutes 10 --seed 1 [--only TEXT] [--keep FOLDER] [--show]

Prints how many inputs were read, refused and failed, and each fault once; failing inputs are kept.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

from tests.robustness.bounded import BoundedProcess
from tests.robustness.mutations import damage
from tests.robustness.readers import all_readers


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--minutes", type=float, default=10)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--only", default="")
    options.add_argument("--keep", type=Path)
    options.add_argument("--show", action="store_true", help="print every sentence")
    given = options.parse_args()
    readers = {name: reader for name, reader in all_readers().items() if given.only in name}
    counts: Counter[tuple[str, str]] = Counter()
    faults: dict[str, str] = {}
    end = time.monotonic() + 60 * given.minutes
    with BoundedProcess() as process, tempfile.TemporaryDirectory() as scratch:
        valid = {name: Path(scratch) / f"valid {number}" for number, name in enumerate(readers)}
        for name, reader in readers.items():
            valid[name].mkdir()
            reader.prepare(valid[name])
        case = Path(scratch) / "case" / "input"
        case.parent.mkdir()
        seed = given.seed * 10**9
        while time.monotonic() < end:
            seed += 1
            random = Random(seed)
            name = random.choice(list(readers))
            shutil.copytree(valid[name], case)
            damage(case / random.choice(readers[name].files), random)
            shutil.copytree(case, case.parent.parent / "copy")
            outcome = process.outcome(name, case)
            counts[name.split()[0], outcome.kind] += 1
            if given.show:
                print(f"{outcome.kind}: {outcome.text}")
            last = outcome.text.strip().splitlines()[-1:] + [line for line in outcome.text.splitlines() if line.startswith("  File")][-1:]
            if outcome.kind == "fault" and (what := " ".join(last)[:600]) not in faults:
                faults[what] = f"{name}, seed {seed}"
                print(f"--- {name}, seed {seed}\n{outcome.text}", flush=True)
                if given.keep:
                    shutil.copytree(case.parent.parent / "copy", given.keep / f"{name} {seed}")
            shutil.rmtree(case)
            shutil.rmtree(case.parent.parent / "copy")
    for (name, kind), count in sorted(counts.items()):
        print(f"{name:12} {kind:8} {count}")
    total = Counter(kind for (_, kind), count in counts.items() for _ in range(count))
    print(f"{sum(total.values())} inputs: {dict(total)}; {len(faults)} different faults")


if __name__ == "__main__":
    main()
