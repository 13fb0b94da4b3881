"""report.html: one file with everything in it, which asks the network for nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files

from xmsim.configs.record import software_version
from xmsim.reports.figures.figure import Figure
from xmsim.reports.html import bullets, escaped, folded, prose
from xmsim.reports.load import Comparison
from xmsim.reports.tables import files_table, kernels_table, machines_table, metrics_table, provenance

SECTIONS = {  # heading: figures, by name, where there is anything to draw
    "How fast": ("speedup_simulated", "speedup_measured", "simulated_against_measured"),
    "Layer by layer": ("layer_latency",),
    "Where the sparsity is": ("density_map",),
    "Why": ("cycle_account", "roofline"),
}


def page(comparison: Comparison, figures: Sequence[Figure], summary: Sequence[str]) -> str:
    """The whole page as text."""
    drawn = {figure.name: figure for figure in figures}
    room = files("xmsim.reports")
    title = f"xmsim report: {comparison.trace.get('model', 'unnamed model')}"
    body = [
        f"<h1>{escaped(title)}</h1>\n",
        f'<p class="lead">{escaped(summary[0])}</p>\n',
        _key(),
        bullets(summary[1:]),
        bullets(comparison.left_out) if comparison.left_out else "",
        *(_section(comparison, heading, names, drawn) for heading, names in SECTIONS.items()),
        _provenance(comparison, figures),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped(title)}</title>\n<style>\n{(room / 'page.css').read_text(encoding='utf-8')}</style>\n</head>\n"
        f"<body>\n<main>\n{''.join(body)}</main>\n<script>\n{(room / 'page.js').read_text(encoding='utf-8')}</script>\n</body>\n</html>\n"
    )


def _key() -> str:
    return (
        '<div class="key">\n'
        '<p class="simulated"><b>Simulated</b> (blue and green, plain): cycles that a model of a machine counts, divided by its clock. '
        "No such chip was run.</p>\n"
        '<p class="measured"><b>Measured</b> (orange, hatched): wall-clock time on the host named beside it, median of n repetitions '
        "with quartiles.</p>\n</div>\n"
        "<p>The two are different kinds of numbers. They meet in one figure only, which says so above its axis.</p>\n"
    )


def _section(comparison: Comparison, heading: str, names: Sequence[str], drawn: Mapping[str, Figure]) -> str:
    tables = {
        "speedup_simulated": lambda: f"<h3>Simulated machines, all layers and windows</h3>\n{machines_table(comparison)}",
        "speedup_measured": lambda: f"<h3>Measured kernels, all layers and windows</h3>\n{kernels_table(comparison)}",
        "cycle_account": lambda: folded("What the schedulers report", metrics_table(comparison)) if metrics_table(comparison) else "",
    }
    parts = [_figure(drawn[name]) + tables.get(name, str)() for name in names if name in drawn]
    return f"<h2>{escaped(heading)}</h2>\n{''.join(parts)}" if parts else ""


def _figure(figure: Figure) -> str:
    notes = "".join(f"<p>{prose(note)}</p>\n" for note in figure.notes)
    return (
        f"<h3>{escaped(figure.title)}</h3>\n<figure>\n{figure.svg()}\n"
        f'<figcaption><p class="claim">{prose(figure.claim)}</p>\n{notes}'
        f"<p>Data: <code>{figure.name}.csv</code></p></figcaption>\n</figure>\n"
    )


def _provenance(comparison: Comparison, figures: Sequence[Figure]) -> str:
    beside = ", ".join(f"<code>{figure.name}.png</code>" for figure in figures)
    return (
        f"<h2>Where the numbers come from</h2>\n<p>Report made by xmsim {escaped(software_version())} from trace "
        f"<code>{escaped(comparison.trace['sha256'])}</code>.</p>\n{files_table(comparison)}{provenance(comparison)}"
        f"<p>Beside this page: every number in <code>report.csv</code>; the figures as {beside}.</p>\n"
    )
