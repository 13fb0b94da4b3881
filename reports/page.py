"""report.html: one file with everything in it, which asks the network for nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

from xmsim.configs.record import software_version
from xmsim.reports.collection import Collection
from xmsim.reports.cross_check import accuracy_table as prediction_errors
from xmsim.reports.cross_check import sure_words, unpredicted
from xmsim.reports.equal_accuracy import accuracy_groups, unused_targets
from xmsim.reports.estimates import bar_words, energy_of
from xmsim.reports.figures.figure import Figure
from xmsim.reports.html import bullets, escaped, folded, preformatted, prose, table
from xmsim.reports.load import Comparison, Simulated
from xmsim.reports.masks import NOT_VALIDATED, TILES_EXPLAINED, gpu_table, tiles_table
from xmsim.reports.measured_tables import claims_note, claims_table, kernel_tables, linear_table, own_values_table
from xmsim.reports.page_detail import Detail, fitted
from xmsim.reports.rank_stability import rankings
from xmsim.reports.summary import extent_of, work_sentence
from xmsim.reports.table import Table
from xmsim.reports.tables import (
    accuracy_table,
    costs_table,
    derivation_id,
    derivations,
    files_table,
    heads_table,
    kernels_table,
    layer_energy_table,
    layers_table,
    machines_table,
    metrics_table,
    prediction_table,
    ranking_table,
    unit_rows,
    view_tables,
)
from xmsim.reports.verdict import Answer
from xmsim.reports.views import view_groups
from xmsim.reports.words import byte_count, capitalised, counted, listed, spaced
from xmsim.workloads.measurement import Host

SHOWN_KERNELS = 60  # rows of a measured table that stay where the page would be too large

Drawn = Mapping[str, Figure]  # by the name that the figure has in its part


@dataclass(frozen=True, slots=True)
class Part:
    """The attention of one extent, and its figures."""

    comparison: Comparison
    figures: Drawn


@dataclass(frozen=True, slots=True)
class Contents:
    """What a page is made of."""

    collection: Collection
    parts: tuple[Part, ...]
    besides: Drawn  # figures of no part
    answers: tuple[Answer, ...]
    summary: tuple[str, ...]

    @property
    def figures(self) -> tuple[Figure, ...]:
        return (*(figure for part in self.parts for figure in part.figures.values()), *self.besides.values())


@dataclass(frozen=True, slots=True)
class _View:
    """What a section is made from: how much of it is shown, and every figure as text."""

    detail: Detail
    drawings: Mapping[str, str]

    def figure(self, figure: Figure) -> str:
        notes = "".join(f"<p>{prose(note)}</p>\n" for note in figure.notes)
        if figure.name in self.detail.figures_left_out:
            drawing = f"<p>Too large for this page: see <code>{figure.name}.png</code>.</p>\n"
        else:
            drawing = f'<div class="drawing" tabindex="0">{self.drawings[figure.name]}</div>\n'
        return (
            f'<h3>{escaped(figure.title)}</h3>\n<figure>\n{drawing}<figcaption><p class="claim">{prose(figure.claim)}</p>\n'
            f"{notes}<p>Data: <code>{figure.name}.csv</code></p></figcaption>\n</figure>\n"
        )


def page(contents: Contents) -> str:
    """The whole page as text, with as much detail as fits into 3 MB."""
    drawings = {figure.name: figure.svg() for figure in contents.figures}
    sizes = [(name, len(drawing)) for name, drawing in drawings.items()]
    return fitted(lambda detail: _page(contents, _View(detail, drawings)), sizes)


def _page(contents: Contents, view: _View) -> str:
    room = files("xmsim.reports")
    title = f"xmsim report: {contents.collection.subject}"
    sections = {heading: inside for heading, inside in _sections(contents, view).items() if inside}
    left_out = _left_out(contents, view.detail)
    body = [
        f"<h1>{escaped(title)}</h1>\n",
        f'<p class="lead">{escaped(contents.summary[0])}</p>\n',
        _verdict(contents.answers),
        _key(),
        folded("Every machine and kernel in a sentence", bullets(contents.summary[1:])) if contents.summary[1:] else "",
        bullets(left_out) if left_out else "",
        _contents(sections),
        *(f'<h2 id="{_section_id(heading)}">{escaped(heading)}</h2>\n{inside}' for heading, inside in sections.items()),
        _made_by(contents),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped(title)}</title>\n<style>\n{(room / 'page.css').read_text(encoding='utf-8')}</style>\n</head>\n"
        f"<body>\n<main>\n{''.join(body)}</main>\n<script>\n{(room / 'page.js').read_text(encoding='utf-8')}</script>\n</body>\n</html>\n"
    )


def _sections(contents: Contents, view: _View) -> dict[str, str]:
    """{heading: HTML}; empty where there is nothing to show."""
    made = {}
    if contents.parts:
        first, *others = contents.parts
        made = {heading: make(first, view) for heading, make in SECTIONS.items()}
        made |= {capitalised(extent_of(part.comparison)): _other_part(part, view) for part in others}
    made["What tiles leave to skip"] = _tiles(contents)
    made["Linear layers, whole models and other kernels"] = _kernels(contents, view)
    made["Predicted against measured"] = _predicted(contents, view)
    made["Published claims"] = _claims(contents, view)
    made["Where the numbers come from"] = _provenance(contents, view)
    return made


def _left_out(contents: Contents, detail: Detail) -> list[str]:
    parts = contents.collection.parts
    said = list(dict.fromkeys(sentence for part in parts for sentence in part.left_out)) + list(contents.collection.left_out)
    if detail.left_out:
        said.append(f"To stay below 3 MB this page leaves out {listed(detail.left_out)}: report.csv has them.")
    if detail.figures_left_out:
        said.append(
            f"To stay below 3 MB this page leaves out {counted(len(detail.figures_left_out), 'figure')}: they are beside it as PNG."
        )
    return said


def _verdict(answers: Sequence[Answer]) -> str:
    lines = "".join(f"<dt>{escaped(one.question)}?</dt><dd>{prose(one.answer)}</dd>\n" for one in answers)
    return f'<dl class="verdict">\n{lines}</dl>\n'


def _key() -> str:
    return (
        '<div class="key">\n'
        '<p class="simulated"><b>Simulated</b> (blue and green, plain): cycles that a model of a machine counts, divided by its clock; '
        "area and energy are estimates from tables, with bars. No such chip was run.</p>\n"
        '<p class="measured"><b>Measured</b> (orange, hatched): wall-clock time on the host named beside it, median of n repetitions '
        "with quartiles.</p>\n"
        '<p class="published"><b>Published</b> (white diamonds): what a paper says, under its own conditions; in a section of its own, and '
        "no part of any number of ours.</p>\n</div>\n"
    )


def _contents(headings: Mapping[str, str]) -> str:
    links = "".join(f'<li><a href="#{_section_id(heading)}">{escaped(heading)}</a></li>\n' for heading in headings)
    return f'<nav aria-label="Sections"><ul>\n{links}</ul></nav>\n'


def _section_id(heading: str) -> str:
    return "section-" + heading.lower().replace(",", "").replace(" ", "-")


def _how_fast(part: Part, view: _View) -> str:
    comparison, drawn = part.comparison, part.figures
    parts = []
    if comparison.simulated:
        parts += [view.figure(drawn["speedup_simulated"]), _titled(machines_table(comparison))]
        for group in view_groups(comparison):
            tables = "".join(_titled(one, level=4) for one in view_tables(group, comparison))
            parts.append(folded(f"Each view in numbers: {group.title}", tables))
    if "speedup_measured" in drawn:
        parts += [view.figure(drawn["speedup_measured"]), _titled(kernels_table(comparison))]
    parts += [view.figure(drawn[name]) for name in ("simulated_against_measured",) if name in drawn]
    return "".join(parts)


def _equal_accuracy(part: Part, view: _View) -> str:
    found = accuracy_groups(part.comparison)
    said = bullets(unused_targets(part.comparison)) if unused_targets(part.comparison) else ""
    if not found:
        return said
    parts = [
        "<p>Each machine with a method whose free parameter was solved for the target: it prunes as much as it can while perplexity stays "
        "so little above the dense model's, or is within a tenth of the target as it is. The baseline is dense.</p>\n",
        view.figure(part.figures["speedup_at_equal_accuracy"]),
    ]
    parts += [_titled(accuracy_table(one)) + (bullets(one.notes) if one.notes else "") for one in found]
    return "".join(parts) + said


def _how_big(part: Part, view: _View) -> str:
    comparison = part.comparison
    if not comparison.simulated:
        return ""
    opens = "A number opens what it is made of, and there each unit opens the rows of the tables, with their sources. "
    parts = [
        "<p>Counts of the simulation times rows of component tables; a bar is the 5th to the 95th percentile. Power and area are of the "
        f"chip without DRAM. {opens if view.detail.terms else ''}What was published is no part of any estimate.</p>\n",
        _titled(costs_table(comparison)),
        *(_derivations(one, view.detail) for one in comparison.simulated),
    ]
    if predicted := prediction_table(comparison):
        parts += [
            _titled(predicted),
            "<p>Prediction works beside execution, so its cycles are a share of the time and no part that could be taken off. DRAM traffic "
            "for low-bit keys is counted with DRAM.</p>\n",
        ]
    return "".join(parts)


def _derivations(one: Simulated, detail: Detail) -> str:
    """What each estimate consists of, unit by unit; the rows of a unit are in report.csv where they do not fit."""
    costs = one.record.costs
    if costs is None:
        return ""
    parts = []
    for what, name, quantity, scale, sign in derivations(costs):
        if what != "area" and not energy_of(one):
            continue
        ordered = sorted(quantity.by_unit.items(), key=lambda item: -item[1].nominal)
        names = {unit: f"{spaced(unit)}: {bar_words(value, scale)} {sign}" for unit, value in ordered}
        if detail.terms:
            inside = "".join(folded(words, table(unit_rows(quantity, unit, scale, sign))) for unit, words in names.items())
        else:
            inside = bullets(names.values()) + "<p>The terms of each unit: in <code>report.csv</code>.</p>\n"
        title = f"{one.label} ({one.record.view}, {one.method}): {name} {bar_words(quantity.total, scale)} {sign}"
        parts.append(folded(title, inside, derivation_id(one, what)))
    notes = bullets(f"{one.label}: {note}." for note in costs.notes) if costs.notes else ""
    return "".join(parts) + notes


def _how_sure(part: Part, view: _View) -> str:
    found = [(group, ranking) for group in view_groups(part.comparison) for ranking in rankings(group)]
    if not found:
        return ""
    if not view.detail.rankings:
        return "<p>The probability that one machine is better than another, for each pair: in <code>report.csv</code>.</p>\n"
    said = (
        "<p>The probability that the machine of the row is better than that of the column, from 4000 draws of the tables' rows; what two "
        "machines share is drawn once. Between 0.05 and 0.95, with a star, the order is not safe. The draws do not cover whether a machine "
        "is made of what its model says.</p>\n"
    )
    return said + "".join(_titled(ranking_table(ranking), f"{capitalised(group.title)}; {ranking.criterion}") for group, ranking in found)


def _layer_by_layer(part: Part, view: _View) -> str:
    comparison = part.comparison
    parts = [view.figure(part.figures["layer_latency"])]
    if comparison.simulated:
        known = any(one.layer_costs for one in comparison.simulated)
        energies = "Energies are nominal (5 to 95 %) and add up to those of the machine; units open below the layers. " if known else ""
        parts.append(
            "<p>The lower bound of a layer is the work of its busiest unit, or its bytes over the bandwidth of DRAM: the same jobs "
            f"in no order are done sooner. {energies}Heads open below each layer.</p>\n"
        )
    if not view.detail.layers:
        return "".join(parts) + "<p>Layers and heads of each machine: in <code>report.csv</code>.</p>\n"
    for one in comparison.simulated:
        layers = table(layers_table(one))
        if by_unit := layer_energy_table(one):
            layers += folded("Energy of each layer by unit, µJ (nominal)", table(by_unit))
        if view.detail.heads:
            layers += "".join(folded(f"Layer {layer}: heads", table(heads_table(one, layer))) for layer in comparison.layers)
        else:
            layers += "<p>Heads: in <code>report.csv</code>.</p>\n"
        parts.append(folded(f"{one.label} ({one.record.view}, {one.method}): layers", layers))
    return "".join(parts)


def _sparsity(part: Part, view: _View) -> str:
    return view.figure(part.figures["density_map"]) if "density_map" in part.figures else ""


def _why(part: Part, view: _View) -> str:
    parts = [view.figure(part.figures[name]) for name in ("waterfall", "cycle_account", "roofline") if name in part.figures]
    if metrics := metrics_table(part.comparison):
        parts.append(folded(metrics.title, table(metrics)))
    return "".join(parts)


def _other_part(part: Part, view: _View) -> str:
    """The sections of another extent, each to be opened; the first is open."""
    made = {heading: make(part, view) for heading, make in SECTIONS.items()}
    fast = made.pop("How fast")
    return f"<p>{escaped(work_sentence(part.comparison))}</p>\n{fast}" + "".join(
        folded(heading, inside) for heading, inside in made.items() if inside
    )


def _kernels(contents: Contents, view: _View) -> str:
    collection = contents.collection
    if not collection.kernels:
        return ""
    parts = [
        "<p>Measured work that is not the trace's attention: it has shapes, models and hosts of its own, named in every row, and none of "
        "it is in the numbers above.</p>\n"
    ]
    if "kernel_speedups" in contents.besides:
        parts.append(view.figure(contents.besides["kernel_speedups"]))
    for one in kernel_tables(collection):
        if view.detail.kernels or len(one.rows) <= SHOWN_KERNELS:
            parts.append(folded(f"{one.title} ({counted(len(one.rows), 'row')})", table(one)))
        else:
            parts.append(f"<p>{escaped(one.title)}: in <code>report.csv</code>.</p>\n")
    if found := linear_table(collection):
        parts += [
            _titled(found),
            "<p>The machines' projections are dense, on their own multipliers. Raw milliseconds of different technologies: the ratio says "
            "nothing about efficiency.</p>\n",
        ]
    return "".join(parts)


def _tiles(contents: Contents) -> str:
    """How much of the sparsity a machine can use that skips tiles, and a GPU that does."""
    collection = contents.collection
    parts = []
    for one in collection.masks:
        parts += [_titled(tiles_table(one)), f"<p>{prose(TILES_EXPLAINED)}</p>\n"]
        if predicted := gpu_table(one, collection.main):
            parts += [_titled(predicted), f"<p>{prose(NOT_VALIDATED)}</p>\n"]
    return "".join(parts)


def _predicted(contents: Contents, view: _View) -> str:
    """How far models of hosts are from kernels that were measured there."""
    parts = []
    figures = {id(one): name for name, one in contents.collection.drawn_predictions.items()}
    for one in contents.collection.predicted:
        parts.append(f"<p>{prose(sure_words(one.record))}</p>\n")
        if name := figures.get(id(one)):
            parts += [view.figure(contents.besides[name]), _titled(prediction_errors(one.record, one.path.name))]
        if left := unpredicted(one.record):
            parts.append(folded(f"What {one.path.name} leaves out", bullets(left)))
    return "".join(parts)


def _claims(contents: Contents, view: _View) -> str:
    figure = contents.besides.get("published_beside_ours")
    drawn = view.figure(figure) if figure else ""
    ours = own_values_table(contents.collection)
    tables = _titled(claims_table(contents.collection)) + (_titled(ours) if ours else "")
    return f"{drawn}{tables}<p>{escaped(claims_note())}</p>\n"


def _provenance(contents: Contents, view: _View) -> str:
    collection = contents.collection
    parts = [table(files_table(collection))]
    if collection.main:
        parts.append(folded("Trace", preformatted(_json(collection.main.trace))))
    for measured in (one for part in collection.parts for one in part.measured):
        given = {"method": measured.record.method} | measured.record.conditions
        parts.append(_host(measured.path.name, measured.record.host, given))
    parts += [_host(one.path.name, one.record.host, one.record.conditions) for one in collection.generated]
    parts += [_host(one.path.name, one.host, None) for one in collection.benchmarks]
    parts += [_host(one.path.name, one.record.host, None) for one in collection.predicted]
    if not view.detail.configurations:
        return "".join(parts) + "<p>Methods and configurations of the machines: in the result files.</p>\n"
    for one in collection.simulated:
        title = f"{one.label}, {one.record.view}, {one.phase}: method {one.method} and machine configuration"
        parts.append(folded(title, preformatted(f"method {_json(one.record.method)}\nmachine {_json(one.record.machine.config)}")))
    return "".join(parts)


SECTIONS: dict[str, Callable[[Part, _View], str]] = {
    "How fast": _how_fast,
    "At equal accuracy": _equal_accuracy,
    "How big and how hungry": _how_big,
    "How sure": _how_sure,
    "Layer by layer": _layer_by_layer,
    "Where the sparsity is": _sparsity,
    "Why": _why,
}


def _titled(content: Table, title: str = "", *, level: int = 3) -> str:
    return f"<h{level}>{escaped(title or capitalised(content.title))}</h{level}>\n{table(content)}"


def _made_by(contents: Contents) -> str:
    beside = ", ".join(f"<code>{figure.name}.png</code>" for figure in contents.figures)
    main = contents.collection.main
    origin = f" from trace <code>{escaped(main.trace['sha256'])}</code>" if main else ""
    return (
        f"<p>Report made by xmsim {escaped(software_version())}{origin}. "
        f"Beside this page: every number in <code>report.csv</code>, a text of it in <code>report.md</code>, the figures as {beside}.</p>\n"
    )


def _host(file: str, host: Host, given: Mapping[str, object] | None) -> str:
    facts = {
        "CPU": f"{host.cpu}, {host.cores} cores",
        "CPU features": ", ".join(host.cpu_features) or "none of those that matter",
        "memory": byte_count(host.memory_bytes),
        "GPU": host.gpu or "none",
        "system": host.system,
        "Python": host.python,
        "packages": ", ".join(f"{name} {version}" for name, version in host.packages.items()),
    }
    if given is not None:
        facts["conditions"] = _json(given)
    lines = "".join(f"<dt>{escaped(name)}</dt><dd>{escaped(fact)}</dd>\n" for name, fact in facts.items())
    return folded(f"Host of {file}: {host.cpu}", f"<dl>\n{lines}</dl>\n")


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
