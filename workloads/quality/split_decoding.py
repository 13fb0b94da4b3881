"""How long a decoded token takes on layers that skip zeros of weights and of inputs, beside torch's dense layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from xmsim.configs.errors import XmsimError
from xmsim.workloads.measurement import Timing
from xmsim.workloads.measuring.generate_timing import time_generation
from xmsim.workloads.measuring.linear_variants import TORCH, LinearVariants

SPDP = "spdp"


@dataclass(frozen=True, slots=True)
class DecodingPlan:
    """What is generated; SPDP's authors use 32 and 256 tokens, 5 rounds of warm-up and 15 that count.

    Raises:
        XmsimError: too few tokens or rounds.
    """

    input_tokens: int = 32
    new_tokens: int = 32
    warmup: int = 1
    repeat: int = 5

    def __post_init__(self) -> None:
        for name, least in (("input_tokens", 1), ("new_tokens", 2), ("warmup", 0), ("repeat", 2)):
            if getattr(self, name) < least:
                raise XmsimError(f"{name}: {getattr(self, name)} is too few; choose at least {least}")


class Decoding:
    """A model with its linear layers on torch and on the spdp kernel; torch's are in place between timings."""

    def __init__(self, model: Any, plan: DecodingPlan) -> None:
        """Args: model: a causal language model on the CPU; its linear layers are exchanged for good.

        Raises: XmsimError: it does not read so many tokens.
        """
        import torch

        limit = getattr(model.config, "max_position_embeddings", None)
        if limit and plan.input_tokens + plan.new_tokens > limit:
            asked = f"{plan.input_tokens} + {plan.new_tokens} tokens"
            raise XmsimError(f"decoding is timed on {asked}, and this model has {limit} positions; leave --tpot out")
        self._model, self._plan = model, plan
        self._variants = LinearVariants(model, (TORCH, SPDP), sparsity=None)
        self._prompt = torch.randint(model.config.vocab_size, (1, plan.input_tokens), generator=torch.Generator().manual_seed(0))

    def times(self, thresholds: Mapping[str, float]) -> tuple[Timing, Timing]:
        """Time of a decoded token on spdp, and on torch in the same rounds.

        Args:
            thresholds: of each layer's inputs, below which spdp skips them; 0 where there is none.
        """
        for name, layer in self._variants.layers[SPDP].items():
            layer.threshold = thresholds.get(name, 0.0)
        plan = self._plan
        runs = time_generation(
            *(self._model, self._variants, self._prompt),
            new_tokens=plan.new_tokens,
            warmup=plan.warmup,
            repeat=plan.repeat,
            attention="sdpa",
        )
        self._variants.use(TORCH)
        found = {run.kernel: run.time_per_output_token for run in runs}
        return found[SPDP], found[TORCH]
