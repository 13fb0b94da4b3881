"""Perplexity of a model whose sparsity is shared out between weights (static) and activations (dynamic), as in SPDP.

Source: SPDP (arXiv 2607.21985); quaternior/spdp at fa443ef, TEAL/run_pruning.py: weights pruned at s1, histograms of the pruned model,
uniform thresholds at s2, perplexity.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import Any

from xmsim.configs.errors import RecordError, XmsimError
from xmsim.configs.files import open_table
from xmsim.reference.activations import ActivationHistogram, dynamic_sparsity, symmetric_threshold, total_sparsity
from xmsim.workloads.attachment.activation_policies import Policy, first_half_dense
from xmsim.workloads.attachment.activation_sparsity import attach_activation_sparsity
from xmsim.workloads.evaluation import SparsitySplit, SplitTiming
from xmsim.workloads.extraction.activation_histograms import Histograms, activation_histograms, activation_thresholds
from xmsim.workloads.models.loading import LoadedModel, find_model, load_model
from xmsim.workloads.pruning.prune import prune_model
from xmsim.workloads.pruning.record import PruningRecord, read_pruning
from xmsim.workloads.quality.evaluate import evaluate_model
from xmsim.workloads.quality.split_decoding import Decoding, DecodingPlan
from xmsim.workloads.quality.split_store import SplitStore
from xmsim.workloads.quality.weight_sparsity import weight_sparsity
from xmsim.workloads.texts.corpora import Corpus


@dataclass(frozen=True, slots=True, eq=False)
class SweepPlan:
    """On what each pair of sparsities is tried."""

    corpus: Corpus  # evaluated
    calibration: Sequence[Sequence[int]]  # windows of token ids of another text, for the histograms
    length: int = 1024  # tokens, as the protocol counts them
    windows: int | None = None  # evaluated; None: all of the text
    protocol: str = "dynax"
    policy: Policy = first_half_dense
    threshold: Callable[[ActivationHistogram, float], float] = symmetric_threshold
    decoding: DecodingPlan | None = None  # times decoding too; None: perplexity alone


def total_splits(totals: Sequence[float], *, step: float = 0.1) -> tuple[tuple[float, float], ...]:
    """Pairs (s1, s2) that reach each total: s1 in steps from 0, where all of it is dynamic, to the total, where all is static.

    Raises:
        XmsimError: a total that is not above 0 and below 1, or a step that is not above 0.
    """
    if step <= 0:
        raise XmsimError(f"step {step} between splits is not above 0; choose e.g. 0.1")
    pairs = []
    for total in totals:
        if not 0 < total < 1:
            raise XmsimError(f"total sparsity {total} is not a share to split; choose above 0 and less than 1")
        statics = [round(index * step, 6) for index in range(int(total / step) + 1)]
        pairs += [(static, dynamic_sparsity(total, static)) for static in (*(one for one in statics if one < total - 1e-9), total)]
    return tuple(pairs)


def sweep_splits(
    load: Callable[[float], LoadedModel],
    pairs: Sequence[tuple[float, float]],
    plan: SweepPlan,
    progress: Callable[[int, int], None] = lambda done, pairs: None,
    *,
    store: SplitStore | None = None,
) -> tuple[tuple[SparsitySplit, ...], tuple[SplitTiming, ...]]:
    """Try each pair (s1, s2), and both at 0 for comparison; ordered by s1, so that a model is pruned and calibrated once for each.

    Args:
        load: gives the model with its weights pruned at s1; at 0 the dense one.
        progress: called after each pair.
        store: of what was found before, which is not done again; everything found is put into it at once. None: in memory alone.
    Returns: the splits by (s1, s2), and their timings, none unless the plan asks for them.
    Raises:
        XmsimError: a sparsity out of its range, or whatever is wrong with the model or the text.
    """
    asked = sorted({(0.0, 0.0), *pairs})
    for pair in asked:
        if not all(0 <= share < 1 for share in pair):
            raise XmsimError(f"sparsities {pair[0]}, {pair[1]} are not two shares; choose at least 0 and less than 1 for each")
    store = store or SplitStore(None, {})
    missing = [pair for pair in asked if not store.has(pair, timed=plan.decoding is not None)]
    done = len(asked) - len(missing)
    progress(done, len(asked))
    for static, group in groupby(missing, key=lambda pair: pair[0]):
        dynamics = [dynamic for _, dynamic in group]
        trial = _Trial(load(static), static, any(dynamics), plan)
        for dynamic in dynamics:
            if not store.has((static, dynamic), timed=False):
                store.add(trial.split(dynamic))
            if plan.decoding is not None:
                store.add_timing(trial.timing(store.split((static, dynamic))))
            done += 1
            progress(done, len(asked))
    return store.chosen(asked, timed=plan.decoding is not None)


class _Trial:
    """The model that is pruned at one s1, with its histograms."""

    def __init__(self, loaded: LoadedModel, static: float, dynamic: bool, plan: SweepPlan) -> None:
        self._loaded, self._static, self._plan = loaded, static, plan
        self._reached = weight_sparsity(loaded.model)
        self._histograms: Histograms = activation_histograms(loaded, plan.calibration) if dynamic else {}
        self._decoding = None if plan.decoding is None else Decoding(loaded.model, plan.decoding)

    def split(self, dynamic: float) -> SparsitySplit:
        """Perplexity at one s2."""
        perplexity, dropped = _perplexity(self._loaded, self._histograms, dynamic, self._plan)
        return SparsitySplit(self._static, dynamic, perplexity, self._reached, dropped, total_sparsity(self._reached, dropped))

    def timing(self, split: SparsitySplit) -> SplitTiming:
        """Time of a decoded token at the s2 of a split."""
        assert self._decoding is not None  # else it is not asked
        thresholds = activation_thresholds(self._histograms, split.s2, threshold=self._plan.threshold) if split.s2 else {}
        sparse, dense = self._decoding.times(thresholds)
        return SplitTiming(
            s1=split.s1,
            s2=split.s2,
            Uniform_PPL=split.Uniform_PPL,
            TPOT_ms=sparse.median_ms,
            TPOT_first_quartile_ms=sparse.first_quartile_ms,
            TPOT_third_quartile_ms=sparse.third_quartile_ms,
            TPOT_samples=sparse.n,
            torch_TPOT_ms=dense.median_ms,
        )


def _perplexity(loaded: LoadedModel, histograms: Histograms, dynamic: float, plan: SweepPlan) -> tuple[float, float]:
    """Perplexity, and the share of inputs that was dropped."""

    def perplexity() -> float:
        record = evaluate_model(loaded, [], plan.corpus, lengths=(plan.length,), protocol=plan.protocol, windows=plan.windows)
        return record.runs[0].perplexity

    if not dynamic:
        return perplexity(), 0.0
    thresholds = activation_thresholds(histograms, dynamic, threshold=plan.threshold)
    with attach_activation_sparsity(loaded, thresholds, policy=plan.policy) as attached:
        return perplexity(), attached.sparsity


def pruned_once(model: str, folder: Path, **options: Any) -> Callable[[float], LoadedModel]:
    """What `sweep_splits` loads: the model, or its pruning at s1, which is kept in `folder` and not done again.

    Args:
        options: of `prune_model`, without out, sparsity and pattern.
    """

    def load(static: float) -> LoadedModel:
        device = options.get("device", "cpu")
        if not static:
            return load_model(model, device=device)
        out = folder / f"{options['method']}_{static:g}"
        if not out.exists():
            prune_model(model, out=out, sparsity=static, **options)
        elif difference := _another_pruning(read_pruning(out), model, options):
            raise XmsimError(f"{out}: was pruned with another {difference}; move it away or choose another --out")
        return load_model(str(out), device=device)

    return load


def _another_pruning(record: PruningRecord, model: str, options: Mapping[str, Any]) -> str:
    """The first thing in which a pruning found is not the one asked for; "" where it is."""
    found, asked = record.base.name, find_model(model)[1]
    if found != asked:
        return f"model ({found}, not {asked})"
    seen = record.calibration
    for option, value in (("samples", seen.samples), ("length", seen.length_tokens), ("seed", seen.seed)) if seen else ():
        if options.get(option, value) != value:
            return f"--{option} ({value}, not {options[option]})"
    return ""


def read_splits(path: Path) -> tuple[SparsitySplit, ...]:
    """The rows of a sweep's table.

    Raises:
        RecordError: not readable, or not such a table.
    """
    try:
        table = csv.DictReader(open_table(path))
        return tuple(SparsitySplit(**{column.name: float(row[column.name]) for column in fields(SparsitySplit)}) for row in table)
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, TypeError, KeyError, csv.Error) as error:
        raise RecordError(f"{path}: not a table of sparsity splits ({error}); make it again with xmsim prune --sweep") from error
