"""Area and energy of logic from one process node to another, by two methods; their spread is part of every estimate.

SRAM is not scaled by these (its grid has nodes of its own), and DRAM is not scaled at all.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from math import sqrt
from typing import NamedTuple

from xmsim.configs.costs import Bar
from xmsim.configs.errors import ConfigError

# Source: Stillmaker & Baas, Integration 58 (2017), high-performance rows below 65 nm; area from 45 nm, energy a·V² + b·V + c.
# The 32 nm row is that of the authors' erratum (0.4571 at 0.9 V); hwcomponents has another one, 18 % higher there.
AREA_FROM_45 = {65: 1.5, 45: 1.0, 32: 0.46, 20: 0.21, 16: 0.19, 14: 0.17, 10: 0.10, 7: 0.059}
ENERGY = {
    65: (3.755, -4.398, 1.975),
    45: (1.018, -0.3107, 0.1539),
    32: (0.8367, -0.4341, 0.1701),
    20: (0.373, -0.1582, 0.04104),
    16: (0.2958, -0.1241, 0.03024),
    14: (0.2363, -0.09675, 0.02239),
    10: (0.2068, -0.09311, 0.02375),
    7: (0.1776, -0.09097, 0.02447),
}


class Operation(NamedTuple):
    """A process node at a supply voltage."""

    node_nm: float
    voltage_v: float


def stillmaker_baas_area(source_nm: float, target_nm: float) -> float:
    """Ratio of areas; a node without a row is interpolated linearly in nm.

    Raises:
        ConfigError: a node outside of 7 to 65 nm.
    """
    rows = {node: (area,) for node, area in AREA_FROM_45.items()}
    return _row(rows, target_nm)[0] / _row(rows, source_nm)[0]


def stillmaker_baas_energy(source: Operation, target: Operation) -> float:
    """Ratio of energies per operation; raises as `stillmaker_baas_area`."""
    return stillmaker_baas_energy_factor(target) / stillmaker_baas_energy_factor(source)


def stillmaker_baas_energy_factor(at: Operation) -> float:
    """Energy on the authors' scale; raises as `stillmaker_baas_area`."""
    a, b, c = _row(ENERGY, at.node_nm)
    return a * at.voltage_v**2 + b * at.voltage_v + c


def classical_area(source_nm: float, target_nm: float) -> float:
    """Ratio of areas if every length shrinks with the node. Source: Dennard et al. (1974)."""
    return (target_nm / source_nm) ** 2


def classical_energy(source: Operation, target: Operation) -> float:
    """Ratio of energies if capacitance shrinks with the node: C·V². Source: Dennard et al. (1974)."""
    return target.node_nm * target.voltage_v**2 / (source.node_nm * source.voltage_v**2)


def area_ratio(source_nm: float, target_nm: float) -> Bar:
    """Both methods as limits, their geometric mean as nominal; raises as `stillmaker_baas_area`."""
    return _spread(stillmaker_baas_area(source_nm, target_nm), classical_area(source_nm, target_nm))


def energy_ratio(source: Operation, target: Operation) -> Bar:
    """Both methods as limits, their geometric mean as nominal; raises as `stillmaker_baas_area`."""
    return _spread(stillmaker_baas_energy(source, target), classical_energy(source, target))


def _spread(one: float, other: float) -> Bar:
    return Bar(min(one, other), sqrt(one * other), max(one, other))


def _row(rows: Mapping[int, tuple[float, ...]], node_nm: float) -> tuple[float, ...]:
    nodes = sorted(rows)
    if not nodes[0] <= node_nm <= nodes[-1]:
        raise ConfigError(f"technology.node_nm: {node_nm:g} nm lies outside of {nodes[0]} to {nodes[-1]} nm, which can be scaled")
    above = bisect_left(nodes, node_nm)
    if nodes[above] == node_nm:
        return rows[nodes[above]]
    low, high = nodes[above - 1], nodes[above]
    share = (node_nm - low) / (high - low)
    return tuple(a + share * (b - a) for a, b in zip(rows[low], rows[high], strict=True))
