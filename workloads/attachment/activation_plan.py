"""From what a user asks of activation sparsity to the thresholds of every layer of one model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from xmsim.configs.errors import XmsimError
from xmsim.traces.manifest import MANIFEST_NAME
from xmsim.traces.store import open_trace
from xmsim.workloads.attachment.activation_policies import find_policy
from xmsim.workloads.attachment.activation_sparsity import AttachedActivations, Thresholds, attach_activation_sparsity
from xmsim.workloads.attachment.greedy_record import GreedyRecord, read_greedy
from xmsim.workloads.attachment.greedy_search import search_greedy_sparsities
from xmsim.workloads.extraction.activation_histograms import (
    activation_thresholds,
    check_scoring,
    column_norms,
    histograms_file,
    load_histograms,
    trace_histograms,
    trace_tokens,
    wina_channel_thresholds,
)
from xmsim.workloads.extraction.extract import config_sha256
from xmsim.workloads.models.loading import LoadedModel

Progress = Callable[[int, int], None]  # (blocks done, blocks in all) of a greedy search


def _no_progress(done: int, blocks: int) -> None:
    """Show nothing."""


@dataclass(frozen=True, slots=True)
class ActivationPlan:
    """How many inputs go, and by which rule.

    Raises:
        XmsimError: a sparsity that is not at least 0 and below 1, or no such scoring or policy.
    """

    sparsity: float  # share of the inputs of each layer; with greedy, of each block's products
    histograms: Path  # a trace folder of the model, or a file of histograms
    scoring: str = "teal"  # teal: magnitudes; wina: magnitudes times the norms of the columns that they meet
    greedy: Path | None = None  # file of greedy sparsities, made if it is not there; None: the same share everywhere
    policy: str = "first_half_dense"  # tokens that stay dense

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise XmsimError(f"activation sparsity {self.sparsity} is not a share; choose at least 0 and less than 1")
        if self.greedy is not None and not self.sparsity:
            raise XmsimError("activation sparsity 0 leaves nothing to share out greedily; choose more, or leave --greedy out")
        check_scoring(self.scoring)
        find_policy(self.policy)

    def prepare(self, loaded: LoadedModel, progress: Progress = _no_progress) -> ActivationSparsity:
        """Thresholds for a model. What is missing of a trace folder is made of its own windows: WINA's histograms, greedy sparsities.

        Args:
            progress: called after each block of a greedy search.
        Raises:
            XmsimError: no histograms, or they or the greedy sparsities are of another model.
        """
        file = self._histograms_file(loaded)
        histograms = load_histograms(file)
        norms = column_norms(loaded) if self.scoring == "wina" else None

        def thresholds(shares: float | Mapping[str, float]) -> Thresholds:
            found = activation_thresholds(histograms, shares)
            return found if norms is None else wina_channel_thresholds({name: found[name] for name in found if name in norms}, norms)

        shares: float | Mapping[str, float] = self.sparsity
        if self.greedy is not None:
            shares = self._greedy_record(loaded, thresholds, progress).sparsities(self.sparsity)
        return ActivationSparsity(self, thresholds(shares), _sha256(file), None if self.greedy is None else _sha256(self.greedy))

    def _histograms_file(self, loaded: LoadedModel) -> Path:
        if self.scoring == "teal" or not (self.histograms / MANIFEST_NAME).is_file():
            return histograms_file(self.histograms, scoring=self.scoring)
        return trace_histograms(open_trace(self.histograms), loaded, scoring=self.scoring)

    def _greedy_record(
        self, loaded: LoadedModel, thresholds: Callable[[Mapping[str, float]], Thresholds], progress: Progress
    ) -> GreedyRecord:
        assert self.greedy is not None
        if self.greedy.exists():
            record = read_greedy(self.greedy)
            if record.model.get("config_sha256") != config_sha256(loaded.model.config):
                raise XmsimError(f"{self.greedy}: sparsities of another model ({record.model.get('name')}); give --greedy a new file")
            if (record.scoring, record.policy) != (self.scoring, self.policy):
                found = f"{record.scoring} and {record.policy}"
                raise XmsimError(f"{self.greedy}: was searched with {found}; ask for the same, or give --greedy a new file")
            return record
        if not (self.histograms / MANIFEST_NAME).is_file():
            raise XmsimError(f"{self.greedy}: is not there, and is searched on the windows of a trace; give --histograms a trace folder")
        return search_greedy_sparsities(
            loaded,
            trace_tokens(open_trace(self.histograms)),
            thresholds,
            until=self.sparsity,
            scoring=self.scoring,
            policy=self.policy,
            file=self.greedy,
            progress=progress,
        )


@dataclass(frozen=True, slots=True, eq=False)
class ActivationSparsity:
    """A plan with the thresholds that it gives one model."""

    plan: ActivationPlan
    thresholds: Thresholds
    histograms_sha256: str
    greedy_sha256: str | None

    def attach(self, loaded: LoadedModel) -> AbstractContextManager[AttachedActivations]:
        """Inside this block the model's layers read zeros where the plan says so; raises as `attach_activation_sparsity`."""
        return attach_activation_sparsity(loaded, self.thresholds, policy=find_policy(self.plan.policy))


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
