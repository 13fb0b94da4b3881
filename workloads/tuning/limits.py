"""What can keep a model from being trained: no loss, packed weights, fewer tokens than asked for, or memory that is full."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from xmsim.workloads.models.linear_exchange import exchanged_layers
from xmsim.workloads.models.loading import LoadedModel, ModelError

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory")


def check_trainable(loaded: LoadedModel, length: int, *, asked_by: str, option: str) -> None:
    """Raises: ModelError unless the model has a loss for windows of `length` tokens, which `asked_by` asks for and `option` sets, and no
    packed layers.
    """
    if not loaded.model.can_generate():
        raise ModelError(f"{loaded.name}: a model of family {loaded.family} without a causal language head has no loss to tune by")
    if exchanged_layers(loaded.model):
        raise ModelError(f"{loaded.name}: its linear layers are packed, and those are not trained; give the folder it was converted from")
    limit = getattr(loaded.model.config, "max_position_embeddings", None)
    if limit is not None and length > limit:
        raise ModelError(f"{loaded.name}: reads at most {limit} tokens, {asked_by} asks for {length}; use {option} {limit} or fewer")


@contextmanager
def full_memory_explained(name: str, length: int, way_out: str) -> Iterator[None]:
    """Raises: ModelError, with the way out, where memory is full."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch raises RuntimeError when memory is full
        if isinstance(error, RuntimeError) and not any(sign in str(error) for sign in _OUT_OF_MEMORY):
            raise
        raise ModelError(f"{name}: out of memory at {length} tokens; {way_out}") from error
