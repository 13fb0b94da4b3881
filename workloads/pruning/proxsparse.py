"""ProxSparse, end to end: train a model towards 2:4 and take, from the trained weights, which of the original ones stay."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xmsim.reference.weights import frozen_weight_gradient, prox_two_four, two_four_keep
from xmsim.reference.weights.checks import check_weight
from xmsim.workloads.extraction.extract import model_facts
from xmsim.workloads.models.loading import LoadedModel, ModelError
from xmsim.workloads.pruning.pattern import weight_matrix
from xmsim.workloads.pruning.proxsparse_preset import ProxSparseConfig, ProxSparsePreset
from xmsim.workloads.pruning.text import Calibration
from xmsim.workloads.tuning.checkpoint import Checkpoint, Progress
from xmsim.workloads.tuning.limits import check_trainable, full_memory_explained
from xmsim.workloads.tuning.loop import TuningLoop
from xmsim.workloads.tuning.resumable_steps import Watch, no_watch, resume, run_steps
from xmsim.workloads.tuning.text import TokenIds, Windows

_FULL_MEMORY = "use a smaller --ctx-len, or --lambda2 0, which needs no second copy of the weights"


@dataclass(frozen=True, slots=True, eq=False)
class ProxSparseMasks:
    """What a training towards 2:4 decided."""

    seconds: float
    settled_share: float  # of blocks of four in which training left at most two weights that are not zero
    _matrices: dict[str, Any]
    _checkpoint: Checkpoint[Progress]

    def keep(self, name: str) -> Any:
        """The mask of a layer for its original weight: bool tensor [out, in], True for two of each four; on the model's device."""
        return two_four_keep(self._matrices[name])

    def forget_training(self) -> None:
        """Delete the checkpoint, once the masks have been put to use."""
        self._checkpoint.delete()


def train_proxsparse(
    loaded: LoadedModel,
    layers: Mapping[str, Any],
    calibration: Calibration,
    preset: ProxSparsePreset,
    *,
    out: Path,
    seed: int = 0,
    watch: Watch = no_watch,
) -> ProxSparseMasks:
    """Train a model towards 2:4, step by step with the proximal operator, and decide which weights of each layer stay.

    The model itself is changed: every parameter is trained, as published, and all of that is let go. The masks are for the weights as they
    were before. An interrupted run goes on from its last checkpoint, in `<out>.training.part`, when it is called again with the same
    arguments, and ends as it would have: bit for bit on one CPU host with as many threads.

    Args:
        loaded: a causal language model, on any device, in the preset's `dtype`.
        layers: {name: linear module of that model (or GPT-2's Conv1D)}; the inputs of each are a multiple of four.
        calibration: as many samples, of such a length, as the preset says; each step takes the next of them.
        out: where the pruned model will be; nothing is written there.
        seed: of dropout.
        watch: called after each step.
    Raises:
        XmsimError: the model cannot be trained so or has a layer that cannot be 2:4, the loss is lost, or there is no room for a
            checkpoint.
    """
    config = preset.config
    check_trainable(loaded, config.length, asked_by=f"preset {preset.name}", option="--ctx-len")
    matrices = {name: weight_matrix(layer) for name, layer in layers.items()}
    _check_matrices(loaded.name, matrices)
    plan = {
        "model": model_facts(loaded).weights_sha256,
        "layers": list(layers),
        "text": calibration.facts.samples_sha256,
        "seed": seed,
        "device": loaded.model.device.type,
        **preset.parameters,
    }
    checkpoint = Checkpoint(out.with_name(f"{out.name}.training"), plan, Progress, name="ProxSparse training")
    with full_memory_explained(loaded.name, config.length, _FULL_MEMORY):
        loop = ProxSparseLoop(loaded, layers, SampleWindows(calibration.windows, batch=config.batch), config, seed=seed)
        progress = resume(loop, checkpoint, lambda: Progress(0.0, ()))
        watch(progress.steps, loop.steps, progress.losses[-1] if progress.losses else math.nan)
        progress = run_steps(loop, checkpoint, progress, watch)
    return ProxSparseMasks(progress.seconds, _settled_share(matrices), matrices, checkpoint)


class SampleWindows(Windows):
    """Windows that are known beforehand, each seen once."""

    def __init__(self, windows: Sequence[TokenIds], *, batch: int) -> None:
        self.steps = len(windows) // batch
        self._windows, self._batch = windows, batch

    def at(self, step: int) -> list[TokenIds]:
        return list(self._windows[step * self._batch : (step + 1) * self._batch])


class ProxSparseLoop(TuningLoop):
    """Steps of AdamW on every parameter of a model; after each of them the proximal operator on the matrices that become 2:4."""

    rate_option = "--lr"

    def __init__(self, loaded: LoadedModel, layers: Mapping[str, Any], windows: Windows, config: ProxSparseConfig, *, seed: int) -> None:
        """Args: layers: {name: linear module}, those that lambda 1 and 2 act on; their weights are the original ones now."""
        super().__init__(loaded, windows, config, seed=seed)
        self._config = config
        self._layers = layers
        self._originals = [layer.weight.detach().clone() for layer in layers.values()] if config.lambda2 else []

    def step(self, number: int) -> float:
        """Do one step, counted from 0; gives the model's mean loss in nats a token, penalty not included. Raises: as TuningLoop."""
        loss = super().step(number)
        for name, layer in self._layers.items():
            matrix = weight_matrix(layer)
            try:
                matrix.copy_(prox_two_four(matrix, self._config.lambda1))
            except ValueError as error:
                raise self._lost(number, f"after it {name} has this {error}") from error
        return loss

    def _accumulate_gradients(self, number: int) -> float:
        loss = super()._accumulate_gradients(number)
        for layer, original in zip(self._layers.values(), self._originals, strict=False):  # none where lambda 2 is 0
            gradient = frozen_weight_gradient(layer.weight.detach(), original, epsilon=self._config.epsilon)
            layer.weight.grad.add_(gradient, alpha=self._config.lambda2)
        return loss


def _check_matrices(model: str, matrices: Mapping[str, Any]) -> None:
    """What the masks would stumble over once the training is done."""
    for name, matrix in matrices.items():
        try:
            check_weight(matrix)
        except ValueError as error:
            raise ModelError(f"{model}, layer {name}: {error}") from error
        if matrix.shape[1] % 4:
            raise ModelError(f"{model}, layer {name}: its {matrix.shape[1]} inputs are not divided into blocks of 4; leave this layer out")


def _settled_share(matrices: Mapping[str, Any]) -> float:
    settled = sum(int(((matrix.reshape(-1, 4) != 0).sum(1) <= 2).sum()) for matrix in matrices.values())
    return settled / sum(matrix.numel() // 4 for matrix in matrices.values())
