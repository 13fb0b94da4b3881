"""Predicted against measured inside a comparison: from a cross-check, a host check or a calibration among the files."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import pytest

from xmsim.configs.errors import RecordError, XmsimError
from xmsim.configs.record import write_record
from xmsim.reports.collection import collect
from xmsim.reports.compare import compare, contents_of
from xmsim.reports.cross_check import sure_words
from xmsim.reports.long_table import collection_table
from xmsim.reports.markdown import markdown_report
from xmsim.reports.page import page
from xmsim.reports.verdict import HOW_SURE, verdict
from xmsim.workloads.measuring.host_check_record import write_cross_check

SURE = (
    "Kernels on Made-up CPU 9000: the model of made-up host is off by 10 % on average (bias +10 %, 95 % of 2 runs within 10 %), and "
    "predicts 67 % of the measured series."
)


@pytest.fixture
def checked(tmp_path, predicted):
    path = tmp_path / "cross_check.json"
    write_cross_check(path, predicted())
    return path


@pytest.fixture
def constants(tmp_path):
    def write(kind):
        path = tmp_path / f"{kind}.json"
        write_record(path, kind, 1, {})  # what it holds is the models' business
        return path

    return write


def test_page_text_and_table_show_the_errors_and_how_sure_one_can_be(checked):
    contents = contents_of(collect([checked]))
    shown, text = page(contents), markdown_report(contents)
    assert SURE in shown.replace("&nbsp;", " ") and SURE in text
    assert 'id="section-predicted-against-measured"' in shown and "no model of this kernel" in shown
    assert "| as calibrated | linear, dense bfloat16 | 1 | +10.0 % | 10.0 % | 10.0 % |" in text
    assert "](predicted_against_measured.png)" in text and "cross_check.json" in shown.partition("Where the numbers come from")[2]
    table = csv.DictReader(io.StringIO(collection_table(contents.collection)))
    rows = [row for row in table if row["source"] == "predicted"]
    assert {row["metric"]: float(row["value"]) for row in rows if row["method"] == "all"}["coverage"] == pytest.approx(2 / 3)
    assert [float(row["value"]) for row in rows if row["metric"] == "latency, predicted"] == pytest.approx([1.1, 3.3, 1.0, 3.0])


def test_the_verdict_ends_with_it(simulated, checked):
    (answer,) = [one.answer for one in verdict(collect([simulated("a.json"), checked])) if one.question == HOW_SURE]
    assert answer.endswith(SURE)


def test_predictions_alone_make_a_report(tmp_path, checked):
    outcome = compare([checked], tmp_path / "report")
    assert outcome.summary == ("1 cross-check.",) and outcome.headlines[-1] == f"{HOW_SURE}: {SURE}"


def test_two_cross_checks_have_figures_of_their_own(tmp_path, checked, predicted):
    write_cross_check(tmp_path / "other.json", predicted(off=0.5))
    figures = contents_of(collect([checked, tmp_path / "other.json"])).besides
    claims = [figures[name].claim for name in ("predicted_against_measured", "predicted_against_measured_2")]
    assert "2 of 2 as calibrated" in claims[0] and "0 of 2 as calibrated" in claims[1]


def test_a_model_that_predicts_nothing_says_so(predicted):
    assert sure_words(replace(predicted(), runs=())) == "Of 1 measured series, the model of made-up host predicts none."


def test_a_host_check_is_handed_to_the_models(constants, made_up_models):
    (one,) = collect([constants("host_check")], made_up_models).predicted
    assert one.path.name == "host_check.json" and len(one.record.runs) == 4


def test_a_calibration_without_kernels_of_its_processor_is_left_out_in_a_sentence(simulated, constants, made_up_models):
    collection = collect([simulated("a.json"), constants("calibration")], made_up_models)
    assert collection.predicted == () and collection.left_out == (
        "calibration.json: left out, as no benchmark or generation record of its processor is here whose kernels it could predict.",
    )


def test_a_calibration_alone_is_nothing_to_compare(constants, made_up_models):
    with pytest.raises(XmsimError, match=r"calibration\.json alone cannot be compared; name files that simulate"):
        collect([constants("calibration")], made_up_models)


def test_without_models_constants_are_refused(constants):
    with pytest.raises(RecordError, match=r"host_check.json: to predict from these constants a model of the host is needed; "):
        collect([constants("host_check")])
