"""Which files make one report, and which are refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from xmsim.configs.errors import RecordError, XmsimError
from xmsim.configs.record import write_record
from xmsim.reports.collection import load

OTHER_TRACE = {"path": "elsewhere", "sha256": "b" * 64, "model": "another model", "text": "other.txt"}


def one_sentence(error: pytest.ExceptionInfo[XmsimError]) -> str:
    text = str(error.value)
    assert "\n" not in text and text
    return text


def edited(path: Path, old: str, new: str) -> Path:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return path


def test_results_and_measurements_are_told_apart_by_what_they_say_they_are(simulated, measured):
    comparison = load([measured("a.json"), simulated("b.json"), simulated("c.json", machine="dynax_l")])
    assert [one.label for one in comparison.simulated] == ["dynax_s", "dynax_l"]
    assert [one.path.name for one in comparison.measured] == ["a.json"]


def test_files_of_different_traces_are_refused_and_both_are_named(simulated, measured):
    with pytest.raises(RecordError) as error:
        load([simulated("mine.json"), measured("theirs.json", trace=OTHER_TRACE)])
    sentence = one_sentence(error)
    assert "mine.json" in sentence and "theirs.json" in sentence and "different traces" in sentence


def test_a_record_of_another_kind_is_refused_by_name(tmp_path, simulated):
    write_record(tmp_path / "manifest.json", "trace", 1, {})
    with pytest.raises(RecordError) as error:
        load([simulated("a.json"), tmp_path / "manifest.json"])
    assert "manifest.json: this is a trace file" in one_sentence(error)


def test_a_file_that_is_of_no_trace_is_refused_by_name(simulated):
    committed = Path(__file__).resolve().parents[2] / "reports" / "measured" / "linear_cpu.json"
    for files in ([committed], [simulated("a.json"), committed]):
        with pytest.raises(RecordError) as error:
            load(files)
        assert "linear_cpu.json: not of a trace" in one_sentence(error)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_truncated_file_is_one_sentence_that_names_it(simulated, share):
    path = simulated("cut.json")
    text = path.read_text()
    path.write_text(text[: int(share * len(text))])
    with pytest.raises(RecordError) as error:
        load([path])
    assert "cut.json" in one_sentence(error)


def test_a_result_whose_cycles_do_not_add_up_is_refused(simulated):
    old, new = '"total_cycles": 8000', '"total_cycles": 8001'
    path = simulated("edited.json")
    runs = path.read_text().index('"runs"')
    head, tail = path.read_text()[:runs], path.read_text()[runs:]
    assert old in tail
    path.write_text(head + tail.replace(old, new, 1))
    with pytest.raises(RecordError) as error:
        load([path])
    assert "edited.json: layer 0: busy, stalled and idle" in one_sentence(error)


def test_a_density_that_is_no_share_is_refused(simulated):
    path = simulated("edited.json")
    path.write_text(re.sub(r'"full_density": [0-9.e-]+', '"full_density": 1e308', path.read_text(), count=1))
    with pytest.raises(RecordError, match="a density is not between 0 and 1"):
        load([path])


@pytest.mark.parametrize(
    ("old", "new"), [('"nominal": 1.0', '"nominal": 0'), ('"high": 3.0', '"high": 0.5'), ('"count": 2.5', '"count": -2.5')]
)
def test_an_estimate_that_is_none_is_refused(simulated, estimated, old, new):
    path = simulated("edited.json", costs=estimated(area_mm2=5.0))
    with pytest.raises(RecordError, match=r"edited.json: area and energy are not positive"):
        load([edited(path, old, new)])


def test_a_result_without_stages_is_refused(simulated):
    path = simulated("edited.json")
    body = json.loads(path.read_text())
    body["runs"][0]["result"]["servers"] = {}
    path.write_text(json.dumps(body))
    with pytest.raises(RecordError, match="are not servers × cycles"):
        load([path])


def test_a_machine_without_a_clock_is_refused(simulated):
    with pytest.raises(RecordError, match="clock"):
        load([edited(simulated("still.json", clock_mhz=250.0), '"clock_mhz": 250.0', '"clock_mhz": 0')])


def test_a_median_outside_its_quartiles_is_refused(measured):
    with pytest.raises(RecordError, match="median"):
        load([edited(measured("odd.json"), '"median_ms": 2.0', '"median_ms": 9.0')])


def test_a_record_without_a_trace_hash_is_refused(simulated):
    with pytest.raises(RecordError, match="which trace"):
        load([simulated("a.json", trace={"model": "m"})])


def test_no_file_is_one_sentence():
    with pytest.raises(XmsimError) as error:
        load([])
    assert "no file" in one_sentence(error)


def test_a_file_given_twice_counts_once(simulated):
    path = simulated("a.json")
    assert len(load([path, path, path.parent / "." / path.name]).simulated) == 1


def test_runs_that_not_every_file_has_are_left_out_and_the_report_says_so(simulated, measured):
    comparison = load([simulated("all.json", layers=(0, 1, 2)), measured("two.json", layers=(1, 2))])
    assert comparison.layers == (1, 2)
    assert [run.layer for run in comparison.simulated[0].record.runs] == [1, 2]
    assert comparison.left_out == ("all.json: 1 run (one layer of one window each) left out, because not every file has the same.",)


def test_a_layer_that_only_some_kernels_were_timed_on_is_not_shared(tmp_path, simulated, measured):
    path = measured("partly.json")
    body = json.loads(path.read_text())
    body["runs"] = [run for run in body["runs"] if (run["operation"], run["layer"]) != ("mask", 0)]
    path.write_text(json.dumps(body))
    assert load([simulated("a.json"), path]).layers == (1, 2)


def test_files_without_a_common_layer_are_refused(simulated, measured):
    with pytest.raises(RecordError) as error:
        load([simulated("low.json", layers=(0,)), measured("high.json", layers=(1,))])
    sentence = one_sentence(error)
    assert "low.json" in sentence and "high.json" in sentence


def test_the_same_layer_in_two_shapes_is_refused(simulated, measured):
    with pytest.raises(RecordError) as error:
        load([simulated("four.json", heads=4), measured("two.json", heads=2)])
    sentence = one_sentence(error)
    assert "four.json" in sentence and "two.json" in sentence and "2 heads" in sentence


def test_two_results_of_one_machine_in_one_view_are_told_apart_by_their_files(simulated):
    comparison = load([simulated("slow.json", clock_mhz=250.0), simulated("fast.json"), simulated("shared.json", view="same mask")])
    assert [one.label for one in comparison.simulated] == ["dynax_s (slow)", "dynax_s (fast)", "dynax_s"]


def test_files_of_one_name_in_two_folders_are_told_apart(tmp_path, write_simulated):
    paths = [tmp_path / folder / "a.json" for folder in ("one", "two")]
    for path, head_cycles in zip(paths, (1000, 2000), strict=True):
        path.parent.mkdir()
        write_simulated(path, head_cycles=head_cycles)
    assert [one.label for one in load(paths).simulated] == ["dynax_s (one/a)", "dynax_s (two/a)"]


def test_prefill_and_decode_are_refused_side_by_side_and_both_files_are_named(simulated, measured):
    decode = simulated("decode.json", decoded=(100, 101))
    for prefill in (simulated("prefill.json"), measured("host.json")):
        with pytest.raises(RecordError) as error:
            load([decode, prefill])
        sentence = one_sentence(error)
        assert "decode.json" in sentence and prefill.name in sentence
        assert all(f"a {phase} of attention without its projections" in sentence for phase in ("decode", "prefill"))
        assert "one report for each" in sentence


def test_decodes_of_different_lengths_share_the_tokens_that_both_have(simulated):
    long, short = simulated("long.json", decoded=(99, 100, 101)), simulated("short.json", machine="dynax_l", decoded=(100, 101))
    comparison = load([long, short])
    assert comparison.decoded_tokens == 2 and comparison.layers == (0, 1, 2)
    assert comparison.left_out == ("long.json: 3 runs (one token through one layer each) left out, because not every file has the same.",)


def test_a_sample_of_heads_stands_for_its_whole_layer(simulated):
    sample = simulated("sample.json", heads=4, sampled_of=4)
    assert load([sample]).simulated[0].record.cycles == 2 * 4 * 2000 * 33 // 10
    with pytest.raises(RecordError, match=r"8 heads over 4, .* and 4 heads over 2"):
        load([sample, simulated("whole.json", machine="dense", heads=4)])


@pytest.mark.parametrize("edit", [{"sampled_kv_heads": [0]}, {"sampled_kv_heads": [0, 9]}, {"sampled_kv_heads": []}])
def test_a_sample_that_is_none_of_the_layer_is_refused(simulated, edit):
    path = simulated("sample.json", sampled_of=4)
    body = json.loads(path.read_text())
    body["runs"][1] |= edit
    path.write_text(json.dumps(body))
    with pytest.raises(RecordError, match="layer 1: its heads are no sample of 4 KV heads"):
        load([path])


def test_a_phase_that_is_none_is_refused(simulated):
    with pytest.raises(RecordError, match="phase is both"):
        load([edited(simulated("odd.json"), '"phase": "prefill"', '"phase": "both"')])


def test_results_with_and_without_projections_never_stand_side_by_side(simulated):
    phase = {"total_cycles": 1, "latency_ms": 0.1, "busy_cycles": {}, "stall_cycles": {}, "traffic": {}, "actions": {}, "useful_macs": 1}
    projections = json.dumps({"input": phase, "output": phase})
    without = simulated("without.json", machine="narrow")
    with_them = edited(simulated("with.json", machine="wide"), '"projections": null', f'"projections": {projections}')
    with pytest.raises(RecordError, match="prefill of attention without its projections and the other a prefill of attention with"):
        load([without, with_them])
