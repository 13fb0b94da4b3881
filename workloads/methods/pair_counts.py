"""How many pairs a method keeps while a model runs."""

from __future__ import annotations

from dataclasses import astuple, dataclass

from xmsim.configs.densities import Densities
from xmsim.configs.errors import XmsimError


@dataclass(frozen=True, slots=True)
class PairCounts:
    """Pairs of a query and a key, padding left out, summed over whatever was run."""

    kept: int = 0  # over query heads
    allowed: int = 0  # those the dense model computes, over query heads
    pairs: int = 0  # queries × keys, over query heads
    kv_kept: int = 0  # those that any query head of a KV head keeps, over KV heads
    kv_allowed: int = 0  # over KV heads

    def __add__(self, other: PairCounts) -> PairCounts:
        return PairCounts(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    def densities(self) -> Densities:
        """The densities of all that was counted.

        Raises:
            XmsimError: nothing was.
        """
        if not self.allowed:
            raise XmsimError("no pairs were counted: run the model while the method is attached")
        return Densities(density=self.kept / self.allowed, full_density=self.kept / self.pairs, kv_density=self.kv_kept / self.kv_allowed)
