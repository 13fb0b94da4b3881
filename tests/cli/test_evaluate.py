"""xmsim evaluate."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from xmsim.cli import main
from xmsim.workloads.evaluation import read_evaluation
from xmsim.workloads.extraction.extract import extract_trace
from xmsim.workloads.texts.corpora import SHIPPED_NAME

pytest.importorskip("torch")
FILES = {"evaluation.json", "evaluation.csv", "perplexity_density.svg", "perplexity_density.png", "perplexity_density.csv"}
ARTIFACT = {"is_sparse": True, "sparse_methed": "xm", "is_quant": True, "quant_methed": "1_4_6bit", "threshold_0": 1.0, "threshold_1": 0.1}


class Terminal:
    """`xmsim evaluate xm-tiny ...` in an empty folder."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._monkeypatch, self._capsys = folder, monkeypatch, capsys

    def run(self, *words: object, model: str = "xm-tiny") -> tuple[int, str, str]:
        """Exit status, what was printed, and what was complained about."""
        return self.verb("evaluate", model, *words)

    def verb(self, *words: object) -> tuple[int, str, str]:
        """Another verb, in the same folder."""
        self._monkeypatch.setattr(sys, "argv", ["xmsim", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            main()
        output = self._capsys.readouterr()
        return int(stopped.value.code or 0), output.out, output.err

    def refused(self, *words: object, model: str = "xm-tiny") -> str:
        before = set(self.folder.rglob("*"))
        status, _, sentence = self.run(*words, model=model)
        assert status == 2 and sentence.startswith("xmsim: ") and sentence.count("\n") == 1
        assert set(self.folder.rglob("*")) == before, "something was left behind"
        return sentence


@pytest.fixture
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    monkeypatch.chdir(tmp_path)
    return Terminal(tmp_path, monkeypatch, capsys)


def test_a_machine_is_evaluated_with_the_method_that_it_runs_each_once(terminal: Terminal):
    words = [word for name in ("sanger", "sanger_skewed", "salo", "dense") for word in ("--machine", name)]
    status, _, _ = terminal.run("--length", 64, "--windows", 1, *words)
    assert status == 0
    dense, sanger, window = read_evaluation(terminal.folder / "evaluation" / "evaluation.json").runs
    assert dense.label == "dense" and (sanger.label, sanger.method["threshold"]) == ("sanger, 4-bit 1:1", 2e-3)
    assert window.label == "window"
    assert "no machine nosuch" in terminal.refused("--machine", "nosuch")


def test_it_prints_a_row_for_each_method_and_length_and_writes_the_record_the_table_and_the_plot(terminal: Terminal):
    (terminal.folder / "artifact.json").write_text(json.dumps(ARTIFACT))
    methods = [word for name in ("xm", "xm:1_4_6bit", "artifact.json") for word in ("--method", name)]
    status, printed, _ = terminal.run("--length", 64, "--length", 128, "--windows", 2, *methods, "--out", "results/e")
    assert status == 0
    record = read_evaluation(terminal.folder / "results" / "e" / "evaluation.json")
    assert {path.name for path in (terminal.folder / "results" / "e").iterdir()} == FILES
    assert (record.text.name, record.text.note, record.protocol, record.model["name"]) == (SHIPPED_NAME, "", "dynax", "xm-tiny")
    names = ["dense", "xm", "xm, 6-bit 1:4", "artifact, 6-bit 1:4"]
    assert [(run.length_tokens, run.label) for run in record.runs] == [(length, name) for length in (64, 128) for name in names]
    lines = printed.splitlines()
    assert lines[0].strip() == f"xm-tiny on {SHIPPED_NAME}, protocol dynax, float32 on cpu (measured)"
    for run in record.runs:
        cells = [*run.label.split(), str(run.length_tokens), "2", f"{run.densities.density:.4f}"]
        (line,) = (line for line in lines if line.split()[: len(cells)] == cells)
        assert f"{run.perplexity:.3f}" in line and f"{100 * run.perplexity_increase:+.2f} %" in line
        assert run.loss_increase_error is not None and run.bits_per_byte is not None
        assert f"{run.loss_increase:+.4f} ± {run.loss_increase_error:.4f}" in line and f"{run.bits_per_byte:.4f}" in line
    assert {Path(line.removeprefix("wrote ")).name for line in lines if line.startswith("wrote ")} == FILES
    rows = list(csv.DictReader((terminal.folder / "results" / "e" / "evaluation.csv").open()))
    assert [float(row["perplexity"]) for row in rows] == [run.perplexity for run in record.runs]


def test_predicted_scores_by_name_are_those_of_the_artifacts_file(terminal: Terminal):
    (terminal.folder / "artifact.json").write_text(json.dumps(ARTIFACT))
    terminal.run("--length", 128, "--windows", 1, "--method", "xm:1_4_6bit", "--method", "artifact.json", "--method", "xm")
    _, named, file, exact = read_evaluation(terminal.folder / "evaluation" / "evaluation.json").runs
    assert named.window_losses == file.window_losses != exact.window_losses


def test_every_shipped_method_and_the_predictions_of_both_arrays_are_the_default(terminal: Terminal):
    from xmsim.workloads.methods.library import shipped_methods

    status, _, _ = terminal.run("--length", 64, "--windows", 1)
    assert status == 0
    labels = [run.label for run in read_evaluation(terminal.folder / "evaluation" / "evaluation.json").runs]
    assert labels[0] == "dense" and set(labels) == {*shipped_methods(), "xm, 6-bit 1:4", "xm_32, 4-bit 1:2"}


def test_a_text_of_ones_own_is_scored_under_its_name(terminal: Terminal):
    (terminal.folder / "mine.txt").write_text("The canal was begun in 1793. " * 40)
    status, printed, _ = terminal.run("--text", "mine.txt", "--length", 64, "--method", "nm", "--protocol", "teal")
    record = read_evaluation(terminal.folder / "evaluation" / "evaluation.json")
    assert status == 0 and "on mine.txt, protocol teal" in printed
    assert (record.text.name, record.runs[0].window_tokens) == ("mine.txt", 80)


def test_without_the_hub_wikitext2_is_the_shipped_excerpt_and_the_output_says_so(terminal: Terminal, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    _, printed, _ = terminal.run("--dataset", "wikitext2", "--length", 64, "--windows", 1, "--method", "nm")
    record = read_evaluation(terminal.folder / "evaluation" / "evaluation.json")
    assert record.text.name == SHIPPED_NAME
    assert printed.startswith(record.text.note) and "the shipped excerpt of WikiText-2 was read instead" in record.text.note


def test_activation_sparsity_is_evaluated_with_dense_attention_and_says_what_it_left_out(terminal: Terminal):
    extract_trace("xm-tiny", tokens=64, out=terminal.folder / "trace", layers=[0], activations=True)
    words = ["--dynamic-sparsity", "0.5", "--histograms", "trace", "--scoring", "wina", "--policy", "sinks_dense"]
    status, printed, _ = terminal.run("--length", 64, "--windows", 2, *words)
    assert status == 0
    dense, sparse = read_evaluation(terminal.folder / "evaluation" / "evaluation.json").runs
    facts = sparse.activations
    assert dense.activations is None and (facts.sparsity, facts.scoring, facts.policy) == (0.5, "wina", "sinks_dense")
    said = f"dense, activations 0.5 wina, 64 tokens: static {facts.static_sparsity:.4f} dynamic {facts.dynamic_sparsity:.4f}"
    assert said in " ".join(printed.split())
    rows = list(csv.DictReader((terminal.folder / "evaluation" / "evaluation.csv").open()))
    assert [row["total_sparsity"] for row in rows] == ["", str(facts.total_sparsity)]


def test_methods_are_solved_for_a_perplexity_and_written_as_files_that_simulate_reads(terminal: Terminal):
    words = ["--length", 64, "--windows", 2, "--method", "nm:1_4_6bit", "--method", "fixed"]
    status, printed, _ = terminal.run(*words, "--solve", "10%,1000%", "--out", "equal")
    assert status == 0
    folder = terminal.folder / "equal"
    assert {path.name for path in folder.iterdir()} == FILES | {"nm_1_4_6bit_plus10.yaml", "solve_tried.json"}
    dense, ten, most = read_evaluation(folder / "evaluation.json").runs
    assert dense.label == "dense" and 0 < ten.perplexity_increase <= 0.1 and ten.solved_for.reached
    assert ten.solved_for.bracket[0].value == ten.solved_for.value == ten.solved_for.bracket[1].value + 1
    assert (most.solved_for.reached, most.solved_for.value) == (False, 1)
    lines = printed.splitlines()
    found = f"nm_1_4_6bit_plus10, 6-bit 1:4: +10 % asked, {100 * ten.perplexity_increase:+.2f} % with kept {ten.solved_for.value:g}"
    assert any(line.startswith(found) for line in lines)
    assert any(line.startswith("nm_1_4_6bit_plus1000, 6-bit 1:4: +1000 % asked, not reached (out of reach") for line in lines)
    assert "fixed: left out, it has no free parameter that only prunes more or less" in lines
    terminal.run("--length", 64, "--windows", 2, "--method", folder / "nm_1_4_6bit_plus10.yaml", "--out", "again")
    assert read_evaluation(terminal.folder / "again" / "evaluation.json").runs[1].window_losses == ten.window_losses
    extract_trace("xm-tiny", tokens=64, out=terminal.folder / "trace", layers=[0])
    status, simulated, _ = terminal.verb("simulate", "dynax_l", "--trace", "trace", "--method", folder / "nm_1_4_6bit_plus10.yaml")
    assert status == 0 and "method nm_1_4_6bit_plus10" in simulated


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--solve", "1"], "--solve 1: 1 is not an increase of perplexity in percent; give e.g. 1%,5%"),
        (["--solve", "1%", "--method", "fixed"], "none of these methods has a free parameter"),
        (["--solve", "1%", "--length", "64", "--length", "128"], "--solve finds one value for one length"),
        (["--solve", "1%", "--dynamic-sparsity", "0.5", "--histograms", "trace"], "without activation sparsity"),
        (["--dynamic-sparsity", "0.5"], "--dynamic-sparsity needs thresholds; give --histograms"),
        (["--greedy", "greedy.json"], "are for --dynamic-sparsity; give it"),
        (["--dynamic-sparsity", "1", "--histograms", "trace"], "activation sparsity 1.0 is not a share"),
        (["--dynamic-sparsity", "0.5", "--histograms", "trace", "--scoring", "wand"], "no scoring wand; did you mean wina?"),
        (["--dynamic-sparsity", "0.5", "--histograms", "trace", "--policy", "sinks"], "no policy sinks; did you mean sinks_dense?"),
        (["--dynamic-sparsity", "0.5", "--histograms", "none"], "none: no activation histograms; make them with xmsim extract"),
        (["--dynamic-sparsity", "0.5", "--histograms", "none.pt"], "TEAL's published histograms are pickles"),
        (["--method", "xmm"], "no method xmm; did you mean xm?"),
        (["--method", "xm:1_4_9bit"], "prediction.bits: input should be less than or equal to 8"),
        (["--method", "window:1_4_6bit"], "prediction: unknown key"),
        (["--method", "none.json"], "none.json: cannot be read"),
        (["--protocol", "dynaxx"], "no protocol dynaxx; did you mean dynax?"),
        (["--dataset", "wiki"], "no dataset wiki; did you mean wikitext2?"),
        (["--text", "a.txt", "--dataset", "ptb"], "cannot be scored together"),
        (["--text", "none.txt"], "none.txt: cannot be read (No such file or directory)"),
        (["--length", "4096"], "xm-tiny: reads at most 2048 tokens"),
        (["--length", "2048", "--protocol", "teal"], "needs 2560"),
        (["--length", "0"], "scores no token at length 0"),
        (["--windows", "0"], "0 windows cannot be evaluated"),
        (["--dtype", "int8"], "no dtype int8"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(terminal: Terminal, words: list[str], sentence: str):
    assert sentence in terminal.refused(*words)


def test_a_wrong_word_is_answered_before_anything_is_fetched(terminal: Terminal, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("xmsim.workloads.models.loading.load_model", lambda *_, **__: pytest.fail("the model was loaded"))
    monkeypatch.setattr("xmsim.workloads.texts.hub_corpora.hub_corpus", lambda _: pytest.fail("the dataset was loaded"))
    for words in (["--protocol", "x"], ["--length", "1"], ["--method", "x"]):
        terminal.refused("--dataset", "c4", *words)


def test_a_model_that_is_not_there_is_one_sentence(terminal: Terminal):
    assert "no model" in terminal.refused(model="./nowhere")


def test_an_interrupt_leaves_nothing_behind(terminal: Terminal, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("xmsim.workloads.quality.evaluate.window_loss", lambda *_: interrupted)
    assert "interrupted" in terminal.refused("--length", "64", "--windows", "1", "--method", "nm")


def test_a_folder_that_cannot_be_written_is_one_sentence(terminal: Terminal):
    (terminal.folder / "file").write_text("in the way")
    assert "cannot be written" in terminal.refused("--length", "64", "--windows", "1", "--method", "nm", "--out", "file/e")
