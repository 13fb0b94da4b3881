"""report.html: one file with everything in it, which asks the network for nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files

from xmsim.configs.record import software_version
from xmsim.reports.estimates import bar_words, energy_of
from xmsim.reports.figures.figure import Figure
from xmsim.reports.html import bullets, escaped, folded, preformatted, prose, table
from xmsim.reports.load import Comparison, Measured, Simulated
from xmsim.reports.rank_stability import rankings
from xmsim.reports.table import Table
from xmsim.reports.tables import (
    costs_table,
    derivation_id,
    derivations,
    files_table,
    heads_table,
    kernels_table,
    layers_table,
    machines_table,
    metrics_table,
    prediction_table,
    ranking_table,
    unit_rows,
    view_tables,
)
from xmsim.reports.views import view_groups
from xmsim.reports.words import byte_count, capitalised, spaced

MOST_HEAD_ROWS = 4000  # beyond, the page would outgrow what a phone opens; report.csv has them all

Drawn = Mapping[str, Figure]


def page(comparison: Comparison, figures: Sequence[Figure], summary: Sequence[str]) -> str:
    """The whole page as text."""
    drawn = {figure.name: figure for figure in figures}
    room = files("xmsim.reports")
    title = f"xmsim report: {comparison.trace.get('model', 'unnamed model')}"
    made = {heading: make(comparison, drawn) for heading, make in SECTIONS.items()}
    sections = {heading: inside for heading, inside in made.items() if inside}
    body = [
        f"<h1>{escaped(title)}</h1>\n",
        f'<p class="lead">{escaped(summary[0])}</p>\n',
        _key(),
        bullets(summary[1:]),
        bullets(comparison.left_out) if comparison.left_out else "",
        _contents(sections),
        *(f'<h2 id="{_section_id(heading)}">{escaped(heading)}</h2>\n{inside}' for heading, inside in sections.items()),
        _made_by(comparison, figures),
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
        '<p class="simulated"><b>Simulated</b> (blue and green, plain): cycles that a model of a machine counts, divided by its clock; '
        "area and energy are estimates from tables, with bars. No such chip was run.</p>\n"
        '<p class="measured"><b>Measured</b> (orange, hatched): wall-clock time on the host named beside it, median of n repetitions '
        "with quartiles.</p>\n</div>\n"
        "<p>The two are different kinds of numbers. They meet in one figure only, which says so above its axis.</p>\n"
    )


def _contents(headings: Mapping[str, str]) -> str:
    links = "".join(f'<li><a href="#{_section_id(heading)}">{escaped(heading)}</a></li>\n' for heading in headings)
    return f'<nav aria-label="Sections"><ul>\n{links}</ul></nav>\n'


def _section_id(heading: str) -> str:
    return "section-" + heading.lower().replace(" ", "-")


def _how_fast(comparison: Comparison, drawn: Drawn) -> str:
    parts = []
    if comparison.simulated:
        parts += [_figure(drawn["speedup_simulated"]), _titled(machines_table(comparison))]
        for group in view_groups(comparison):
            tables = "".join(_titled(one, level=4) for one in view_tables(group, comparison))
            parts.append(folded(f"Each view in numbers: {group.title}", tables))
    if "speedup_measured" in drawn:
        parts += [_figure(drawn["speedup_measured"]), _titled(kernels_table(comparison))]
    parts += [_figure(drawn[name]) for name in ("simulated_against_measured",) if name in drawn]
    return "".join(parts)


def _how_big(comparison: Comparison, _: Drawn) -> str:
    if not comparison.simulated:
        return ""
    parts = [
        "<p>Counts of the simulation times rows of component tables; a bar is the 5th to the 95th percentile. Power and area are of the "
        "chip without DRAM. A number opens what it is made of, and there each unit opens the rows of the tables, with their sources. What "
        "was published is no part of any estimate.</p>\n",
        _titled(costs_table(comparison)),
    ]
    for place, one in enumerate(comparison.simulated):
        parts.append(_derivations(place, one))
    if predicted := prediction_table(comparison):
        parts += [
            _titled(predicted),
            "<p>Prediction works beside execution, so its cycles are a share of the time and no part that could be taken off. DRAM traffic "
            "for low-bit keys is counted with DRAM.</p>\n",
        ]
    return "".join(parts)


def _derivations(place: int, one: Simulated) -> str:
    costs = one.record.costs
    if costs is None:
        return ""
    parts = []
    for what, name, quantity, scale, sign in derivations(costs):
        if what != "area" and not energy_of(one):
            continue
        units = [
            folded(f"{spaced(unit)}: {bar_words(value, scale)} {sign}", table(unit_rows(quantity, unit, scale, sign)))
            for unit, value in sorted(quantity.by_unit.items(), key=lambda item: -item[1].nominal)
        ]
        title = f"{one.label} ({one.record.view}, {one.method}): {name} {bar_words(quantity.total, scale)} {sign}"
        parts.append(folded(title, "".join(units), derivation_id(place, what)))
    notes = bullets(f"{one.label}: {note}." for note in costs.notes) if costs.notes else ""
    return "".join(parts) + notes


def _how_sure(comparison: Comparison, _: Drawn) -> str:
    parts = [
        _titled(ranking_table(ranking), f"{capitalised(group.title)}; {ranking.criterion}")
        for group in view_groups(comparison)
        for ranking in rankings(group)
    ]
    said = (
        "<p>The probability that the machine of the row is better than that of the column, from 4000 draws of the tables' rows; what two "
        "machines share is drawn once. Between 0.05 and 0.95, with a star, the order is not safe. The draws do not cover whether a machine "
        "is made of what its model says.</p>\n"
    )
    return said + "".join(parts) if parts else ""


def _layer_by_layer(comparison: Comparison, drawn: Drawn) -> str:
    heads = sum(len(run.result.heads) for one in comparison.simulated for run in one.record.runs)
    parts = [_figure(drawn["layer_latency"])]
    if comparison.simulated:
        parts.append(
            "<p>The lower bound of a layer is the work of its busiest unit, or its bytes over the bandwidth of DRAM: the same jobs "
            "in no order are done sooner. Heads open below each layer.</p>\n"
        )
    for one in comparison.simulated:
        layers = table(layers_table(one))
        if heads <= MOST_HEAD_ROWS:
            layers += "".join(folded(f"Layer {layer}: heads", table(heads_table(one, layer))) for layer in comparison.layers)
        else:
            layers += "<p>Heads: in <code>report.csv</code>.</p>\n"
        parts.append(folded(f"{one.label} ({one.record.view}, {one.method}): layers", layers))
    return "".join(parts)


def _sparsity(_: Comparison, drawn: Drawn) -> str:
    return _figure(drawn["density_map"]) if "density_map" in drawn else ""


def _why(comparison: Comparison, drawn: Drawn) -> str:
    parts = [_figure(drawn[name]) for name in ("waterfall", "cycle_account", "roofline") if name in drawn]
    if metrics := metrics_table(comparison):
        parts.append(folded(metrics.title, table(metrics)))
    return "".join(parts)


def _provenance(comparison: Comparison, _: Drawn) -> str:
    parts = [table(files_table(comparison)), folded("Trace", preformatted(_json(comparison.trace)))]
    for measured in comparison.measured:
        parts.append(folded(f"Host of {measured.path.name}: {measured.record.host.cpu}", _host(measured)))
    for one in comparison.simulated:
        title = f"{one.label}, {one.record.view}: method {one.method} and machine configuration"
        parts.append(folded(title, preformatted(f"method {_json(one.record.method)}\nmachine {_json(one.record.machine.config)}")))
    return "".join(parts)


SECTIONS: dict[str, Callable[[Comparison, Drawn], str]] = {
    "How fast": _how_fast,
    "How big and how hungry": _how_big,
    "How sure": _how_sure,
    "Layer by layer": _layer_by_layer,
    "Where the sparsity is": _sparsity,
    "Why": _why,
    "Where the numbers come from": _provenance,
}


def _titled(content: Table, title: str = "", *, level: int = 3) -> str:
    return f"<h{level}>{escaped(title or capitalised(content.title))}</h{level}>\n{table(content)}"


def _figure(figure: Figure) -> str:
    notes = "".join(f"<p>{prose(note)}</p>\n" for note in figure.notes)
    return (
        f'<h3>{escaped(figure.title)}</h3>\n<figure>\n<div class="drawing" tabindex="0">{figure.svg()}</div>\n'
        f'<figcaption><p class="claim">{prose(figure.claim)}</p>\n'
        f"{notes}<p>Data: <code>{figure.name}.csv</code></p></figcaption>\n</figure>\n"
    )


def _made_by(comparison: Comparison, figures: Sequence[Figure]) -> str:
    beside = ", ".join(f"<code>{figure.name}.png</code>" for figure in figures)
    return (
        f"<p>Report made by xmsim {escaped(software_version())} from trace <code>{escaped(comparison.trace['sha256'])}</code>. "
        f"Beside this page: every number in <code>report.csv</code>, a text of it in <code>report.md</code>, the figures as {beside}.</p>\n"
    )


def _host(measured: Measured) -> str:
    host = measured.record.host
    facts = {
        "CPU": f"{host.cpu}, {host.cores} cores",
        "CPU features": ", ".join(host.cpu_features) or "none of those that matter",
        "memory": byte_count(host.memory_bytes),
        "GPU": host.gpu or "none",
        "system": host.system,
        "Python": host.python,
        "packages": ", ".join(f"{name} {version}" for name, version in host.packages.items()),
        "method": _json(measured.record.method),
    }
    lines = "".join(f"<dt>{escaped(name)}</dt><dd>{escaped(fact)}</dd>\n" for name, fact in facts.items())
    return f"<dl>\n{lines}</dl>\n"


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
