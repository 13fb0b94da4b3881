"""Synthesise the units with yosys against a Liberty file, and write their areas: python -m xmsim.accel_models.rtl.synthesise LIBERTY RECORD

The Liberty file of the committed record is that of Debian's qflow-tech-osu018: apt-get install yosys qflow-tech-osu018. Its node is old, so
areas are for comparing units with each other. The same yosys and the same Liberty file give the same record on any host.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from xmsim.configs.errors import XmsimError
from xmsim.configs.record import write_record

AREAS_FORMAT, AREAS_VERSION = "areas", 1
FOLDER = Path(__file__).parent
YARDSTICK = "mac_16_bit"  # other areas are given as multiples of this unit's
# many rounds of area recovery in the mapping: with the default ones areas jump by 15 % from one word width to the next
MAPPING = "+strash;ifraig;scorr;dc2;strash;&get,-n;&dch,-f;&nf,-R,100;&put"
SCRIPT = (
    "read_verilog {module}.v; chparam{parameters} {module}; hierarchy -libdir . -top {module}; synth -flatten -top {module}; "
    f"dfflibmap -liberty {{liberty}}; abc -liberty {{liberty}} -script {MAPPING}; opt_clean; "
    "tee -q -o {out}/cells.json stat -json; tee -q -o {out}/area.txt stat -liberty {liberty}"
)


class SynthesisError(XmsimError):
    """yosys is missing, or cannot synthesise with this Liberty file."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A module of this folder at one size."""

    name: str
    module: str
    parameters: dict[str, int]


@dataclass(frozen=True, slots=True)
class UnitArea:
    """What a unit is made of. The area is that of its cells: no wires, no clock tree, no utilisation below 1."""

    name: str
    module: str
    parameters: dict[str, int]
    area_um2: float
    cells: int
    flip_flops: int


UNITS = {
    unit.name: unit
    for unit in (
        Unit("mac_4_bit", "multiply_accumulate", {"OPERAND_BITS": 4, "SUM_BITS": 16}),
        Unit("mac_6_bit", "multiply_accumulate", {"OPERAND_BITS": 6, "SUM_BITS": 16}),
        Unit("mac_8_bit", "multiply_accumulate", {"OPERAND_BITS": 8, "SUM_BITS": 32}),
        Unit(YARDSTICK, "multiply_accumulate", {"OPERAND_BITS": 16, "SUM_BITS": 40}),
        # partial sums as wide as 32 products need, the PEs of a row of DynaX-S and of DynaX-L
        Unit("predictor_pe_1_2_4_bit", "predictor_pe", {"GROUP": 2, "OPERAND_BITS": 4, "SUM_BITS": 13}),
        Unit("predictor_pe_1_4_6_bit", "predictor_pe", {"GROUP": 4, "OPERAND_BITS": 6, "SUM_BITS": 17}),
        Unit("predictor_comparator_1_2_4_bit", "predictor_comparator", {"GROUP": 2, "OPERAND_BITS": 4}),
        Unit("predictor_comparator_1_4_6_bit", "predictor_comparator", {"GROUP": 4, "OPERAND_BITS": 6}),
        Unit("predictor_row_end_16_bit", "predictor_row_end", {"PSUM_BITS": 13, "APPEND": 0, "BITS": 16, "POINT": 8}),
        Unit("reconfigurable_pe_32_keys_16_bit", "reconfigurable_pe", {"KEYS": 32, "BITS": 16, "POINT": 8}),
        Unit("reconfigurable_pe_64_keys_16_bit", "reconfigurable_pe", {"KEYS": 64, "BITS": 16, "POINT": 8}),
        Unit("reconfigurable_pe_32_keys_24_bit", "reconfigurable_pe", {"KEYS": 32, "BITS": 24, "POINT": 12}),
        Unit("reconfigurable_pe_64_keys_24_bit", "reconfigurable_pe", {"KEYS": 64, "BITS": 24, "POINT": 12}),
        Unit("top_k_stage_16_bit_of_32", "top_k_stage", {"DATA_BITS": 16, "INDEX_BITS": 5}),
        Unit("top_k_stage_16_bit_of_64", "top_k_stage", {"DATA_BITS": 16, "INDEX_BITS": 6}),
        Unit("shift_exp_16_bit", "shift_exp", {"BITS": 16, "POINT": 8}),
        Unit("shift_exp_24_bit", "shift_exp", {"BITS": 24, "POINT": 12}),
        Unit("two_way_exp_16_bit", "two_way_exp", {"INPUT_BITS": 16, "BITS": 16, "POINT": 8}),
        Unit("two_way_exp_24_bit", "two_way_exp", {"INPUT_BITS": 24, "BITS": 24, "POINT": 12}),
        Unit("psum_softmax_16_bit", "psum_softmax", {"BITS": 16, "POINT": 8}),
        Unit("word_select_32_of_16_bit", "word_select", {"WORDS": 32, "BITS": 16}),
        Unit("word_select_64_of_16_bit", "word_select", {"WORDS": 64, "BITS": 16}),
        *(Unit(f"adder_{bits}_bit", "adder", {"BITS": bits}) for bits in (8, 16, 32)),
        *(Unit(f"comparator_{bits}_bit", "comparator", {"BITS": bits}) for bits in (8, 16, 32)),
    )
}


def synthesise(unit: Unit, liberty: Path) -> UnitArea:
    """Map a unit to the cells of a Liberty file.

    Raises:
        SynthesisError: yosys is not installed, or fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        parameters = "".join(f" -set {name} {value}" for name, value in unit.parameters.items())
        script = SCRIPT.format(module=unit.module, parameters=parameters, liberty=liberty.resolve(), out=out)
        _yosys("-q", "-p", script)
        by_type = json.loads((out / "cells.json").read_text(encoding="utf-8"))["design"]["num_cells_by_type"]
        area = re.search(r"Chip area for .*: ([\d.]+)", (out / "area.txt").read_text(encoding="utf-8"))
    unmapped = sorted(set(by_type) - _cells(liberty))
    if area is None or unmapped:
        raise SynthesisError(
            f"{liberty}: no cells for {', '.join(unmapped) or unit.name}; use a Liberty file with flip-flops, gates and areas"
        )
    flip_flops = _cells(liberty, r"\bff\s*\(")
    return UnitArea(
        **asdict(unit),
        area_um2=float(area[1]),
        cells=sum(by_type.values()),
        flip_flops=sum(count for cell, count in by_type.items() if cell in flip_flops),
    )


def yosys_version() -> str:
    """The version of the yosys on the path, e.g. 0.23.

    Raises:
        SynthesisError: there is none.
    """
    return _yosys("-V").split()[1]


def record_areas(units: list[Unit], liberty: Path, path: Path) -> None:
    """Synthesise units, the yardstick among them, and write their areas.

    Raises:
        SynthesisError: as `synthesise` does.
    """
    version = yosys_version()
    areas = [synthesise(unit, liberty) for unit in units]
    yardstick = next(area.area_um2 for area in areas if area.name == YARDSTICK)
    body = {
        "command": f"python -m xmsim.accel_models.rtl.synthesise {liberty.name} {path.name}",
        "yosys": version,
        "yosys_script": SCRIPT,
        "liberty": {"file": liberty.name, "sha256": hashlib.sha256(liberty.read_bytes()).hexdigest()},
        "yardstick": YARDSTICK,
        "units": [asdict(area) | {"area_of_yardstick": round(area.area_um2 / yardstick, 4)} for area in areas],
    }
    write_record(path, AREAS_FORMAT, AREAS_VERSION, body)


def _yosys(*arguments: str) -> str:
    try:
        # run beside the sources: their names become names of cells, and the mapping depends on these
        return subprocess.run(["yosys", *arguments], check=True, capture_output=True, text=True, cwd=FOLDER).stdout
    except FileNotFoundError as error:
        raise SynthesisError("yosys is not installed; install it, e.g. with apt-get install yosys") from error
    except subprocess.CalledProcessError as error:
        raise SynthesisError(f"yosys: {error.stderr.strip() or error.stdout.strip()}") from error


def _cells(liberty: Path, holding: str = "") -> set[str]:
    """Names of the cells of a Liberty file whose description holds a pattern."""
    cells = re.split(r"\bcell\s*\(\s*\"?(\w+)\"?\s*\)", liberty.read_text(encoding="utf-8"))[1:]
    return {name for name, text in zip(cells[::2], cells[1::2], strict=True) if re.search(holding, text)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("liberty", type=Path)
    parser.add_argument("record", type=Path)
    args = parser.parse_args()
    try:
        if not args.liberty.is_file():
            raise SynthesisError(f"{args.liberty}: no such Liberty file; Debian's qflow-tech-osu018 installs osu018_stdcells.lib")
        record_areas(list(UNITS.values()), args.liberty, args.record)
    except XmsimError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
