"""xmsim calibrate: what this host's processor takes for single steps, and what its model then predicts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from xmsim.workloads.measuring.calibration.record import CalibrationRecord


def calibrate(
    out: Annotated[Path | None, typer.Option(help="The calibration file; with --predict a folder.")] = None,
    threads: Annotated[str | None, typer.Option(help="Numbers of threads, e.g. 1,2; one and all cores by default.")] = None,
    predict: Annotated[
        list[Path] | None, typer.Option(help="Measured kernels (host check, benchmark, generation) to predict instead.")
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="With --predict: constants, a calibration file or a stated CPU; those of the record by default.")
    ] = None,
) -> None:
    """Time single steps of this processor, its memory and torch, in a minute; or hold a model made of them against measured kernels."""
    if predict:
        _predict(predict, host, out or Path("cross-check"))
    else:
        _calibrate(threads, out or Path("host.json"))


def _calibrate(threads: str | None, out: Path) -> None:
    from xmsim.cli.tables import table_console
    from xmsim.configs.errors import XmsimError
    from xmsim.configs.files import check_writable
    from xmsim.workloads.measuring.calibration.calibrate import calibrate as measure_constants
    from xmsim.workloads.measuring.calibration.calibrate import unsteady
    from xmsim.workloads.measuring.calibration.record import write_calibration

    try:
        counts = tuple(int(part) for part in threads.split(",")) if threads else None
    except ValueError as error:
        raise XmsimError(f"--threads {threads}: numbers with commas between them are needed, e.g. 1,2") from error
    check_writable(out)
    record = measure_constants(counts)
    write_calibration(out, record)
    console = table_console()
    console.print(constants_table(record))
    if noisy := unsteady(record):
        console.print(
            f"{len(noisy)} of {len(record.constants)} constants spread over more than a fifth (marked ~): other programs run here, "
            "predictions from them are not to be trusted; calibrate again when the host is quiet",
            highlight=False,
        )
    console.print(f"wrote {out}", highlight=False)


def constants_table(record: CalibrationRecord) -> Table:
    """One row per constant: median, quartiles, samples; lines that are read also as GB/s of all threads."""
    from rich.table import Table

    from xmsim.workloads.measuring.calibration.calibrate import unsteady

    noisy = {id(one) for one in unsteady(record)}
    host = record.host
    table = Table(title=f"Constants of {host.cpu}, {host.cores} cores, {host.system} (measured)", box=None, padding=(0, 1, 0, 0))
    for name in ("step", "of", "threads", "per", "median (q1–q3) ns", "n", "GB/s"):
        table.add_column(name, justify="left" if name in ("step", "of", "per") else "right")
    for one in record.constants:
        of = {key: value for key, value in one.of.items() if key != "threads"}
        count = one.of.get("threads", 1)
        rate = f"{64 * count / one.median_ns:.1f}" if one.per == "64-byte line" else ""
        spread = f"{one.median_ns:.4g} ({one.first_quartile_ns:.4g}–{one.third_quartile_ns:.4g}){' ~' if id(one) in noisy else ''}"
        of_text = ", ".join(str(value) if isinstance(value, str) else f"{key} {value}" for key, value in of.items())
        table.add_row(one.name, of_text, str(count), one.per, spread, str(one.n), rate)
    return table


def _predict(records: list[Path], host: str | None, out: Path) -> None:
    from xmsim.accel_models.host.cross_check import cross_check
    from xmsim.cli.tables import table_console
    from xmsim.reports.cross_check import accuracies, coverage, write_report
    from xmsim.workloads.measuring.host_check_record import write_cross_check

    found = cross_check(records, host)
    written = [*write_report(found, out), out / "cross_check.json"]
    write_cross_check(written[-1], found)
    console = table_console()
    for row in accuracies(found):
        console.print(str(row), highlight=False)
    console.print(f"coverage {100 * coverage(found):.0f} % of the measured series", highlight=False)
    for path in written:
        console.print(f"wrote {path}", highlight=False)
