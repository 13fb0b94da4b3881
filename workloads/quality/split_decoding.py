"""How long a decoded token takes on layers that skip zeros of weights and of inputs, beside torch's dense layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from xmsim.workloads.measurement import Timing
from xmsim.workloads.measuring.decode_timing import check_decoding, tpot_in_turn_ms
from xmsim.workloads.measuring.linear_variants import SPDP, TORCH, LinearVariants


@dataclass(frozen=True, slots=True)
class DecodingPlan:
    """What is generated, as for `tpot_ms`; SPDP's authors use 32 and 256 tokens, 5 rounds of warm-up and 15 that count."""

    input_tokens: int = 32
    new_tokens: int = 32
    warmup: int = 1
    repeat: int = 5


class Decoding:
    """A model with its linear layers on torch and on the spdp kernel; torch's are in place between timings."""

    def __init__(self, model: Any, plan: DecodingPlan) -> None:
        """Args: model: a causal language model on the CPU; its linear layers are exchanged for good.

        Raises: XmsimError: too few tokens or rounds, or more tokens than the model reads.
        """
        check_decoding(model, **asdict(plan))
        self._model, self._plan = model, plan
        self._variants = LinearVariants(model, (TORCH, SPDP), sparsity=None)

    def times(self, thresholds: Mapping[str, float]) -> tuple[Timing, Timing]:
        """Time of a decoded token on spdp, and on torch in the same rounds: medians of rounds.

        Args:
            thresholds: of each layer's inputs, below which spdp skips them; 0 where there is none.
        """
        for name, layer in self._variants.layers[SPDP].items():
            layer.threshold = thresholds.get(name, 0.0)
        turns = {kernel: partial(self._variants.use, kernel) for kernel in (SPDP, TORCH)}  # torch's last, which thus stay
        found = tpot_in_turn_ms(self._model, turns, **asdict(self._plan))
        return found[SPDP], found[TORCH]
