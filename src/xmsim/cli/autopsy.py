"""The stall autopsy: what every unit of a machine did in each of its cycles, in shares that add up to 100.0 %."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from xmsim.sim.result import LayerRun

BUSY = "busy"
TENTHS = 1000  # of a percent in the whole


def autopsy_table(title: str, runs: Sequence[LayerRun]) -> Table:
    """One row per unit: busy, stalled by cause and idle by reason, of its servers' cycles in these runs."""
    from rich import box
    from rich.table import Table

    accounts = {unit: unit_account(runs, unit) for unit in runs[0].result.servers}
    reasons = sorted({reason for account in accounts.values() for reason in account}, key=lambda reason: (reason != BUSY, reason))
    table = Table(title=f"{title}: % of each unit's cycles, simulated", box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("unit")
    for name in (*reasons, "all"):
        table.add_column(name.replace("_", " "), justify="right")
    for unit, account in accounts.items():
        shares = tenths_of_a_percent([account[reason] for reason in reasons])
        cells = [f"{share / 10:.1f}" if account[reason] else "" for reason, share in zip(reasons, shares, strict=True)]
        table.add_row(unit.replace("_", " "), *cells, f"{sum(shares) / 10:.1f}")
    return table


def unit_account(runs: Sequence[LayerRun], unit: str) -> Counter[str]:
    """Server-cycles of a unit by what it did; they add up to its servers × cycles."""
    account: Counter[str] = Counter()
    for run in runs:
        result = run.result
        account[BUSY] += result.busy[unit]
        account.update({f"stalled: {cause}": cycles for cause, cycles in result.stalls.get(unit, {}).items()})
        account.update({f"idle: {reason}": cycles for reason, cycles in result.idle.get(unit, {}).items()})
    return account


def tenths_of_a_percent(cycles: Sequence[int]) -> list[int]:
    """Shares of the sum in whole tenths of a percent that add up to 1000: rounded down, and the largest remainders up. Zeros of nothing."""
    whole = sum(cycles)
    if not whole:
        return [0] * len(cycles)
    shares = [TENTHS * part // whole for part in cycles]
    by_remainder = sorted(range(len(cycles)), key=lambda i: (-(TENTHS * cycles[i] % whole), i))
    for i in by_remainder[: TENTHS - sum(shares)]:
        shares[i] += 1
    return shares
