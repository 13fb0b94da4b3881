"""Perplexity with methods attached: against transformers' own loss, and against statistics worked out here."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xmsim.configs.errors import RecordError, XmsimError
from xmsim.reference.activations import write_histograms
from xmsim.reference.attention import window_keep
from xmsim.workloads.attachment.activation_plan import ActivationPlan, ActivationSparsity
from xmsim.workloads.evaluation import EvaluationRecord, method_label, read_evaluation, write_evaluation
from xmsim.workloads.extraction.activation_histograms import FILE_NAME, activation_histograms
from xmsim.workloads.methods.library import Method, load_method
from xmsim.workloads.models.linear_exchange import linear_layers
from xmsim.workloads.models.loading import LoadedModel, ModelError, load_model
from xmsim.workloads.quality.evaluate import evaluate_model
from xmsim.workloads.quality.window_scores import standard_error
from xmsim.workloads.texts.corpora import DocumentSample, RunningText

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("one_thread")

TEXT = RunningText("letters", "".join(chr(97 + number * number % 23) for number in range(200)))


@pytest.fixture(scope="module")
def loaded(small_llama: Path) -> LoadedModel:
    return load_model(str(small_llama))


def sparse_methods() -> list[Method]:
    return [load_method("nm", block=8, kept=2), load_method("window", window=5)]


def evaluated(loaded: LoadedModel, *methods: Method, corpus: Any = TEXT, **options: Any) -> EvaluationRecord:
    return evaluate_model(loaded, methods or sparse_methods(), corpus, **({"lengths": (32,)} | options))


def loss_of(loaded: LoadedModel, ids: list[int], scored: int) -> float:
    """transformers' loss with all but the last labels left out, as the published loops compute it."""
    inputs = torch.tensor([ids])
    labels = inputs.clone()
    labels[:, :-scored] = -100
    with torch.inference_mode():
        return float(loaded.model(inputs, labels=labels).loss)


@pytest.fixture
def activations(loaded: LoadedModel, tmp_path: Path) -> ActivationSparsity:
    tokens = loaded.tokenizer(TEXT._text)["input_ids"][:60]
    write_histograms(tmp_path / FILE_NAME, activation_histograms(loaded, [tokens]))
    return ActivationPlan(0.5, tmp_path, policy="sinks_dense").prepare(loaded)


def test_activation_sparsity_is_scored_beside_the_model_as_it_is_and_with_every_method(
    loaded: LoadedModel, activations: ActivationSparsity
):
    runs = evaluated(loaded, activations=activations).runs
    plain = evaluated(loaded).runs
    assert [run.label for run in runs] == ["dense", *(f"{name}, activations 0.5 teal" for name in ("dense", "nm", "window"))]
    assert runs[0] == plain[0] and runs[0].activations is None
    assert runs[1].loss != runs[0].loss and runs[1].loss_increase == pytest.approx(runs[1].loss - runs[0].loss)
    assert runs[2].window_losses != plain[1].window_losses
    facts = runs[1].activations
    assert (facts.allocation, facts.policy, facts.greedy_sha256, facts.static_sparsity) == ("uniform", "sinks_dense", None, 0.0)
    assert facts.dynamic_sparsity == facts.total_sparsity == pytest.approx(0.5, abs=0.1)
    with activations.attach(loaded):
        assert evaluated(loaded).runs[0].window_losses == runs[1].window_losses


def test_zeros_of_weights_and_dropped_inputs_make_up_the_total(small_llama: Path, activations: ActivationSparsity):
    pruned = load_model(str(small_llama))
    with torch.no_grad():
        for layer in linear_layers(pruned.model).values():
            layer.weight[: len(layer.weight) // 4] = 0
    facts = evaluated(pruned, activations=activations).runs[1].activations
    assert facts.static_sparsity == 0.25
    assert facts.total_sparsity == pytest.approx(1 - 0.75 * (1 - facts.dynamic_sparsity))


def test_a_record_of_version_1_has_no_activation_sparsity_and_one_of_today_is_read_as_it_was_written(
    loaded: LoadedModel, activations: ActivationSparsity, tmp_path: Path
):
    record = evaluated(loaded, activations=activations)
    write_evaluation(tmp_path / "evaluation.json", record)
    assert read_evaluation(tmp_path / "evaluation.json") == record
    body = json.loads((tmp_path / "evaluation.json").read_text()) | {"version": 1}
    for run in body["runs"]:
        del run["activations"]
    (tmp_path / "evaluation.json").write_text(json.dumps(body))
    assert all(run.activations is None for run in read_evaluation(tmp_path / "evaluation.json").runs)


def test_dense_is_the_model_as_it_is_window_for_window(loaded: LoadedModel):
    ids = loaded.tokenizer(TEXT._text)["input_ids"]
    dense, *_ = evaluated(loaded).runs
    assert dense.label == "dense" and (dense.windows, dense.scored_tokens) == (201 // 32, 6 * 31)
    expected = [loss_of(loaded, ids[start : start + 32], 31) for start in range(0, 201 - 31, 32)]
    np.testing.assert_allclose(dense.window_losses, expected, rtol=1e-5)
    assert dense.perplexity == pytest.approx(math.exp(np.mean(expected)), rel=1e-5)
    assert (dense.perplexity_increase, dense.loss_increase, dense.loss_increase_error) == (0, 0, 0)
    assert (dense.densities.density, dense.densities.full_density, dense.densities.kv_density) == (1, 33 / 64, 1)


@pytest.mark.parametrize(
    ("family", "sizes"),
    [
        ("Bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
        ("OPT", {"hidden_size": 32, "word_embed_proj_dim": 16, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4}),
        ("GPT2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
        ("Gemma3", {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8, "sliding_window": 8}),
    ],
)
def test_dense_is_the_model_as_it_is_in_other_families_too(family: str, sizes: dict[str, int], loaded: LoadedModel):
    torch.manual_seed(0)
    text = "TextConfig" if family == "Gemma3" else "Config"
    config = getattr(transformers, family + text)(vocab_size=257, initializer_range=0.3, **sizes)
    kind = {"GPT2": "GPT2LMHeadModel"}.get(family, f"{family}ForCausalLM")
    other = replace(loaded, model=getattr(transformers, kind)(config).eval(), name=family, family=config.model_type)
    dense, nm, _ = evaluated(other, windows=2).runs
    ids = loaded.tokenizer(TEXT._text)["input_ids"]
    np.testing.assert_allclose(dense.window_losses, [loss_of(other, ids[at : at + 32], 31) for at in (0, 32)], rtol=1e-5)
    assert nm.window_losses != dense.window_losses


def test_wanda_weights_windows_by_their_tokens_which_is_the_same_number(loaded: LoadedModel):
    wanda, dynax = (evaluated(loaded, protocol=name).runs for name in ("wanda", "dynax"))
    losses = dynax[1].window_losses
    assert wanda == dynax
    assert wanda[1].perplexity == pytest.approx(math.exp(sum(loss * 32 for loss in losses) / (len(losses) * 32)))


def test_teal_is_the_loop_of_its_authors(loaded: LoadedModel):
    ids = loaded.tokenizer(TEXT._text)["input_ids"]
    dense, *_ = evaluated(loaded, protocol="teal").runs
    usable, losses = len(ids) // 8 * 8, []
    for begin in range(0, usable, 8):
        losses.append(loss_of(loaded, ids[begin : begin + 40], 8))
        if begin + 40 >= usable:
            break
    assert (dense.length_tokens, dense.window_tokens, dense.windows, dense.scored_tokens) == (32, 40, len(losses), 8 * len(losses))
    np.testing.assert_allclose(dense.window_losses, losses, rtol=1e-5)


def test_increases_and_their_errors_pair_each_window_with_the_same_window_of_dense(loaded: LoadedModel):
    dense, *others = evaluated(loaded).runs
    assert [run.label for run in others] == ["nm", "window"]
    for run in others:
        differences = np.subtract(run.window_losses, dense.window_losses)
        assert run.loss == pytest.approx(np.mean(run.window_losses)) and run.perplexity == pytest.approx(math.exp(run.loss))
        assert run.loss_increase == pytest.approx(differences.mean())
        assert run.loss_increase_error == pytest.approx(differences.std(ddof=1) / math.sqrt(6))
        assert run.perplexity_increase == pytest.approx(run.perplexity / dense.perplexity - 1)
        assert abs(run.loss_increase) > 1e-3


def test_one_window_has_no_error_estimate(loaded: LoadedModel):
    assert [run.loss_increase_error for run in evaluated(loaded, windows=1).runs] == [None, None, None]
    assert standard_error([3.0]) is None
    assert standard_error([1.0, 3.0]) == pytest.approx(1.0)


def test_bits_are_counted_on_the_bytes_of_the_scored_tokens(loaded: LoadedModel):
    corpus = RunningText("euros", "€" * 40)  # three bytes and three tokens each, behind one that spells nothing
    dense, *_ = evaluated(loaded, corpus=corpus).runs
    assert (dense.windows, dense.scored_bytes) == (3, 3 * 31)
    assert dense.bits_per_byte == pytest.approx(dense.loss / math.log(2))


def test_where_bytes_are_not_known_there_are_no_bits(small_llama: Path):
    loaded = load_model(str(small_llama))
    normalizers = pytest.importorskip("tokenizers").normalizers
    loaded.tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    shouted = RunningText("shouted", TEXT._text.upper())
    assert [(run.scored_bytes, run.bits_per_byte) for run in evaluated(loaded, corpus=shouted).runs] == [(None, None)] * 3


def test_densities_are_counted_over_all_windows_layers_and_heads(loaded: LoadedModel):
    *_, window = evaluated(loaded).runs
    scores = np.where(np.tri(32, dtype=bool), 0.0, -np.inf)
    kept = window_keep(scores, window=5, global_tokens=1).sum()
    assert window.densities.density == window.densities.kv_density == pytest.approx(kept / (32 * 33 / 2))
    assert window.densities.full_density == pytest.approx(kept / 32**2)
    assert [(layer.layer, layer.densities) for layer in window.layers] == [(layer, window.densities) for layer in range(4)]


def test_a_method_that_keeps_everything_changes_nothing(loaded: LoadedModel):
    dense, topk = evaluated(loaded, load_method("topk")).runs  # 400 of 32
    assert topk.densities == dense.densities
    np.testing.assert_allclose(topk.window_losses, dense.window_losses, rtol=1e-6)


def test_windows_are_read_one_at_a_time_so_prediction_has_a_scale_for_each(loaded: LoadedModel):
    method = load_method("nm", block=8, kept=2, prediction={"group": 4, "bits": 6})
    (_, alone), (_, first, *_) = evaluated(loaded, method, windows=1).runs, evaluated(loaded, method, windows=3).runs
    assert alone.window_losses == first.window_losses[:1]
    (_, exact) = evaluated(loaded, load_method("nm", block=8, kept=2), windows=1).runs
    assert exact.window_losses != alone.window_losses


def test_every_length_starts_over_with_dense_and_all_methods_read_the_same_windows(loaded: LoadedModel):
    steps: list[tuple[int, int]] = []
    record = evaluated(loaded, lengths=(16, 32, 16), windows=2, progress=lambda done, total: steps.append((done, total)))
    assert [(run.length_tokens, run.label, run.windows) for run in record.runs] == [
        (length, name, 2) for length in (16, 32) for name in ("dense", "nm", "window")
    ]
    assert steps == [(done, 12) for done in range(1, 13)]


def test_documents_are_cut_one_by_one(loaded: LoadedModel):
    sample = DocumentSample("docs", ["short", "a document that is long enough", "and another one, longer than that"], count=5)
    for protocol, window in (("dynax", 16), ("teal", 20)):
        dense, *_ = evaluated(loaded, corpus=sample, lengths=(16,), protocol=protocol).runs
        assert (dense.windows, dense.window_tokens) == (5, window)


def test_a_method_given_twice_counts_once_and_dense_is_always_there(loaded: LoadedModel):
    nm = load_method("nm")
    record = evaluated(loaded, nm, load_method("dense"), nm, windows=1)
    assert [run.label for run in record.runs] == ["dense", "nm"]


def test_different_methods_of_one_name_are_refused(loaded: LoadedModel):
    with pytest.raises(XmsimError, match=r"^two different methods are called nm; rename one of the files$"):
        evaluated(loaded, load_method("nm"), load_method("nm", kept=3))


def test_exact_and_predicted_scores_are_two_methods(loaded: LoadedModel):
    low, lower = ({"group": 2, "bits": bits} for bits in (4, 3))
    record = evaluated(loaded, *(load_method("nm", **given) for given in ({}, {"prediction": low}, {"prediction": lower})), windows=1)
    assert [run.label for run in record.runs] == ["dense", "nm", "nm, 4-bit 1:2", "nm, 3-bit 1:2"]
    assert method_label({"name": "nm", "prediction": low | {"scale_per": "head"}}) == "nm, 4-bit 1:2, a scale per head"


def test_the_model_is_left_as_it_was(loaded: LoadedModel):
    ids = torch.tensor([list(range(20))])
    with torch.inference_mode():
        before = loaded.model(ids).logits
        evaluated(loaded, windows=1)
        assert torch.equal(loaded.model(ids).logits, before)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"protocol": "dynamo"}, r"^no protocol dynamo; did you mean dynax\?$"),
        ({"windows": 0}, r"^0 windows cannot be evaluated; ask for at least 1$"),
        ({"lengths": (1,)}, r"^protocol dynax scores no token at length 1; give a larger --length$"),
        ({"lengths": (3,), "protocol": "teal"}, r"^protocol teal scores no token at length 3; give a larger --length$"),
        ({"lengths": (-5,)}, r"^protocol dynax scores no token at length -5; give a larger --length$"),
        ({"lengths": (16, 65)}, r"^model: reads at most 64 tokens, and protocol dynax at length 65 needs 65; give a smaller --length$"),
        ({"lengths": (64,), "protocol": "teal"}, r"^model: reads at most 64 tokens, and protocol teal at length 64 needs 80; "),
        ({"corpus": RunningText("mine", "abc")}, r"^mine: 4 tokens are too short for a window of 32; "),
    ],
)
def test_what_cannot_be_evaluated_is_one_sentence_before_anything_runs(loaded: LoadedModel, options: dict[str, Any], sentence: str):
    with pytest.raises(XmsimError, match=sentence):
        evaluated(loaded, progress=lambda done, total: pytest.fail("a window was run"), **options)


def test_an_encoder_has_no_perplexity(loaded: LoadedModel):
    sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    bert = transformers.BertModel(transformers.BertConfig(**sizes))
    with pytest.raises(XmsimError, match=r"^encoder: a model of family bert without a causal language head has no perplexity$"):
        evaluated(replace(loaded, model=bert, name="encoder", family="bert"))


def test_a_loss_that_is_no_number_is_one_sentence(small_llama: Path):
    broken = load_model(str(small_llama))
    broken.model.get_output_embeddings().weight.data[5] = math.nan
    with pytest.raises(XmsimError, match=r"^model with method dense: the loss of window 0 is nan nats a token, .* give another --dtype$"):
        evaluated(broken)


def test_memory_that_is_full_is_one_sentence(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch):
    def full(*_: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr("xmsim.workloads.quality.evaluate.window_loss", lambda *_: full)
    with pytest.raises(XmsimError, match=r"^model: out of memory at windows of 32 tokens; give a smaller --length$"):
        evaluated(loaded)


def test_a_fault_of_the_code_is_not_taken_for_full_memory(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch):
    def faulty(*_: Any) -> None:
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr("xmsim.workloads.quality.evaluate.window_loss", lambda *_: faulty)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        evaluated(loaded)


def test_a_family_that_no_method_can_be_attached_to_is_named(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(type(loaded.model), "_can_set_attn_implementation", classmethod(lambda cls: False))
    with pytest.raises(ModelError, match="llama: no method can be attached"):
        evaluated(loaded)


def test_the_record_says_what_was_run_and_survives_the_file(loaded: LoadedModel, tmp_path: Path):
    record = evaluated(loaded, load_method("xm", prediction={"group": 4, "bits": 6}), windows=2)
    write_evaluation(tmp_path / "evaluation.json", record)
    assert read_evaluation(tmp_path / "evaluation.json") == record
    data = json.loads((tmp_path / "evaluation.json").read_text())
    assert (data["format"], data["version"]) == ("xmsim.evaluation", 3)
    assert (data["device"], data["dtype"], data["protocol"]) == ("cpu", "float32", "dynax")
    assert data["text"] == {"name": "letters", "sha256": TEXT.sha256, "note": ""}
    assert data["model"]["name"] == "model" and len(data["model"]["weights_sha256"]) == 64
    xm = data["runs"][1]
    assert xm["method"]["name"] == "xm" and xm["method"]["prediction"] == {"group": 4, "bits": 6, "scale_per": "layer"}
    assert {"loss_nats_per_token", "loss_increase_standard_error_nats_per_token", "bits_per_byte", "perplexity"} <= xm.keys()
    assert len(xm["window_losses_nats_per_token"]) == 2 and len(xm["layers"]) == 4


def test_a_later_version_of_the_file_is_refused(loaded: LoadedModel, tmp_path: Path):
    path = tmp_path / "evaluation.json"
    write_evaluation(path, evaluated(loaded, windows=1))
    path.write_text(path.read_text().replace('"version": 3', '"version": 4'))
    with pytest.raises(RecordError, match=r"version 4 of xmsim\.evaluation is newer than this xmsim reads \(3\)"):
        read_evaluation(path)
