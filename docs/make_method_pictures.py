"""Draw one head of xm-tiny, and the mask of every shipped method on it: python docs/make_method_pictures.py"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from PIL import Image

from xmsim.traces.store import LayerTrace
from xmsim.workloads.extraction.extract import extract_trace
from xmsim.workloads.methods.library import Method, load_method, shipped_methods
from xmsim.workloads.methods.scores import head_scores

FOLDER = Path(__file__).parent / "figures" / "methods"
TOKENS, LAYER, HEAD = 384, 5, 1
DPI = 160
LOOKS = ("#ffffff", "#e4e7ec", "#174a7c")  # not allowed, dropped, kept


def draw_attention(layer: LayerTrace) -> None:
    scores = head_scores(layer, 0, HEAD)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities = np.where(scores > -np.inf, weights / weights.sum(axis=1, keepdims=True), np.nan)
    figure, axes = _pair_axes(width=5)
    seen = axes.imshow(probabilities, norm=LogNorm(1e-5, 1), cmap="cividis", interpolation="none")
    figure.colorbar(seen, ax=axes, label="attention probability", shrink=0.8)
    _save(figure, "attention")


def draw_mask(method: Method, layer: LayerTrace) -> None:
    keep, allowed = method.keep(layer, 0, heads=[HEAD])[0], method.allowed(layer, 0)
    figure, axes = _pair_axes(width=4)
    axes.imshow(np.where(allowed, 1 + keep, 0), cmap=ListedColormap(LOOKS), vmin=0, vmax=2, interpolation="none")
    axes.set_title(f"{method.name}: density {keep.sum() / allowed.sum():.3f}")
    _save(figure, method.name)


def _pair_axes(width: float) -> tuple[Figure, Axes]:
    figure, axes = plt.subplots(figsize=(width, 4), layout="constrained")
    axes.set(xlabel="key", ylabel="query", xticks=range(0, TOKENS + 1, 64), yticks=range(0, TOKENS + 1, 64))
    return figure, axes


def _save(figure: Figure, name: str) -> None:
    """As a PNG of 32 colours: masks need three, and what anti-aliasing adds."""
    file = io.BytesIO()
    figure.savefig(file, dpi=DPI, format="png")
    plt.close(figure)
    Image.open(file).convert("RGB").quantize(32).save(FOLDER / f"{name}.png", optimize=True)


def draw_row_lengths(layer: LayerTrace) -> None:
    """Density by query of the two presets that differ in what a share is relative to."""
    figure, axes = plt.subplots(figsize=(7.2, 3), layout="constrained")
    allowed = load_method("xm").allowed(layer, 0)
    for name, colour in (("xm", "#174a7c"), ("xm_causal", "#c2571a")):
        keep = load_method(name).keep(layer, 0)
        density = keep.sum(axis=(0, 2)) / (len(keep) * allowed.sum(axis=1))
        smooth = np.convolve(density, np.ones(16) / 16, mode="valid")
        axes.plot(np.arange(len(smooth)) + 8, smooth, color=colour, label=f"{name}: {keep.sum() / (len(keep) * allowed.sum()):.3f} in all")
    axes.set(xlabel="query", ylabel="density (mean of 16 rows)", xlim=(0, TOKENS), ylim=(0, None))
    axes.legend(frameon=False)
    _save(figure, "row_length")


def main() -> None:
    mpl.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False})
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        layer = extract_trace("xm-tiny", out=Path(folder) / "trace", tokens=TOKENS, layers=[LAYER]).read_layer(LAYER)
    draw_attention(layer)
    for name in shipped_methods():
        draw_mask(load_method(name), layer)
    draw_row_lengths(layer)


if __name__ == "__main__":
    main()
