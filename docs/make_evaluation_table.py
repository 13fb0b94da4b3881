"""Print the README's table of what each method costs, from the committed records: python docs/make_evaluation_table.py"""

from __future__ import annotations

from pathlib import Path

from xmsim.workloads.evaluation import EvaluatedRun, EvaluationRecord, read_evaluation

RECORDS = Path(__file__).parents[1] / "reports" / "measured"
LENGTH = 1024


def evaluation_table() -> str:
    """Markdown: a row a method, before and after tuning with xm, at one length."""
    before, after = (_runs(read_evaluation(RECORDS / f"evaluation_xm_tiny{end}.json")) for end in ("", "_tuned"))
    lines = [
        "| method | density | KV density | perplexity | over dense | tuned: density | perplexity | over dense |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for label, run in before.items():
        tuned = after[label]
        cells = (
            label,
            f"{run.densities.density:.3f}",
            f"{run.densities.kv_density:.3f}",
            f"{run.perplexity:.2f}",
            _increase(run),
            f"{tuned.densities.density:.3f}",
            f"{tuned.perplexity:.2f}",
            _increase(tuned),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _runs(record: EvaluationRecord) -> dict[str, EvaluatedRun]:
    return {run.label: run for run in record.runs if run.length_tokens == LENGTH}


def _increase(run: EvaluatedRun) -> str:
    return run.increase_words if run.loss_increase else ""


if __name__ == "__main__":
    print(evaluation_table())
