"""The YAML of a sweep: what it may say, and one sentence with its line for what it may not."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from xmsim.accel_models.machine_file import shipped_accelerators
from xmsim.accel_models.sweep.points import Sweep
from xmsim.accel_models.sweep.sweep_file import read_sweep, shipped_sweeps
from xmsim.configs.errors import XmsimError

TRACE = Path(__file__).resolve().parents[1] / "golden" / "trace_v2"
HEAD = f"machines: [dynax_s]\ntraces: [{TRACE}]\n"


def swept(folder: Path, text: str, head: str = HEAD) -> Sweep:
    path = folder / "sweep.yaml"
    path.write_text(head + text)
    return read_sweep(path)


def test_axes_multiply_and_fields_together_vary_in_step(tmp_path: Path) -> None:
    sweep = swept(
        tmp_path,
        "methods: [native, xm]\naxes:\n  clock_mhz: [500, 1000]\n  execute_array.count: [1, 2, 4]\n"
        "together:\n  - {prediction_array.bits: [4, 6], method.prediction.bits: [4, 6]}\n",
    )
    points = list(sweep.points())
    assert sweep.shape == (1, 1, 2, 2, 2, 3) and sweep.size == len(points) == 24
    assert {(p.values["prediction_array.bits"], p.values["method.prediction.bits"]) for p in points} == {(4, 4), (6, 6)}
    assert points[1].values | {"clock_mhz": 500, "execute_array.count": 2} == dict(points[1].values)  # the last axis is the fastest
    assert points[1].config()["execute_array"]["count"] == 2
    assert [point.same_mask for point in points] == [False] * 12 + [True] * 12


def test_a_sweep_without_axes_is_a_point_for_each_machine(tmp_path: Path) -> None:
    names = ", ".join(shipped_accelerators())
    sweep = swept(tmp_path, "", f"machines: [{names}]\ntraces: [{TRACE}]\n")
    assert [point.machine.name for point in sweep.points()] == list(shipped_accelerators())


def test_the_command_line_names_other_traces(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text("machines: [sanger]\n")
    assert [trace.path for trace in read_sweep(path, [TRACE]).traces] == [TRACE]


def test_a_whole_part_of_the_configuration_is_a_value(tmp_path: Path) -> None:
    text = "axes:\n  dram:\n    - {gigabytes_per_second: 64, latency_ns: 100}\n    - {kind: hbm2e_3200, latency_ns: 40}\n"
    line, banks = (point.config()["dram"] for point in swept(tmp_path, text).points())
    assert (line["gigabytes_per_second"], banks["kind"]) == (64, "hbm2e_3200")


def test_layers_and_decoded_tokens_are_those_that_the_file_names(tmp_path: Path) -> None:
    (plain,) = swept(tmp_path, "").points()
    assert plain.part.layers == plain.trace.layers == (0, 1) and plain.part.decode_tokens is None
    for text, layers in (("layers: 1\n", (1,)), ("layers: 0-1\n", (0, 1)), ("layers: 0,1\n", (0, 1))):
        assert next(swept(tmp_path, text).points()).part.layers == layers
    assert next(swept(tmp_path, "decode: 3\n").points()).part.decode_tokens == 3


def test_a_model_that_sees_every_token_is_not_decoded(tmp_path: Path) -> None:
    encoder = tmp_path / "trace"
    shutil.copytree(TRACE, encoder)
    manifest = encoder / "manifest.json"
    manifest.write_text(re.sub(r'"kind": "[a-z_]+"', '"kind": "none"', manifest.read_text()))
    with pytest.raises(XmsimError, match=r"sweep.yaml:3:1: layer 0: every token sees every other, so the model does not decode"):
        swept(tmp_path, "decode: 3\n", f"machines: [dynax_s]\ntraces: [{encoder}]\n")


@pytest.mark.parametrize("name", shipped_sweeps())
def test_shipped_sweeps_are_read_and_have_some_dozen_points(name: str) -> None:
    assert 12 <= read_sweep(name, [TRACE]).size <= 100


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("axes:\n  execute_array.cont: [1]\n", "4:3: execute_array.cont: dynax_s has no such field; did you mean count?"),
        ("axes:\n  clock: [1]\n", "4:3: clock: dynax_s has no such field; did you mean clock_mhz?"),
        ("axes:\n  clock_mhz.low: [1]\n", "4:3: clock_mhz.low: dynax_s has no such field; it has no fields"),
        ("axes:\n  method.prediction.bit: [4]\n", "4:3: method.prediction.bit: dynax_s has no such field; did you mean bits?"),
        ("axes:\n  model: [sanger]\n", "4:3: model: another model is another machine; list its YAML under machines"),
        ("axes:\n  clock_mhz: []\n", "4:3: clock_mhz: names nothing; give at least one"),
        ("axes:\n  clock_mhz: 500\n", "4:3: axes.clock_mhz: input should be a valid list (got 500)"),
        ("axes:\n  clock_mhz: [500, 1000, 500.0]\n", "4:26: clock_mhz: 500.0 stands here twice; keep one"),
        (
            "axes:\n  dividers: [128, many]\n",
            "4:19: dividers: input should be a valid integer, unable to parse string as an integer (got 'many')",
        ),
        ("axes:\n  dividers: [128, -1]\n", "4:19: dividers: input should be greater than 0 (got -1)"),
        ("axes:\n  dram:\n    - {kind: hbm9, latency_ns: 4}\n", "5:7: dram: no kind of DRAM hbm9; known are"),
        ("axes:\n  dividers: [1]\n  dividers: [2]\n", "5:3: duplicate key dividers, first set on line 4; keep one of them"),
        ("axes:\n  dividers: [1]\ntogether:\n  - dividers: [2]\n", "4:3: dividers: varied by two axes; keep one"),
        ("axes:\n  kv: []\n  kv.stream_blocks: [2]\n", "4:3: kv: names nothing; give at least one"),
        ("axes:\n  kv.stream_blocks: [2]\ntogether:\n  - kv: [{}]\n", "6:10: kv.buffer_bytes: field required"),
        (
            "together:\n  - {dividers: [1, 2], clock_mhz: [500]}\n",
            "4:5: together: fields that vary in step need equally many values (dividers 2, clock_mhz 1)",
        ),
        ("together:\n  - {dividers: [1, 1], clock_mhz: [500, 500]}\n", "4:5: dividers, clock_mhz: 1, 500.0 stands here twice; keep one"),
        (
            "axes:\n  kv: [{buffer_bytes: 65536, stream_blocks: 2, outstanding_loads: 2}]\n  kv.stream_blocks: [2]\n",
            "5:3: kv.stream_blocks: part of the same field as kv, which is varied too; keep one",
        ),
        ("together:\n  - {}\n", "4:5: together: names nothing; give the fields that vary in step"),
        ("methods: [xn]\n", "3:11: methods: no method xn; did you mean xm?"),
        ("methods: []\n", "3:1: methods: names nothing; give at least one"),
        ("methods: [xm, native, xm]\n", "3:23: methods: xm stands here twice; keep one"),
        ("axis: {}\n", "3:1: axis: unknown key; did you mean axes?"),
        ("layers: 0-2\n", "3:1: layers 0-2: no layer 2; layers are 0 to 1"),
        ("layers: all\n", "3:1: layers all: write numbers and ranges, e.g. 0-3,5"),
        ("layers: [0]\n", "3:1: layers: input should be a valid string"),
        ("decode: 0\n", "3:1: decode: input should be greater than 0 (got 0)"),
        ("decode: 4096\n", "3:1: decode 4096: window 0 has 6 tokens and the prefill needs one of them; decode at most 5"),
    ],
)
def test_a_fault_is_one_sentence_with_its_line(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(XmsimError) as refused:
        swept(tmp_path, text)
    said = str(refused.value)
    assert said.startswith(f"{tmp_path / 'sweep.yaml'}:{sentence}") and "\n" not in said, said


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("machines: [dynax_z]\n", "1:12: machines: no machine dynax_z; did you mean dynax_s?"),
        ("machines: []\n", "1:1: machines: names nothing; give at least one"),
        ("machines: [sanger, sanger]\n", "1:20: machines: sanger stands here twice; keep one"),
        ("machines: [sanger]\n", "1:1: traces: names nothing; give at least one"),
        ("machines: [sanger]\ntraces: [nowhere]\n", "2:10: traces: nowhere: no trace here"),
        (f"machines: [sanger]\ntraces: [{TRACE}, {TRACE}/.]\n", "sweep: "),
        ("traces: [a]\n", "1:1: machines: missing; add it"),
    ],
)
def test_a_machine_or_trace_that_cannot_be_used_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(XmsimError) as refused:
        swept(tmp_path, text, head="")
    assert sentence in str(refused.value)


def test_two_machines_of_one_name_are_refused(tmp_path: Path) -> None:
    own = tmp_path / "sanger.yaml"
    own.write_text((Path(__file__).parents[2] / "configs" / "accelerators" / "sanger.yaml").read_text())
    with pytest.raises(XmsimError, match=r"1:20: machines: two are called sanger; rename the file of one"):
        swept(tmp_path, "", head=f"machines: [sanger, {own}]\ntraces: [{TRACE}]\n")
