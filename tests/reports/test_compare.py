"""The report as a whole: the page, the long table, the command."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser

import pytest
import typer
from typer.testing import CliRunner

from xmsim.configs.errors import RecordError
from xmsim.reports.compare import compare
from xmsim.sim.result import read_result
from xmsim.workloads.measurement import read_measurement

HOSTILE = '<script>alert("x")</script> $a$ & \u0001 é 模'


class Page(HTMLParser):
    """Everything in a page that can point somewhere, or be pointed at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.ids: list[str] = []
        self.tags: Counter[str] = Counter()
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags[tag] += 1
        for name, value in attributes:
            value = value or ""
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
                self.references.append(value)
            if re.search(r"https?://|^//", value):
                self.references.append(value)
            self.references += re.findall(r"url\(([^)]*)\)", value)

    handle_startendtag = handle_starttag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, write_simulated, write_measured, estimated):
    folder = tmp_path_factory.mktemp("inputs")
    write_simulated(folder / "dynax_s.json", costs=estimated())
    write_simulated(
        folder / "dynax_l.json",
        machine="dynax_l",
        method="xm",
        head_cycles=900,
        peak_macs_per_cycle=2048,
        area_mm2=6.05,
        costs=estimated(area_mm2=8.0, chip_uj=5.0, own=3.0),
    )
    write_simulated(folder / "dense.json", machine="dense", method="dense", head_cycles=9000, area_mm2=None, area_source="not laid out")
    write_simulated(folder / "dense.xm.json", machine="dense", method="xm", view="same mask", head_cycles=9000)
    write_measured(folder / "cpu.json")
    return folder


@pytest.fixture(scope="module")
def outcome(tmp_path_factory, inputs):
    files = [inputs / f"{name}.json" for name in ("dynax_s", "dynax_l", "dense", "dense.xm", "cpu")]
    return compare(files, tmp_path_factory.mktemp("outcome") / "report")


def test_the_page_asks_for_nothing_outside_itself(outcome):
    text = outcome.report.read_text()
    page = Page(text)
    assert page.tags["svg"] == 8 and page.tags["table"] >= 3
    assert page.references, "the figures refer to their own parts"
    assert [reference for reference in page.references if not reference.startswith("#")] == []
    assert {"link", "img", "image", "iframe", "object", "embed", "base"} & set(page.tags) == set()
    loaded = re.findall(r"<style>.*?</style>|<script>.*?</script>", text, re.DOTALL)
    assert len(loaded) == 2
    assert not any(re.search(r"url\(|@import|https?:|fetch\(|import\(", part) for part in loaded)


def test_every_id_is_unique_and_every_reference_has_its_target(outcome):
    page = Page(outcome.report.read_text())
    assert [name for name, count in Counter(page.ids).items() if count > 1] == []
    assert {reference.removeprefix("#") for reference in page.references} <= set(page.ids)


def test_names_from_files_are_text_and_never_markup(tmp_path, simulated, measured):
    trace = {"path": HOSTILE, "sha256": HOSTILE, "model": HOSTILE, "text": HOSTILE}
    facts = {"machine": HOSTILE, "method": HOSTILE, "area_mm2": None, "area_source": HOSTILE, "config": {HOSTILE: HOSTILE}}
    outcome = compare([simulated("a.json", trace=trace, **facts), measured("b.json", trace=trace, method=HOSTILE)], tmp_path / "out")
    text = outcome.report.read_text()
    assert "<script>alert" not in text
    page = Page(text)
    assert page.tags["script"] == 1
    assert any(HOSTILE in words for words in page.words)


def test_the_page_is_the_same_every_time(tmp_path, simulated, measured):
    files = [simulated("a.json"), measured("b.json")]
    first, second = compare(files, tmp_path / "one"), compare(files, tmp_path / "two")
    for one, other in zip(first.files, second.files, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


def test_every_figure_has_its_png_and_its_csv_beside_the_page(outcome):
    folder = outcome.report.parent
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in outcome.files)
    images = [path for path in outcome.files if path.suffix == ".png"]
    assert len(images) == 8
    for image in images:
        assert image.read_bytes().startswith(b"\x89PNG")
        assert image.with_suffix(".csv") in outcome.files


def test_the_long_table_holds_the_numbers_of_the_records(outcome, inputs):
    with (outcome.report.parent / "report.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = {
        (row["machine"], row["view"], row["operation"], row["layer"], row["head"], row["metric"], row["unit"]): row["value"] for row in rows
    }
    assert len(found) == len(rows), "no number is given twice"
    for name in ("dynax_s", "dynax_l", "dense"):
        record = read_result(inputs / f"{name}.json")
        for run in record.runs:
            here = (name, "native", "attention", str(run.layer))
            assert int(found[*here, "", "total", "cycles"]) == run.result.cycles
            assert float(found[*here, "", "latency", "ms"]) == record.milliseconds(run.result.cycles)
            assert int(found[*here, "", "read: dram", "B"]) == run.result.traffic["dram"]["read_bytes"]
            assert int(found[*here, "", "idle: scheduler: starved", "server-cycles"]) == run.result.idle["scheduler"]["starved"]
            for head in run.result.heads:
                assert int(found[*here, str(head.head), "total", "cycles"]) == head.cycles
                assert float(found[*here, str(head.head), "density", "fraction"]) == head.densities.density
    host = "Made-up CPU 9000, 2 threads"
    for timed in read_measurement(inputs / "cpu.json").runs:
        here = (host, "", f"{timed.operation}, {timed.backend}, {timed.dtype}", str(timed.layer), "")
        assert float(found[*here, "latency, median", "ms"]) == timed.timing.median_ms
        assert float(found[*here, "latency, third quartile", "ms"]) == timed.timing.third_quartile_ms
    assert {row["source"] for row in rows} == {"simulated", "measured", "estimated", "published"}
    (area,) = [row for row in rows if (row["machine"], row["metric"], row["source"]) == ("dynax_s", "area", "estimated")]
    costs = read_result(inputs / "dynax_s.json").costs
    assert [float(area[name]) for name in ("low", "value", "high")] == [costs.area.total.low, 2.0, costs.area.total.high]
    assert area["basis"] == "component tables at 28 nm, bars 5 to 95 %"
    areas = [row for row in rows if row["metric"] == "published area"]
    published = {row["machine"]: (row["value"], row["basis"]) for row in areas}
    terms = [row for row in rows if row["metric"] == "area: prediction_array: integer_mac 4-bit" and row["machine"] == "dynax_s"]
    assert [row["value"] for row in terms] == ["1.0"] and "row of 2.0 mm2 1 (1 to 1) pJ [another made-up table]" in terms[0]["basis"]
    assert published == {"dynax_s": ("1.08", "made up"), "dynax_l": ("6.05", "made up"), "dense": ("1.08", "made up")}


def test_the_summary_is_sentences_with_units(outcome):
    assert outcome.summary[0] == "On made-up model, made-up.txt, 3 layers × 4 heads × 256 tokens: 4 simulated results and 1 measurement."
    # 4 heads × 2000 × (1.0 + 1.1 + 1.2) = 26400 cycles at 500 MHz
    machine = next(line for line in outcome.summary if line.startswith("dynax_s (native"))
    assert machine.startswith(
        "dynax_s (native, xm_32): 0.0528 ms simulated at 500 MHz, density 0.0900, prediction array busy 85 %, bound by prediction array; "
        "estimated (5 to 95 %) 2.00 ("
    )
    assert "mm², 114 (" in machine and "10.0 (" in machine and "µJ with DRAM" in machine
    assert outcome.summary[1].startswith("Native view: fastest as simulated dynax_l, 10.0× dense; at equal peak MACs dynax_s, 4.50× dense;")
    assert any(
        line.startswith("CPU dense attention, torch sdpa, flash, float32: 6.00 ms (quartiles 5.40 to 6.60, n = 20)")
        for line in outcome.summary
    )
    assert any("raw milliseconds of different technologies" in line for line in outcome.summary)


def test_a_sparse_time_without_its_mask_is_not_what_a_machine_is_compared_with(tmp_path, simulated, measured):
    # 3 layers of 2 ms dense and 1 ms sparse against 0.0528 ms: a mask is not given to anyone for free
    outcome = compare([simulated("a.json"), measured("b.json", mask_ms=None)], tmp_path / "report")
    assert any("sparse attention xm with its mask given" in line and "3.00 ms" in line for line in outcome.summary)
    assert any("114× as fast as the fastest attention" in line for line in outcome.summary)


@pytest.mark.parametrize("kinds", ["results", "measurements"])
def test_one_kind_of_file_alone_makes_a_report(tmp_path, simulated, measured, kinds):
    files = [simulated("a.json")] if kinds == "results" else [measured("b.json")]
    outcome = compare(files, tmp_path / "report")
    assert "simulated_against_measured.png" not in {path.name for path in outcome.files}
    assert Page(outcome.report.read_text()).tags["svg"] >= 2


def test_nothing_is_written_when_a_file_cannot_be_used(tmp_path, simulated):
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(RecordError):
        compare([simulated("a.json"), tmp_path / "broken.json"], tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_the_command_prints_the_summary_and_what_it_wrote(tmp_path, simulated, measured):
    from xmsim.cli.compare import compare as verb

    app = typer.Typer()
    app.command()(verb)
    arguments = [str(simulated("a.json")), str(measured("b.json")), "--out", str(tmp_path / "report")]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    # 6 ms of dense against 4.5 ms of sparse attention with its mask, and 0.0528 ms simulated
    assert "dynax_s needs 0.0528 ms (simulated) where sparse attention xm takes 4.50 ms measured on Made-up CPU 9000" in result.stdout
    assert "CPU sparse attention xm with the making of its mask" in result.stdout and "CPU dense attention" in result.stdout
    assert f"wrote {tmp_path / 'report' / 'report.html'}" in result.stdout


def test_the_command_loads_no_plotting_before_it_runs_and_never_pyplot():
    code = (
        "import sys, xmsim.cli.compare; early = 'matplotlib' in sys.modules; import xmsim.reports.compare; "
        "print(early, 'matplotlib.pyplot' in sys.modules, 'torch' in sys.modules, 'pydantic' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["False", "False", "False", "False"]


def test_a_report_of_a_decode_says_so_and_states_the_time_of_a_token(tmp_path, simulated):
    files = [
        simulated("s.decode.json", decoded=(100, 101)),
        simulated("d.decode.json", machine="dense", method="dense", decoded=(100, 101), area_mm2=None),
    ]
    outcome = compare(files, tmp_path / "out")
    assert "3 layers × 4 heads × 2 decoded tokens on 101–102 keys" in outcome.summary[0]
    assert any("0.0528 ms a token (median)" in line for line in outcome.summary)  # 4 heads × 2000 × 3.3 cycles at 500 MHz
    assert "Native view, decoding" in outcome.report.read_text()
    with (tmp_path / "out" / "report.csv").open(newline="") as file:
        totals = [row["keys"] for row in csv.DictReader(file) if row["metric"] == "total" and not row["head"] and row["layer"] == "0"]
    assert totals == ["101", "102"] * 2


def test_a_report_of_sampled_heads_gives_the_estimate_with_its_interval(tmp_path, simulated):
    outcome = compare([simulated("sample.json", sampled_of=4)], tmp_path / "out")
    assert re.search(r"0\.106 ms ± 0\.\d+ \(95 %; 2 of 4 KV heads of each layer simulated\)", outcome.summary[1])
    text = outcome.report.read_text()
    assert "(95 %, sampled)" in text and "estimated from a sample of heads" in text
    with (tmp_path / "out" / "report.csv").open(newline="") as file:
        estimated = [row["value"] for row in csv.DictReader(file) if row["metric"] == "estimated total"]
    assert estimated == ["16000", "17600", "19200"]
