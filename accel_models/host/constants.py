"""A host's constants by name: from `xmsim calibrate`, or stated in a YAML file of configs/hosts with a source for each."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pydantic

from xmsim.configs.errors import ConfigError, XmsimError
from xmsim.configs.schema import Config, PositiveFloat, PositiveInt, check_config
from xmsim.configs.shipped import find_config
from xmsim.configs.yaml_file import YamlDocument, read_yaml
from xmsim.workloads.measuring.calibration.core_rates import OVERLAP_GROUPS
from xmsim.workloads.measuring.calibration.record import CalibrationRecord, read_calibration

FOLDER = "hosts"
LINE_BYTES = 64
MEMORY = "memory"
SHARPEST, SOFTEST = 8.0, 1.0  # of the knee between two things done at once: what lies beyond cannot be told from them

Key = tuple[str, tuple[tuple[str, Any], ...]]


class MissingConstantError(XmsimError):
    """The host's constants do not say what a step takes."""


class StatedConstant(Config):
    """One constant of a host that was not calibrated."""

    name: str
    of: dict[str, str | int] = pydantic.Field(default_factory=dict)
    per: str
    ns: PositiveFloat
    source: str


class StatedCpu(Config):
    """A processor whose constants come from documents."""

    kind: str = pydantic.Field(pattern="^cpu$")
    cache_bytes: dict[str, PositiveInt]
    sharpness: PositiveFloat  # how well memory hides behind products; see `overlapped_ns`
    sharpness_source: str
    constants: tuple[StatedConstant, ...]


@dataclass(frozen=True, slots=True)
class HostConstants:
    """Nanoseconds of each step, for one thread of those that do it at once."""

    name: str
    validated: bool  # measured on a host, not stated
    cache_bytes: dict[str, int]
    steps_ns: dict[Key, float]
    stated_sharpness: float | None = None  # None: told from the steps
    memory_drift: float = 1.0  # how many times as long a line from memory takes now as it did in the steps' minute

    @classmethod
    def of_calibration(cls, record: CalibrationRecord, name: str = "this host") -> HostConstants:
        """Medians of a calibration."""
        return cls(name, True, record.cache_bytes, {_key(one.name, one.of): one.median_ns for one in record.constants})

    def ns(self, name: str, **of: Any) -> float:
        """One step. With `threads` for which it is not known, that of the next smaller number is taken.

        Raises:
            MissingConstantError: the host has no such constant.
        """
        threads = of.get("threads", 0)
        for fewer in range(threads, -1, -1):
            found = self.steps_ns.get(_key(name, of | {"threads": fewer} if threads else of))
            if found is not None:
                return found
        said = ", ".join(f"{key} {value}" for key, value in of.items())
        raise MissingConstantError(
            f"{self.name}: no constant {name} ({said}); calibrate again with this xmsim, or state it in the host's file"
        )

    def has(self, name: str) -> bool:
        """Whether there is any constant of that name."""
        return any(known == name for known, _ in self.steps_ns)

    def sharpness(self, threads: int) -> float:
        """How well reading from memory hides behind products: p of `overlapped_ns`, from rows that were read from memory and multiplied.

        Told from that of 1, 4 and 8 tokens a row whose products take most nearly as long as reading: where one is far shorter, its end
        is hidden behind any knee. A softer knee than a sum, or a sharper one than can be told, is cut off.
        """
        if self.stated_sharpness is not None:
            return self.stated_sharpness
        read = self.ns("read", **{"from": MEMORY, "threads": threads})
        rows = {"element": "bfloat16", "stored": "whole", "words": "many", "threads": threads}
        products = {group: self.ns("row", **rows, group=group, **{"from": "l1"}) for group in OVERLAP_GROUPS}
        group = min(products, key=lambda size: abs(math.log(products[size] / read)))
        together = self.ns("row", **rows, group=group, **{"from": MEMORY})
        longer, shorter = max(read, products[group]), min(read, products[group])
        soft, sharp = SOFTEST, SHARPEST
        for _ in range(40):  # the knee's time falls with its sharpness
            middle = (soft + sharp) / 2
            if longer * (1 + (shorter / longer) ** middle) ** (1 / middle) > together:
                soft = middle
            else:
                sharp = middle
        return soft

    def call_ns(self, of: str, passed_bytes: float = 0.0) -> float:
        """What a call costs before its work: more where so many bytes, since the last one, have driven its code out of the caches."""
        return self.ns("call", of=of, **{"from": "l3" if passed_bytes <= self.cache_bytes["l3"] else MEMORY})

    def drifted(self, *, core: float, memory_line_ns: float, threads: int) -> HostConstants:
        """The same host at another minute, for so many threads: steps of the core take `core` times as long, and a line from memory
        `memory_line_ns`. What else comes from memory drifts with it, but for chunks: most of their time are products (see `cpu_linear`).
        """
        drift = memory_line_ns / self.ns("read", **{"from": MEMORY, "threads": threads})

        def now(key: Key, ns: float) -> float:
            return ns * (drift if dict(key[1]).get("from") == MEMORY and key[0] != "chunk" else core)

        steps = {key: now(key, ns) for key, ns in self.steps_ns.items()}
        # how well one hides behind the other is told from steps of one minute
        sharpness = self.sharpness(threads) if self.has("row") else self.stated_sharpness
        return replace(self, steps_ns=steps, stated_sharpness=sharpness, memory_drift=drift)


def load_host(name_or_path: str | Path) -> HostConstants:
    """A calibration (.json), a YAML file, or the name of a shipped CPU.

    Raises:
        RecordError, ConfigError: the file is neither, or wrong.
    """
    if Path(name_or_path).suffix == ".json":
        return HostConstants.of_calibration(read_calibration(Path(name_or_path)), Path(name_or_path).stem)
    path = find_config(FOLDER, name_or_path, "host")
    stated = check_config(host_document(path, "cpu"), StatedCpu)
    steps = {_key(one.name, one.of): one.ns for one in stated.constants}
    return HostConstants(path.stem, False, stated.cache_bytes, steps, stated.sharpness)


def host_document(path: Path, kind: str) -> YamlDocument:
    """The YAML file of a host of this kind, cpu or gpu.

    Raises:
        ConfigError: it is of another kind.
    """
    document = read_yaml(path)
    if document.data.get("kind") != kind:
        raise ConfigError(f"{path}: this host is {document.data.get('kind', 'of no kind')}, a {kind} is needed here; give another file")
    return document


def _key(name: str, of: dict[str, Any]) -> Key:
    return name, tuple(sorted(of.items()))
