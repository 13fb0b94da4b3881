"""How the inputs of a model's linear layers are distributed: histograms of a run over text, and the thresholds that follow from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from xmsim.configs.errors import RecordError, XmsimError, nearest
from xmsim.reference.activations import (
    ActivationCounter,
    ActivationHistogram,
    read_histograms,
    symmetric_threshold,
    wina_column_norms,
    wina_scores,
    wina_thresholds,
    write_histograms,
)
from xmsim.traces.store import Trace
from xmsim.workloads.extraction.extract import run_layers
from xmsim.workloads.models.linear_exchange import all_layers
from xmsim.workloads.models.loading import LoadedModel, ModelError
from xmsim.workloads.pruning.pattern import weight_matrix

FILE_NAME = "activations.safetensors"  # in a trace folder, or any other: of the inputs themselves
FILE_NAMES = {
    "teal": FILE_NAME,
    "wina": "activation_scores.safetensors",
}  # by how inputs are scored; WINA: times column norms
_PICKLES = (".pt", ".pth", ".bin", ".pkl")

Histograms = Mapping[str, ActivationHistogram]


def check_scoring(scoring: str) -> None:
    """Raises: XmsimError: inputs are not scored so."""
    if scoring not in FILE_NAMES:
        raise XmsimError(f"no scoring {scoring}; {nearest(scoring, tuple(FILE_NAMES))}")


def activation_histograms(
    model: Any,
    token_ids: Sequence[Sequence[int]],
    *,
    column_norms: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] = lambda done, windows: None,
) -> dict[str, ActivationHistogram]:
    """Run a model over windows of text, dense, and count what each linear layer reads; {module name: histogram}, in the model's order.

    Layers that read one tensor (q, k and v; gate and up) share one histogram. The layer of the logits is not run. Each distinct tensor of
    the model costs up to 100 MB meanwhile, whatever the length of the text.

    Args:
        model: a transformers model, or a LoadedModel.
        token_ids: windows, each run by itself, so that there is no padding. TEAL uses 10 of 2048 tokens.
        column_norms: of every layer, as `column_norms` gives them, where WINA's scores are counted instead of the inputs; then no two
            layers share a histogram.
        progress: called after each window.
    Raises:
        ModelError: no linear layer, or one reads NaN or infinity.
    """
    import torch

    network = model.model if isinstance(model, LoadedModel) else model
    readers = _Readers()

    def take(name: str, inputs: Any) -> None:
        readers.take(name, inputs if column_norms is None else wina_scores(inputs, column_norms[name]))

    handles = [
        layer.register_forward_pre_hook(lambda _, inputs, name=name: take(name, inputs[0])) for name, layer in all_layers(network).items()
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


def column_norms(model: Any) -> dict[str, Any]:
    """How much each input of each linear layer counts: the norms of the columns of its matrix; {module name: float32 tensor [in]}.

    Args:
        model: a transformers model or a LoadedModel, with layers of our kernels or without.
    """
    network = model.model if isinstance(model, LoadedModel) else model
    return {
        name: wina_column_norms(layer.to_dense() if hasattr(layer, "to_dense") else weight_matrix(layer)).to(network.device)
        for name, layer in all_layers(network).items()
    }


def wina_channel_thresholds(thresholds: Mapping[str, float], norms: Mapping[str, Any]) -> dict[str, Any]:
    """Thresholds of WINA's scores as thresholds of inputs, one for each channel; {module name: tensor [in]}.

    Args:
        thresholds: of histograms of scores.
        norms: of `column_norms`.
    """
    return {name: wina_thresholds(threshold, norms[name]) for name, threshold in thresholds.items()}


def trace_tokens(trace: Trace) -> tuple[tuple[int, ...], ...]:
    """The windows of a trace.

    Raises:
        XmsimError: the trace does not say which tokens it is of.
    """
    if trace.manifest.token_ids is None:
        raise XmsimError(f"{trace.path}: does not say which tokens it was made of; extract it again with --activations")
    return trace.manifest.token_ids


def trace_histograms(trace: Trace, loaded: LoadedModel, *, scoring: str = "teal") -> Path:
    """Collect the histograms of a trace's own windows and store them in its folder, unless they are there; gives the file.

    Raises:
        XmsimError: the trace does not say which tokens it is of, the model is not fit for it, or the disk is full.
    """
    file = trace.path / FILE_NAMES[scoring]
    if not file.exists():
        norms = column_norms(loaded) if scoring == "wina" else None
        write_histograms(file, activation_histograms(loaded, trace_tokens(trace), column_norms=norms))
    return file


def histograms_file(path: Path, *, scoring: str = "teal") -> Path:
    """The file of the histograms of a trace folder, of any folder that holds one, or the file itself.

    Raises:
        RecordError: there is none, or it is a pickle.
    """
    file = path / FILE_NAMES[scoring] if path.is_dir() else path
    if file.suffix in _PICKLES or (path.is_dir() and not file.exists() and any(path.glob("**/histograms.pt"))):
        raise RecordError(
            f"{path}: TEAL's published histograms are pickles, which may run code and are never opened here; "
            "docs/activation_sparsity.md has the lines that turn them into our format"
        )
    if not file.exists():
        raise RecordError(f"{path}: no activation histograms; make them with xmsim extract MODEL --activations --out {path}")
    return file


def load_histograms(path: Path, *, scoring: str = "teal") -> dict[str, ActivationHistogram]:
    """The histograms of a trace folder, of any folder that holds such a file, or of the file itself.

    Raises:
        RecordError: there are none, they are a pickle, or the file is damaged.
    """
    return read_histograms(histograms_file(path, scoring=scoring))


def activation_thresholds(
    histograms: Histograms,
    sparsity: float | Mapping[str, float],
    *,
    threshold: Callable[[ActivationHistogram, float], float] = symmetric_threshold,
) -> dict[str, float]:
    """The magnitude of each layer's inputs below which so large a share of them lies; {module name: threshold}.

    Args:
        sparsity: the same for all (uniform), or {module name: its own}, e.g. of a greedy allocation, where 1 drops all inputs counted.
        threshold: symmetric_threshold as TEAL publishes it, or magnitude_threshold, which needs no symmetry.
    Raises:
        XmsimError: a uniform sparsity that is not at least 0 and below 1, or a layer without histogram.
    """
    if isinstance(sparsity, int | float):
        if not 0 <= sparsity < 1:
            raise XmsimError(f"activation sparsity {sparsity} is not a share; choose at least 0 and less than 1")
        shares: Mapping[str, float] = dict.fromkeys(histograms, sparsity)
    else:
        shares = sparsity
    for name in shares:
        if name not in histograms:
            raise XmsimError(f"{name}: no histogram of this layer; collect them with the model that they are for")
    try:
        return {name: threshold(histograms[name], share) for name, share in shares.items()}
    except ValueError as error:  # a share of an edited file
        raise XmsimError(f"activation sparsities: {error}") from error
