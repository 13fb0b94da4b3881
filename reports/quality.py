"""What a method costs the model: perplexity, where an evaluation of the trace's model was given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from xmsim.reports.load import Comparison, Simulated
from xmsim.reports.words import counted, significant
from xmsim.workloads.evaluation import EvaluatedRun


@dataclass(frozen=True, slots=True)
class Quality:
    """A method's perplexity, and on what it was found."""

    run: EvaluatedRun
    text: str
    file: str

    @property
    def words(self) -> str:
        """`33.2 (+2.5 ± 0.1 %)`, over dense on the same text, with its standard error."""
        if not self.run.perplexity_increase:
            return significant(self.run.perplexity)
        return f"{significant(self.run.perplexity)} ({self.run.increase_words})"

    @property
    def source(self) -> str:
        return f"{counted(self.run.windows, 'window')} of {self.run.length_tokens} tokens of {self.text}, {self.file}"


def quality_of(one: Simulated, comparison: Comparison) -> Quality | None:
    """The evaluation of exactly the method that the machine ran, at the length nearest to that of the trace; None: not given."""
    return min(qualities_of(one, comparison), key=lambda quality: _far(quality, comparison), default=None)


def qualities_of(one: Simulated, comparison: Comparison) -> tuple[Quality, ...]:
    """Every evaluation of exactly the method that the machine ran, with dense linear layers, at the length nearest to the trace's."""
    found = [
        Quality(run, evaluated.record.text.name, evaluated.path.name)
        for evaluated in comparison.evaluated
        for run in evaluated.record.runs
        if run.activations is None and _parameters(run.method) == _parameters(one.record.method)
    ]
    nearest = min((_far(quality, comparison) for quality in found), default=0)
    return tuple(quality for quality in found if _far(quality, comparison) == nearest)


def _far(quality: Quality, comparison: Comparison) -> int:
    """From the length of the evaluation to that of the trace, in tokens."""
    return abs(quality.run.length_tokens - max(shape.key_tokens for shape in comparison.work.values()))


def quality_notes(comparison: Comparison) -> tuple[str, ...]:
    """What the perplexities were found on, in a sentence; none where no machine's method was evaluated."""
    found = [quality for one in comparison.simulated if (quality := quality_of(one, comparison))]
    if not found:
        return ()
    where = "; ".join(dict.fromkeys(quality.source for quality in found))
    return (f"Perplexity: measured, and in brackets its increase over the dense model on the same windows ± its standard error ({where}).",)


def _parameters(method: dict[str, Any]) -> dict[str, Any]:
    """What decides the mask: everything but the name; no prediction is the same as none stated."""
    return {key: value for key, value in method.items() if key != "name" and value is not None}
