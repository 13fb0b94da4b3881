"""The tables of an export of Nsight Systems."""

from __future__ import annotations

from pathlib import Path

_ROWS = 12


def print_nsys(path: Path) -> None:
    """Read an export and print its tokens and its longest kernels."""
    from rich.table import Table

    from xmsim.cli.tables import table_console
    from xmsim.workloads.measuring.nsys_export import read_nsys

    profile = read_nsys(path)
    console = table_console()
    if profile.tokens:
        tokens = Table(title=f"{path.name}: decoded tokens, medians", box=None, padding=(0, 1, 0, 0))
        for heading in ("layers", "tokens", "host ms", "kernels ms", "launches"):
            tokens.add_column(heading, justify="left" if heading == "layers" else "right")
        for token in profile.tokens:
            numbers = f"{token.span_ms:.3f}", f"{token.kernel_ms:.3f}", f"{token.launches:g}"
            tokens.add_row(token.name or "all", str(token.tokens), *numbers)
        console.print(tokens)
    kernels = Table(title=f"{path.name}: kernels of counted rounds", box=None, padding=(0, 1, 0, 0))
    for heading in ("kernel", "calls", "total ms", "share"):
        kernels.add_column(heading, justify="left" if heading == "kernel" else "right")
    for kernel in profile.kernels[:_ROWS]:
        kernels.add_row(kernel.name, str(kernel.calls), f"{kernel.total_ms:.3f}", f"{100 * kernel.share:.1f} %")
    if rest := profile.kernels[_ROWS:]:
        calls, total_ms = sum(kernel.calls for kernel in rest), sum(kernel.total_ms for kernel in rest)
        kernels.add_row(f"{len(rest)} others", str(calls), f"{total_ms:.3f}", f"{100 * sum(kernel.share for kernel in rest):.1f} %")
    console.print(kernels)
