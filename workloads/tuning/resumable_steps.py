"""The steps of a training that can be interrupted: about every minute a checkpoint replaces the last."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from xmsim.configs.errors import XmsimError
from xmsim.workloads.models.loading import ModelError
from xmsim.workloads.tuning.checkpoint import AnyProgress, Checkpoint
from xmsim.workloads.tuning.loop import TuningLoop

Watch = Callable[[int, int, float], None]  # (steps done, steps in all, loss of the last one)
_CHECKPOINT_SECONDS = 60.0  # between two checkpoints, at least
_CHECKPOINT_SHARE = 0.05  # of the time may go into writing them


def no_watch(done: int, steps: int, loss: float) -> None:
    """Show nothing."""


def resume(loop: TuningLoop, checkpoint: Checkpoint[AnyProgress], begin: Callable[[], AnyProgress]) -> AnyProgress:
    """Put the loop where the checkpoint was written, or write one of what `begin` gives.

    Raises:
        XmsimError: the checkpoint is damaged, or there is no room for one.
    """
    if checkpoint.exists:
        found = checkpoint.read(loop.parameters, loop.optimizer)
        if found.steps > loop.steps:
            raise XmsimError(f"{checkpoint.folder}: a damaged checkpoint ({found.steps} steps of {loop.steps}); delete it")
        return found
    progress = begin()
    checkpoint.write(loop.parameters, loop.optimizer, progress)  # whether there is room for one is known now
    return progress


def run_steps(loop: TuningLoop, checkpoint: Checkpoint[AnyProgress], progress: AnyProgress, watch: Watch) -> AnyProgress:
    """Do the steps that are not done yet.

    Raises:
        ModelError: the model, its loss or its gradient is NaN or infinite; the checkpoint is deleted.
    """
    losses = list(progress.losses)
    started = time.monotonic() - progress.seconds
    due = time.monotonic() + _CHECKPOINT_SECONDS
    for number in range(len(losses), loop.steps):
        try:
            losses.append(loop.step(number))
        except ModelError:  # the same steps would end here again
            checkpoint.delete()
            raise
        progress = replace(progress, seconds=time.monotonic() - started, losses=tuple(losses))
        watch(len(losses), loop.steps, losses[-1])
        if time.monotonic() > due:
            begun = time.monotonic()
            checkpoint.write(loop.parameters, loop.optimizer, progress)
            written = time.monotonic()
            due = written + max(_CHECKPOINT_SECONDS, (written - begun) / _CHECKPOINT_SHARE)
    return progress
