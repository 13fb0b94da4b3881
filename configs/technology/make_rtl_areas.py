"""Make rtl_areas.csv from the committed areas of our own RTL: python configs/technology/make_rtl_areas.py

Every row of logic.yaml that has a synthesised unit gets that unit's area over the 16-bit multiply-accumulate unit's; the reader of the
tables takes it as one more source of the row's area. Left out are the yardstick itself, multipliers without a sum and floating point, of
which there is no unit, and registers, whose row is the cell itself in two libraries of 45 nm.
"""

from __future__ import annotations

import csv
import json
from math import prod
from pathlib import Path

FOLDER = Path(__file__).parent
AREAS = FOLDER.parents[1] / "reports" / "measured" / "rtl_areas_osu018.json"
COLUMNS = ("component", "bits", "of_mac_16_bit", "units")

UNITS: dict[tuple[str, int], dict[str, int]] = {  # {(component, bits): {unit: instances of the row in it}}
    **{("adder", bits): {f"adder_{bits}_bit": 1} for bits in (8, 16, 32)},
    **{("comparator", bits): {f"comparator_{bits}_bit": 1} for bits in (8, 16, 32)},
    **{("integer_mac", bits): {f"mac_{bits}_bit": 1} for bits in (4, 6, 8)},
    ("mux", 1): {f"word_select_{words}_of_16_bit": (words - 1) * 16 for words in (32, 64)},
    ("exp_unit", 16): {"two_way_exp_16_bit": 1},
    ("exp_unit", 24): {"two_way_exp_24_bit": 1},
    ("divider", 16): {"psum_softmax_16_bit": 1},  # with an adder besides
    ("top_k_cell", 16): {f"top_k_stage_16_bit_of_{block}": 1 for block in (32, 64)},
}


def rtl_areas(record: dict[str, list[dict[str, float | str]]]) -> list[tuple[str, int, str, str]]:
    """Rows of the table; of several units the geometric mean."""
    areas = {str(unit["name"]): float(unit["area_of_yardstick"]) for unit in record["units"]}
    rows = []
    for (component, bits), units in UNITS.items():
        ratios = [areas[name] / instances for name, instances in units.items()]
        rows.append((component, bits, f"{prod(ratios) ** (1 / len(ratios)):.4g}", " ".join(units)))
    return rows


if __name__ == "__main__":
    path = FOLDER / "rtl_areas.csv"
    rows = rtl_areas(json.loads(AREAS.read_text(encoding="utf-8")))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    print(f"{len(rows)} rows  {path}")
