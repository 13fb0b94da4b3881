"""The training loop: AdamW over windows of a text, with whatever attention the model has at the moment."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from xmsim.configs.errors import XmsimError
from xmsim.workloads.models.loading import LoadedModel, ModelError
from xmsim.workloads.tuning.recipe import StepsConfig
from xmsim.workloads.tuning.text import TokenIds, Windows


class TuningLoop:
    """Steps of AdamW on every parameter of a model that requires a gradient."""

    rate_option = "--rate"  # what a user lowers when a step fails

    def __init__(self, loaded: LoadedModel, windows: Windows, recipe: StepsConfig, *, seed: int) -> None:
        import torch

        self.parameters = {name: parameter for name, parameter in loaded.model.named_parameters() if parameter.requires_grad}
        matrices = [parameter for parameter in self.parameters.values() if parameter.ndim >= 2]
        others = [parameter for parameter in self.parameters.values() if parameter.ndim < 2]  # biases and gains do not decay
        groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=recipe.rate, betas=recipe.betas)
        self._loaded, self._windows, self._recipe, self._seed = loaded, windows, recipe, seed
        if recipe.gradient_checkpointing:
            _recompute_layers(loaded.model)

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self._windows.steps

    def step(self, number: int) -> float:
        """Do one step, counted from 0; gives its mean loss in nats a token.

        The windows pass one by one: memory is that of one, and a window's mask depends on no other (low-bit prediction has
        one scale for all that passes at once).

        Raises:
            ModelError: the model, its loss or its gradient is NaN or infinite.
        """
        import torch

        try:
            loss = self._accumulate_gradients(number)
        except XmsimError as error:  # an attached method finds out first
            raise self._lost(number, str(error)) from error
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters.values(), self._recipe.clip))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise self._lost(number, f"the loss is {loss:.4g} and the norm of its gradient {norm:.4g}")
        for group in self.optimizer.param_groups:
            group["lr"] = self._recipe.rate * rate_share(number, self._windows.steps, self._recipe.warm_up)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss

    def _accumulate_gradients(self, number: int) -> float:
        import torch

        windows = self._windows.at(number)
        tokens = predicted_tokens(windows)
        loss = 0.0
        self._loaded.model.train()
        with torch.random.fork_rng():
            torch.manual_seed(int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0]))  # dropout
            for window in windows:
                part = window_loss(self._loaded.model, window, self._recipe.dtype) / tokens
                part.backward()
                loss += part.item()
        return loss

    def _lost(self, number: int, fact: str) -> ModelError:
        return ModelError(
            f"{self._loaded.name}: tuning cannot go on with step {number + 1}, {fact}; use a {self.rate_option} below {self._recipe.rate:g}"
        )


def _recompute_layers(model: Any) -> None:
    """In training, keep the inputs of layers only."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # transformers 5.23 knows a new name for it, 5.17 does not
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def rate_share(step: int, steps: int, warm_up: float) -> float:
    """The learning rate of a step, counted from 0, as a share of the highest: linear up, then linear down, never 0."""
    rising = math.ceil(warm_up * steps)
    return (step + 1) / rising if step < rising else (steps - step) / (steps - rising)


def window_losses(loaded: LoadedModel, windows: Sequence[TokenIds], dtype: str) -> tuple[float, ...]:
    """Mean loss of each window, in nats a token; nothing is tuned."""
    import torch

    loaded.model.eval()
    with torch.no_grad():
        return tuple(window_loss(loaded.model, window, dtype).item() / predicted_tokens([window]) for window in windows)


def window_loss(model: Any, window: TokenIds, dtype: str) -> Any:
    """Summed cross entropy of all tokens but the first, a float32 torch tensor; `dtype` is that of the computation."""
    import torch

    ids = torch.from_numpy(window).to(model.device)
    with torch.autocast(ids.device.type, dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
        logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1]
    return torch.nn.functional.cross_entropy(logits.float(), ids[1:], reduction="sum")


def predicted_tokens(windows: Sequence[TokenIds]) -> int:
    """Tokens whose loss counts."""
    return sum(len(window) - 1 for window in windows)
