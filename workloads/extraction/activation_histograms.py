"""How the inputs of a model's linear layers are distributed: histograms of a run over text, and the thresholds that follow from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from xmsim.configs.errors import RecordError, XmsimError
from xmsim.reference.activations import (
    ActivationCounter,
    ActivationHistogram,
    read_histograms,
    symmetric_threshold,
    write_histograms,
)
from xmsim.traces.store import Trace
from xmsim.workloads.extraction.extract import run_layers
from xmsim.workloads.models.linear_exchange import all_layers
from xmsim.workloads.models.loading import LoadedModel, ModelError

FILE_NAME = "activations.safetensors"  # in a trace folder, or any other

Histograms = Mapping[str, ActivationHistogram]


def activation_histograms(
    model: Any, token_ids: Sequence[Sequence[int]], *, progress: Callable[[int, int], None] = lambda done, windows: None
) -> dict[str, ActivationHistogram]:
    """Run a model over windows of text, dense, and count what each linear layer reads; {module name: histogram}, in the model's order.

    Layers that read one tensor (q, k and v; gate and up) share one histogram. The layer of the logits is not run. Each distinct tensor of
    the model costs up to 100 MB meanwhile, whatever the length of the text.

    Args:
        model: a transformers model, or a LoadedModel.
        token_ids: windows, each run by itself, so that there is no padding. TEAL uses 10 of 2048 tokens.
        progress: called after each window.
    Raises:
        ModelError: no linear layer, or one reads NaN or infinity.
    """
    import torch

    network = model.model if isinstance(model, LoadedModel) else model
    readers = _Readers()
    handles = [
        layer.register_forward_pre_hook(lambda _, inputs, name=name: readers.take(name, inputs[0]))
        for name, layer in all_layers(network).items()
    ]
    try:
        with torch.inference_mode():
            for done, ids in enumerate(token_ids, start=1):
                run_layers(network, [ids])
                progress(done, len(token_ids))
    finally:
        for handle in handles:
            handle.remove()
    return readers.histograms()


class _Readers:
    """Which layer reads which tensor, and the counters of the tensors, kept under the first layer that reads each."""

    def __init__(self) -> None:
        self._first: dict[str, str] = {}
        self._counters: dict[str, ActivationCounter] = {}
        self._last: tuple[Any, str] = (None, "")  # the tensor read last, and its first reader

    def take(self, name: str, inputs: Any) -> None:
        if inputs is not self._last[0]:
            self._last = (inputs, name)
            try:
                self._counters.setdefault(name, ActivationCounter()).add(inputs.float().cpu())
            except ValueError as error:
                raise ModelError(f"{name}: {error}") from error
        self._first.setdefault(name, self._last[1])

    def histograms(self) -> dict[str, ActivationHistogram]:
        made = {name: counter.histogram() for name, counter in self._counters.items()}
        return {name: made[first] for name, first in self._first.items()}


def trace_histograms(trace: Trace, loaded: LoadedModel) -> None:
    """Collect the histograms of a trace's own windows and store them in its folder, unless they are there.

    Raises:
        XmsimError: the trace does not say which tokens it is of, the model is not fit for it, or the disk is full.
    """
    file = trace.path / FILE_NAME
    if file.exists():
        return
    if trace.manifest.token_ids is None:
        raise XmsimError(f"{trace.path}: does not say which tokens it was made of; extract it again with --activations")
    write_histograms(file, activation_histograms(loaded, trace.manifest.token_ids))


def load_histograms(path: Path) -> dict[str, ActivationHistogram]:
    """The histograms of a trace folder, of any folder that holds such a file, or of the file itself.

    Raises:
        RecordError: there are none, or the file is damaged.
    """
    file = path / FILE_NAME if path.is_dir() else path
    if not file.exists():
        raise RecordError(f"{path}: no activation histograms; make them with xmsim extract MODEL --activations --out {path}")
    return read_histograms(file)


def activation_thresholds(
    histograms: Histograms,
    sparsity: float | Mapping[str, float],
    *,
    threshold: Callable[[ActivationHistogram, float], float] = symmetric_threshold,
) -> dict[str, float]:
    """The magnitude of each layer's inputs below which so large a share of them lies; {module name: threshold}.

    Args:
        sparsity: the same for all (uniform), or {module name: its own}, e.g. of a greedy step.
        threshold: symmetric_threshold as TEAL publishes it, or magnitude_threshold, which needs no symmetry.
    Raises:
        XmsimError: a sparsity that is not at least 0 and below 1, or a layer without histogram.
    """
    shares = dict.fromkeys(histograms, sparsity) if isinstance(sparsity, int | float) else dict(sparsity)
    for name, share in shares.items():
        if not 0 <= share < 1:
            raise XmsimError(f"activation sparsity {share} is not a share; choose at least 0 and less than 1")
        if name not in histograms:
            raise XmsimError(f"{name}: no histogram of this layer; collect them with the model that they are for")
    return {name: threshold(histograms[name], share) for name, share in shares.items()}
