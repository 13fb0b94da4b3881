"""How much of each layer is pruned, so that the whole model reaches its sparsity: uniform, OWL, AlphaPruning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from xmsim.reference.attention.arrays import as_numpy, is_tensor
from xmsim.reference.weights.checks import check_sparsity, check_weight

_LEAST_DENSITY = 0.01  # what OWL leaves of a block whose share comes out at or below zero
_HISTOGRAM_BINS = 100


def uniform(layers: int, *, sparsity: float) -> np.ndarray:
    """The same sparsity for each of `layers` layers, float64 [layers]."""
    check_sparsity(sparsity)
    return np.full(layers, sparsity, np.float64)


def outlier_percent(scores: Sequence[Any], *, multiple: float = 5.0) -> float:
    """Percent of a block's Wanda scores that are above `multiple` times their mean.

    Args:
        scores: `wanda_scores` of all linear layers of one block, with the inputs that the dense model gives them.
    Raises: ValueError naming scores: none, or not finite.
    Source: OWL (arXiv 2310.05175), lib/prune_all.py of luuyin/OWL; there 3, 5 and 7 are tried, and 5 is recommended.
    """
    count = sum(layer.shape[0] * layer.shape[1] for layer in scores)
    total = sum(float((layer.double() if is_tensor(layer) else layer).sum()) for layer in scores)
    if not count or not abs(total) < float("inf"):
        raise ValueError("scores: finite ones of at least one layer are needed")
    return 100 * sum(int((layer > multiple * total / count).sum()) for layer in scores) / count


def owl(outlier_percents: Sequence[float], *, sparsity: float, spread: float = 0.08) -> np.ndarray:
    """Outlier-weighed sparsities: blocks with more outliers keep more.

    Densities are linear in the outliers, 2 × spread apart at most, and their mean is 1 − sparsity; blocks count alike. Blocks with equal
    outliers throughout get the uniform budget.

    Args:
        outlier_percents: [blocks], of `outlier_percent`.
        spread: the paper's lambda; at least 0.
    Returns: float64 [blocks], the sparsity of all linear layers of each block.
    Raises: ValueError naming the argument: sparsity out of range; outlier_percents empty or not finite; spread negative, or so large that a
        block would keep more than all.
    Source: OWL (arXiv 2310.05175), lib/prune_all.py of luuyin/OWL.
    """
    shares = _placed("outlier_percents", outlier_percents)
    _check_spread(spread)
    check_sparsity(sparsity)
    densities = 2 * spread * shares
    densities += 1 - sparsity - densities.mean()
    densities[densities <= 0] = _LEAST_DENSITY
    return _within_range(1 - densities)


def owl_kept(outlier_percents: Sequence[float], *, kept: int, block: int, spread: float = 2.0) -> np.ndarray:
    """Outlier-weighed patterns: of every `block` consecutive inputs, blocks with more outliers keep one or more weights more than others.

    Numbers kept are linear in the outliers, `spread` apart at most before they are rounded, and their mean is `kept`, but for rounding.

    Args:
        outlier_percents: [blocks], of `outlier_percent`; published with outliers above 6 times the mean.
        kept, block: the pattern that is nominally kept.
        spread: the paper's lambda of patterns, in weights of a block; at least 0. Published for 5:8 and the like: 2.
    Returns: int64 [blocks], kept of `block` in all linear layers of each block of the model.
    Raises: ValueError naming the argument: not a pattern; outlier_percents empty or not finite; spread negative, or so large that a block
        would keep nothing, or more than all.
    Source: OWL (arXiv 2310.05175), prune_wanda_outlier_structure in lib/prune_all.py of luuyin/OWL.
    """
    if not 0 < kept < block:
        raise ValueError(f"kept: {kept} of {block} is no pattern; choose at least 1 and fewer than all")
    if not 0 <= spread < float("inf"):
        raise ValueError(f"spread: {spread} must be at least 0")
    shares = spread * _placed("outlier_percents", outlier_percents)
    found = kept + np.round(shares - shares.mean()).astype(np.int64)
    if found.min() < 1 or found.max() > block:
        raise ValueError(f"spread: blocks would keep {found.min()} to {found.max()} of {block}; lower it")
    return found


def alphapruning(
    exponents: Sequence[float], *, sparsity: float, spread: float = 0.3, parameters: Sequence[int] | None = None
) -> np.ndarray:
    """Sparsities by the tails of the layers' spectra: the larger the exponent, the lighter the tail, the more is pruned.

    Args:
        exponents: [layers], of `peak_exponent`; for one sparsity in each block, the mean over the block's linear layers.
        spread: the paper's epsilon; sparsities lie between (1 − spread) and (1 + spread) of a common value before they are scaled.
        parameters: weights of each layer, so that the sparsity is that of the model; alike if not given.
    Returns: float64 [layers].
    Raises: ValueError naming the argument: sparsity out of range; exponents empty or not finite; spread outside [0, 1) or so large that a
        layer would lose everything; parameters of another length or not positive.
    Source: AlphaPruning (arXiv 2410.10912), lib/prune.py of haiquanlu/AlphaPruning.
    """
    places = _placed("exponents", exponents)
    _check_spread(spread)
    check_sparsity(sparsity)
    sizes = np.ones(len(places)) if parameters is None else np.asarray(parameters, np.float64)
    if sizes.shape != places.shape or not (sizes > 0).all():
        raise ValueError(f"parameters: a positive number for each of the {len(places)} layers is needed")
    shares = 1 - spread + 2 * spread * places
    return _within_range(shares * (sparsity * sizes.sum() / (sizes * shares).sum()))


def _placed(name: str, values: Sequence[float]) -> np.ndarray:
    """The values mapped linearly to 0 (the smallest) to 1 (the largest); equal values to 0.5."""
    array = np.array(values, np.float64)
    if array.ndim != 1 or not array.size or not np.isfinite(array).all():
        raise ValueError(f"{name}: one finite number for each layer is needed")
    low, high = array.min(), array.max()
    return np.full(array.shape, 0.5) if low == high else (array - low) / (high - low)


def _check_spread(spread: float) -> None:
    if not 0 <= spread < 1:
        raise ValueError(f"spread: {spread} must be at least 0 and less than 1")


def _within_range(sparsities: np.ndarray) -> np.ndarray:
    if sparsities.min() < -1e-9 or sparsities.max() >= 1:  # rounding may leave a zero just below it
        raise ValueError(f"spread: sparsities would run from {sparsities.min():.3f} to {sparsities.max():.3f}; lower it")
    return sparsities.clip(0)


def peak_exponent(weight: Any) -> float:
    """Exponent of the power law that best fits the tail of a layer's spectrum, its start sought near the spectrum's peak.

    The spectrum is that of the squared singular values. Of the starts up to 1.5 times the peak of a histogram of 100 bins of its decimal
    logarithm, the one counts whose Hill estimate is nearest to the values in the Kolmogorov-Smirnov distance. The released code also means
    to leave out starts below 0.95 of the peak, but compares them with that peak's logarithm, which leaves out next to nothing; so do we.

    Args:
        weight: float [out, in]; NumPy array (the judge, in float64) or torch tensor (float32, on its device, for the singular values).
    Raises: ValueError naming weight: all zero, not finite, not a matrix, or of fewer than two singular values above zero.
    Source: AlphaPruning (arXiv 2410.10912), lib/esd_utils.py of haiquanlu/AlphaPruning, xmin_peak.
    """
    spectrum = _spectrum(weight)
    counts, edges = np.histogram(np.log10(spectrum), _HISTOGRAM_BINS)
    peak = 10 ** edges[counts.argmax()]
    best, exponent = float("inf"), float("inf")
    for start in np.flatnonzero((spectrum[:-1] >= np.log10(0.95 * peak)) & (spectrum[:-1] <= 1.5 * peak)):
        tail = spectrum[start:]
        hill = _hill(tail)
        distance = np.abs(1 - (tail / tail[0]) ** (1 - hill) - np.arange(len(tail)) / len(tail)).max()
        if distance < best:
            best, exponent = distance, hill
    return exponent


def median_exponent(weight: Any) -> float:
    """Hill's exponent of the upper half of a layer's squared singular values. Args and errors: those of `peak_exponent`.

    Source: AlphaPruning, lib/esd_utils.py, xmin_mid.
    """
    spectrum = _spectrum(weight)
    return _hill(spectrum[len(spectrum) // 2 :])


def _spectrum(weight: Any) -> np.ndarray:
    """Squared singular values above zero, ascending, float64."""
    check_weight(weight)
    if is_tensor(weight):
        import torch

        singular = as_numpy(torch.linalg.svdvals(weight.detach().float()))
    else:
        singular = np.linalg.svd(np.asarray(weight, np.float64), compute_uv=False)
    spectrum = np.sort(singular.astype(np.float64) ** 2)
    spectrum = spectrum[spectrum > 0]  # an exact zero has no logarithm
    if len(spectrum) < 2:
        raise ValueError("weight: fewer than two singular values above zero, so that its spectrum has no tail")
    return spectrum


def _hill(tail: np.ndarray) -> float:
    """Exponent of a power law that starts at the first of `tail`, ascending."""
    rise = np.log(tail / tail[0]).sum()
    return float("inf") if rise == 0 else float(1 + len(tail) / rise)
