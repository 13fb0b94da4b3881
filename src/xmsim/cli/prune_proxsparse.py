"""xmsim prune --method proxsparse: 2:4 by training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from xmsim.configs.errors import XmsimError

if TYPE_CHECKING:
    from xmsim.workloads.pruning.record import PruningRecord


def prune_by_training(
    model: str,
    *,
    out: Path,
    preset: str | None,
    project_lambda2: bool | None,
    overrides: Mapping[str, Any],
    text: Path | None,
    seed: int,
    device: str,
) -> PruningRecord:
    """Prune as a preset says, with a bar of its steps.

    Args:
        preset: None: the one that is called like the model.
        project_lambda2: as in the release, whether lambda 2 counts; None: it does where it is not 0.
        overrides: {key of the preset: value}, None where the preset's stays.
    Raises:
        XmsimError: whatever is wrong, in one sentence.
    """
    from xmsim.cli.progress import loss_bar
    from xmsim.workloads.pruning.proxsparse_preset import load_preset
    from xmsim.workloads.pruning.proxsparse_prune import prune_proxsparse

    given = {key: value for key, value in overrides.items() if value is not None}
    if project_lambda2 is False:
        given["lambda2"] = 0.0
    chosen = load_preset(preset or model, **given)
    if project_lambda2 and not chosen.config.lambda2:
        raise XmsimError(f"--project-lambda2: preset {chosen.name} has lambda2 0; give --lambda2, published are 0.25 and 1.0")
    with loss_bar(f"prune {model}") as watch:
        record = prune_proxsparse(model, out=out, preset=chosen, text=text, seed=seed, device=device, watch=watch)
    typer.echo(f"{record.method['settled_share']:.4f} of the blocks of four had at most two weights when training ended")
    return record


def check_two_four(sparsity: float | None, pattern: str | None, budget: str) -> None:
    """Raises: XmsimError unless what was asked for is 2:4 everywhere."""
    if pattern not in (None, "2:4") or sparsity not in (None, 0.5) or budget != "uniform":
        raise XmsimError("method proxsparse: trains every layer to 2:4; leave --pattern, --sparsity and --budget out")
