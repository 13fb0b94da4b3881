"""ProxSparse as a way to prune a model: the masks are trained, then put on the weights as they lie on disk, block by block."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xmsim.reference.weights import Pruned, apply_keep
from xmsim.workloads.models.linear_exchange import linear_layers
from xmsim.workloads.models.loading import load_model
from xmsim.workloads.models.whole_folder import check_free
from xmsim.workloads.pruning.budget import layer_budget
from xmsim.workloads.pruning.methods import TRAINED, LayerMethod, Target
from xmsim.workloads.pruning.pattern import parse_pattern
from xmsim.workloads.pruning.proxsparse import train_proxsparse
from xmsim.workloads.pruning.proxsparse_preset import ProxSparsePreset
from xmsim.workloads.pruning.prune import check_place, prune_blocks, stored_calibration
from xmsim.workloads.pruning.record import PruningRecord
from xmsim.workloads.pruning.stored import open_stored_model
from xmsim.workloads.tuning.resumable_steps import Watch, no_watch


def prune_proxsparse(
    model: str,
    *,
    out: Path,
    preset: ProxSparsePreset,
    text: Path | None = None,
    seed: int = 0,
    device: str = "cpu",
    watch: Watch = no_watch,
) -> PruningRecord:
    """Prune the linear layers of a model's blocks to 2:4 by ProxSparse, and write it as `prune_model` does.

    The whole model is trained, so it must fit into memory with its gradients and AdamW's state: four times its weights, five times with
    lambda 2. An interrupted run goes on from its last checkpoint, in `<out>.training.part`.

    Args:
        model: as for `prune_model`; it is only read.
        preset: how it is trained, and on how many samples.
        text, seed: of the samples, as for `prune_model`; the seed is that of dropout, too.
        device: where it is trained, e.g. cpu or cuda.
        watch: called after each step.
    Raises:
        XmsimError: as `prune_model` and `train_proxsparse`.
    """
    check_free(out)
    config, target = preset.config, Target(0.5, parse_pattern("2:4"))
    check_place(config.dtype, device)
    stored = open_stored_model(model)
    calibration = stored_calibration(stored, text, samples=config.samples, length=config.length, seed=seed)
    loaded = load_model(model, dtype=config.dtype, device=device)
    prefixes = tuple(stored.block_prefix(number) for number in range(len(stored.blocks)))
    layers = {name: layer for name, layer in linear_layers(loaded.model).items() if name.startswith(prefixes)}
    masks = train_proxsparse(loaded, layers, calibration, preset, out=out, seed=seed, watch=watch)

    def masked(weight: Any, sums: None, target: Target, **facts: Any) -> Pruned:
        assert target.layer is not None  # it is for one layer
        keep = masks.keep(target.layer)
        return Pruned(apply_keep(weight, keep), keep)

    facts = {"preset": preset.name, **preset.parameters, "settled_share": masks.settled_share}
    method = LayerMethod(TRAINED, None, masked, facts)
    record = prune_blocks(
        stored,
        method,
        layer_budget("uniform"),
        target,
        calibration,
        out=out,
        dtype=config.dtype,
        device=device,
        seconds_before=masks.seconds,
    )
    masks.forget_training()
    return record
