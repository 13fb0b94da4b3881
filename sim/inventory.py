"""What a machine is made of: parts and memories of each unit, and which of them an action of the unit uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

WIDEST_PORT_BITS = 512  # a wider one is several macros side by side (assumed, as are the two below)
LARGEST_BANK_BYTES = 131072
MOST_BANKS = 4  # of a macro


@dataclass(frozen=True, slots=True)
class Part:
    """Instances of one component of the logic table.

    `uses` says how often an action of the unit has one instance work: {action: operations}.
    """

    unit: str  # as in the machine's actions
    component: str  # of configs/technology/logic.yaml
    bits: int
    instances: int
    uses: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Access:
    """Bytes that an action of a unit reads from or writes to a memory."""

    unit: str
    action: str
    read_bytes: float
    write_bytes: float


@dataclass(frozen=True, slots=True)
class Memory:
    """SRAM with one port: macros side by side share its width, groups of them its depth; of the groups one works at a time."""

    unit: str
    macros: int
    groups: int
    banks: int  # of a macro
    bank_bytes: int
    port_bits: int  # of a macro
    accesses: tuple[Access, ...]
    size_known: bool = True  # False: of no published size, a guess whose bar area and leakage carry

    @classmethod
    def of_width(
        cls, unit: str, capacity_bytes: int, port_bits: int, accesses: tuple[Access, ...] = (), *, size_known: bool = True
    ) -> Self:
        """A memory that gives or takes `port_bits` in a cycle; its own actions are read_bytes and write_bytes, unless others are named."""
        macros = -(-port_bits // WIDEST_PORT_BITS)
        column_bytes = -(-capacity_bytes // macros)
        banks = min(MOST_BANKS, -(-column_bytes // LARGEST_BANK_BYTES))
        groups = -(-column_bytes // (banks * LARGEST_BANK_BYTES))
        own = (Access(unit, "read_bytes", 1, 0), Access(unit, "write_bytes", 0, 1))
        return cls(unit, macros, groups, banks, -(-column_bytes // (groups * banks)), -(-port_bits // macros), accesses or own, size_known)


@dataclass(frozen=True, slots=True)
class ComponentCounts:
    """All of a machine but its DRAM."""

    parts: tuple[Part, ...]
    memories: tuple[Memory, ...] = field(default=())


def registers(unit: str, bits: int, uses: Mapping[str, float]) -> Part:
    """Flip-flops; `uses` counts bits that take a value in an action."""
    return Part(unit, "register", 1, bits, uses)


def selector(unit: str, inputs: int, bits: int, instances: int, action: str) -> Part:
    """Selectors of one of `inputs` words; an action switches the levels of one tree."""
    return Part(unit, "mux", 1, instances * (inputs - 1) * bits, {action: bits * (inputs - 1).bit_length()})
