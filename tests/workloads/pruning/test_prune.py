"""Pruning block by block does what pruning a model in memory does, and nothing else to it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from xmsim.configs.errors import XmsimError
from xmsim.reference.weights import InputSquares, apply_keep, wanda_keep
from xmsim.workloads.evaluation import read_evaluation
from xmsim.workloads.models.linear_exchange import linear_layers
from xmsim.workloads.models.loading import load_model
from xmsim.workloads.pruning.decoder import StreamedDecoder
from xmsim.workloads.pruning.methods import METHODS
from xmsim.workloads.pruning.pattern import Pattern, expected_patterns, pattern_groups, weight_matrix
from xmsim.workloads.pruning.prune import prune_model
from xmsim.workloads.pruning.record import PruningRecord, read_pruning
from xmsim.workloads.pruning.text import read_calibration

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors_torch = pytest.importorskip("safetensors.torch")
pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 257, "max_position_embeddings": 64}
GATED = SMALL | {"intermediate_size": 48, "num_key_value_heads": 2}
FAMILIES = {
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**GATED, tie_word_embeddings=True)),
    "mistral": lambda: transformers.MistralForCausalLM(transformers.MistralConfig(**GATED, sliding_window=8)),
    "qwen2": lambda: transformers.Qwen2ForCausalLM(
        transformers.Qwen2Config(**GATED, use_sliding_window=True, sliding_window=8, max_window_layers=1)
    ),
    "qwen3": lambda: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**GATED, head_dim=16)),
    "gemma": lambda: transformers.GemmaForCausalLM(transformers.GemmaConfig(**GATED, head_dim=16)),
    "gemma2": lambda: transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**GATED, head_dim=16, sliding_window=8)),
    "gemma3_text": lambda: transformers.Gemma3ForCausalLM(
        transformers.Gemma3TextConfig(
            **GATED, head_dim=16, sliding_window=8, layer_types=["sliding_attention", "full_attention", "sliding_attention"]
        )
    ),
    "phi": lambda: transformers.PhiForCausalLM(transformers.PhiConfig(**SMALL, intermediate_size=48)),
    "phi3": lambda: transformers.Phi3ForCausalLM(transformers.Phi3Config(**GATED, pad_token_id=0)),
    "starcoder2": lambda: transformers.Starcoder2ForCausalLM(transformers.Starcoder2Config(**GATED, sliding_window=8)),
    "olmo": lambda: transformers.OlmoForCausalLM(transformers.OlmoConfig(**GATED)),
    "olmo2": lambda: transformers.Olmo2ForCausalLM(transformers.Olmo2Config(**GATED)),
    "cohere": lambda: transformers.CohereForCausalLM(transformers.CohereConfig(**GATED)),
    "granite": lambda: transformers.GraniteForCausalLM(
        transformers.GraniteConfig(**GATED, embedding_multiplier=3.0, residual_multiplier=0.5, attention_multiplier=0.2)
    ),
    "stablelm": lambda: transformers.StableLmForCausalLM(transformers.StableLmConfig(**GATED)),
    "smollm3": lambda: transformers.SmolLM3ForCausalLM(transformers.SmolLM3Config(**GATED, no_rope_layers=[1, 0, 1], pad_token_id=0)),
    "glm": lambda: transformers.GlmForCausalLM(transformers.GlmConfig(**GATED, head_dim=8, pad_token_id=0)),
    "bloom": lambda: transformers.BloomForCausalLM(transformers.BloomConfig(hidden_size=32, n_layer=3, n_head=4, vocab_size=257)),
    "falcon": lambda: transformers.FalconForCausalLM(
        transformers.FalconConfig(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, vocab_size=257)
    ),
    "mpt": lambda: transformers.MptForCausalLM(transformers.MptConfig(d_model=32, n_layers=3, n_heads=4, vocab_size=257)),
    "opt": lambda: transformers.OPTForCausalLM(transformers.OPTConfig(**SMALL, ffn_dim=48, word_embed_proj_dim=16)),
    "gpt2": lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=32, n_layer=3, n_head=4, vocab_size=257, n_positions=64)),
}


@pytest.fixture(params=FAMILIES)
def family_folder(request: pytest.FixtureRequest, small_llama: Path, tmp_path: Path) -> Path:
    """A small model of each family."""
    folder = tmp_path / request.param
    torch.manual_seed(5)
    FAMILIES[request.param]().save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(small_llama).save_pretrained(folder)
    return folder


@pytest.fixture
def prune(small_llama: Path, short_text: Path, tmp_path: Path) -> Callable[..., PruningRecord]:
    """Prune a small Llama in 3 samples of 16 tokens."""

    def run(out: str = "pruned", model: Path = small_llama, **options: object) -> PruningRecord:
        chosen = {"text": short_text, "samples": 3, "length": 16} | options
        return prune_model(str(model), out=tmp_path / out, **chosen)

    return run


def tensors_of(folder: Path) -> dict[str, object]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in safetensors_torch.load_file(path).items()}


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.safetensors")}


def test_block_by_block_prunes_what_a_model_in_memory_loses(family_folder: Path, short_text: Path, prune, tmp_path: Path):
    """The judge runs the whole model for each block: the inputs of a block do not depend on the blocks after it."""
    loaded = load_model(str(family_folder))
    samples = read_calibration(short_text, loaded.tokenizer, samples=3, length=16, seed=0).windows
    layers = linear_layers(loaded.model)
    numbers = {
        name: next(part for part in name.split(".") if part.isdigit()) for name in layers if any(p.isdigit() for p in name.split("."))
    }
    for number in sorted(set(numbers.values())):
        block = {name: layers[name] for name in numbers if numbers[name] == number}
        sums = {name: InputSquares() for name in block}
        hooks = [block[name].register_forward_pre_hook(lambda _, x, own=own: own.add(x[0])) for name, own in sums.items()]
        with torch.inference_mode():
            for sample in samples:
                loaded.model(torch.from_numpy(sample)[None])
            for name, layer in block.items():
                weight = weight_matrix(layer)
                weight.copy_(apply_keep(weight, wanda_keep(weight, sums[name], sparsity=0.5)))
        for hook in hooks:
            hook.remove()
    record = prune(model=family_folder, method="wanda", sparsity=0.5)
    pruned = load_model(str(tmp_path / "pruned"))
    assert {layer.name for layer in record.layers} == set(numbers)
    for (name, expected), (_, found) in zip(loaded.model.named_parameters(), pruned.model.named_parameters(), strict=True):
        assert torch.equal(expected, found), name


@pytest.mark.parametrize("method", METHODS)
def test_every_method_reaches_its_sparsity_and_leaves_the_rest_alone(method: str, prune, small_llama: Path, tmp_path: Path):
    record = prune(method=method, sparsity=0.5)
    before, after = tensors_of(small_llama), tensors_of(tmp_path / "pruned")
    assert before.keys() == after.keys()
    pruned = {f"{layer.name}.weight": layer for layer in record.layers}
    assert len(pruned) == 4 * 7
    for name, tensor in after.items():
        if name in pruned:
            assert pruned[name].sparsity == float((tensor == 0).double().mean())
        else:
            assert torch.equal(before[name], tensor), name
    assert record.reached_sparsity == pytest.approx(0.5, abs=0.02)  # wanda_alpha is the one that searches
    assert read_pruning(tmp_path / "pruned") == record


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt", "admm"])
def test_a_pattern_holds_in_every_group(method: str, prune, tmp_path: Path):
    record = prune(method=method, pattern="2:4")
    model = load_model(str(tmp_path / "pruned")).model
    expected = expected_patterns(str(tmp_path / "pruned"), None)
    assert expected == {layer.name: Pattern(2, 4) for layer in record.layers}
    assert all(layer.share == 1 for layer in pattern_groups(model, expected))
    assert record.sparsity == 0.5 and record.reached_sparsity >= 0.5
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, :4] = 1.0
    broken = [layer for layer in pattern_groups(model, Pattern(2, 4)) if layer.share < 1]
    assert [(layer.name, layer.groups - layer.obeying) for layer in broken] == [("model.layers.1.mlp.up_proj", 1)]


@pytest.mark.parametrize("budget", ["owl", "alphapruning"])
def test_a_budget_gives_blocks_unlike_shares_that_make_up_the_sparsity(budget: str, prune):
    record = prune(budget=budget, sparsity=0.6, method="wanda")
    targets = [record.layers[7 * block].target_sparsity for block in range(4)]
    assert len(set(targets)) > 1 and sum(targets) / 4 == pytest.approx(0.6)
    for layer in record.layers:
        assert layer.sparsity == pytest.approx(int(layer.target_sparsity * layer.in_features) / layer.in_features)


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
def test_owl_gives_blocks_unlike_patterns_that_hold_in_every_group_of_theirs(method: str, prune, tmp_path: Path):
    record = prune(budget="owl", pattern="4:8", method=method)
    expected = expected_patterns(str(tmp_path / "pruned"), None)
    kept = [expected[layer.name].kept for layer in record.layers[::7]]
    assert len(set(kept)) > 1 and max(kept) - min(kept) <= 3 and sum(kept) / 4 == pytest.approx(4, abs=0.5)
    assert [layer.target_sparsity for layer in record.layers[::7]] == [1 - one / 8 for one in kept]
    groups = list(pattern_groups(load_model(str(tmp_path / "pruned")).model, expected))
    assert len(groups) == 28 and all(layer.share == 1 for layer in groups)


def test_one_block_is_in_memory_at_a_time(prune, monkeypatch: pytest.MonkeyPatch):
    seen = []
    gather = StreamedDecoder.gather

    def watched(self, number, kind):
        model = self._stored.skeleton
        seen.append({name.split(".")[2] for name, weight in model.named_parameters() if not weight.is_meta})
        return gather(self, number, kind)

    monkeypatch.setattr(StreamedDecoder, "gather", watched)
    prune(sparsity=0.5)
    assert seen == [{"0"}, {"1"}, {"2"}, {"3"}]


@pytest.mark.parametrize("budget", ["uniform", "owl"])
def test_an_interrupted_pruning_goes_on_and_ends_as_it_would_have(budget: str, prune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    prune("whole", sparsity=0.5, method="sparsegpt", budget=budget)

    def stop_after_two(done: int, blocks: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prune(sparsity=0.5, method="sparsegpt", budget=budget, progress=stop_after_two)
    assert not (tmp_path / "pruned").exists()
    assert sorted(path.name for path in (tmp_path / "pruned.part").iterdir()) == [
        "block_0000.json",
        "block_0000.safetensors",
        "block_0001.json",
        "block_0001.safetensors",
        "plan.json",
    ]
    with pytest.raises(XmsimError, match="unfinished pruning with another method, sparsity;"):
        prune(sparsity=0.4, method="wanda", budget=budget)
    gathered = []
    gather = StreamedDecoder.gather
    monkeypatch.setattr(StreamedDecoder, "gather", lambda self, number, kind: gathered.append(number) or gather(self, number, kind))
    prune(sparsity=0.5, method="sparsegpt", budget=budget)
    assert gathered == [2, 3]
    assert contents(tmp_path / "pruned") == contents(tmp_path / "whole")
    assert not (tmp_path / "pruned.part").exists()


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("plan.json", b"{", "plan.json: damaged"),
        ("plan.json", b"{}", "plan.json: not the plan of a pruning"),
        ("block_0000.safetensors", b"?", "block_0000.safetensors: a damaged block"),
        ("block_0000.json", b"[{}]", r"block_0000.json: \[0\].name is missing"),
    ],
)
def test_a_damaged_part_is_named(name: str, content: bytes, sentence: str, prune, tmp_path: Path):
    def stop(done: int, blocks: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prune(sparsity=0.5, progress=stop)
    (tmp_path / "pruned.part" / name).write_bytes(content)
    with pytest.raises(XmsimError, match=sentence):
        prune(sparsity=0.5)


def test_a_part_that_is_something_else_is_left_alone(prune, tmp_path: Path):
    (tmp_path / "pruned.part").mkdir()
    (tmp_path / "pruned.part" / "thesis.txt").touch()
    with pytest.raises(XmsimError, match=r"pruned.part: exists and is no unfinished pruning"):
        prune(sparsity=0.5)


def test_the_original_folder_is_not_touched(prune, small_llama: Path):
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in small_llama.iterdir()}
    prune(sparsity=0.5)
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in small_llama.iterdir()} == before


def test_all_methods_see_the_same_samples_and_the_record_says_which(prune, tmp_path: Path):
    first, second = prune("a", method="wanda", sparsity=0.5), prune("b", method="sparsegpt", sparsity=0.5)
    other = prune("c", method="wanda", sparsity=0.5, seed=1)
    assert first.calibration == second.calibration
    assert first.calibration.samples_sha256 != other.calibration.samples_sha256
    assert first.calibration.sha256 == other.calibration.sha256
    assert prune("d", method="magnitude", sparsity=0.5).calibration is None


def test_a_pruned_model_is_pruned_further_and_its_zeros_count(prune, tmp_path: Path):
    prune("half", method="wanda", sparsity=0.5)
    again = prune("more", model=tmp_path / "half", method="wanda", sparsity=0.75)
    assert all(layer.sparsity_before == 0.5 and layer.sparsity == 0.75 for layer in again.layers)
    half, more = tensors_of(tmp_path / "half"), tensors_of(tmp_path / "more")
    assert all(not (more[name][half[name] == 0]).any() for name in half)


def test_weights_keep_their_number_format_and_kept_ones_their_value(small_llama: Path, tmp_path: Path, prune):
    loaded = load_model(str(small_llama), dtype="bfloat16")
    loaded.model.save_pretrained(tmp_path / "bfloat16")
    loaded.tokenizer.save_pretrained(tmp_path / "bfloat16")
    assert prune(model=tmp_path / "bfloat16", sparsity=0.5).base.dtype == "bfloat16"
    before, after = tensors_of(tmp_path / "bfloat16"), tensors_of(tmp_path / "pruned")
    assert all(
        tensor.dtype == torch.bfloat16 and torch.equal(tensor[tensor != 0], before[name][tensor != 0]) for name, tensor in after.items()
    )


def test_a_checkpoint_without_its_head_s_prefix_keeps_the_names_of_its_tensors(tmp_path: Path, small_llama: Path, prune):
    """As GPT-2 lies on the hub: h.0..., with the causal mask of each layer beside its weights."""
    torch.manual_seed(5)
    FAMILIES["gpt2"]().save_pretrained(tmp_path / "gpt2")
    transformers.AutoTokenizer.from_pretrained(small_llama).save_pretrained(tmp_path / "gpt2")
    named = {name.removeprefix("transformer."): tensor for name, tensor in tensors_of(tmp_path / "gpt2").items()}
    named["h.0.attn.bias"] = torch.ones(1, 1, 64, 64)
    safetensors_torch.save_file(named, tmp_path / "gpt2" / "model.safetensors", metadata={"format": "pt"})
    record = prune(model=tmp_path / "gpt2", sparsity=0.5)
    assert tensors_of(tmp_path / "pruned").keys() == named.keys()
    assert record.reached_sparsity == 0.5
    load_model(str(tmp_path / "pruned"))


def edited(small_llama: Path, folder: Path, name: str, value: float) -> Path:
    """The small model with one matrix filled."""
    loaded = load_model(str(small_llama))
    with torch.no_grad():
        loaded.model.get_parameter(name).fill_(value)
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("value", "sentence"),
    [(0.0, "all zero, so that nothing in it is smaller than the rest"), (float("nan"), "weight: contains NaN or infinity")],
)
def test_a_layer_that_cannot_be_pruned_is_named(value: float, sentence: str, small_llama: Path, tmp_path: Path, prune):
    folder = edited(small_llama, tmp_path / "odd", "model.layers.2.mlp.up_proj.weight", value)
    with pytest.raises(XmsimError, match=f"odd, layer model.layers.2.mlp.up_proj: .*{sentence}"):
        prune(model=folder, sparsity=0.5)
    assert not (tmp_path / "pruned").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "give --sparsity, e.g. 0.5, or --pattern, e.g. 2:4"),
        ({"sparsity": 1.0}, "sparsity 1.0: a share of the weights is needed, at least 0 and less than 1"),
        ({"sparsity": -0.1}, "at least 0 and less than 1"),
        ({"sparsity": float("nan")}, "at least 0 and less than 1"),
        ({"pattern": "2:4", "sparsity": 0.6}, "sparsity 0.6: pattern 2:4 has 0.5; leave --sparsity out"),
        ({"pattern": "4:2"}, "pattern 4:2: write how many of how many consecutive weights stay"),
        ({"pattern": "2/4"}, "pattern 2/4: write"),
        ({"pattern": "2:5"}, "model.layers.0.self_attn.q_proj: its 32 inputs are not divided into blocks of 5"),
        ({"pattern": "2:4", "method": "wanda_alpha"}, "method wanda_alpha: prunes a share of each layer and has no pattern"),
        ({"pattern": "2:4", "budget": "alphapruning"}, "nor its code says how pattern 2:4 follows from it; use budget uniform or owl"),
        ({"sparsity": 0.5, "method": "wander"}, "no pruning method wander; did you mean wanda?"),
        ({"sparsity": 0.5, "budget": "owls"}, "no budget owls; did you mean owl?"),
        ({"sparsity": 0.5, "samples": 100}, "too short to calibrate on 100 samples of 16"),
        ({"sparsity": 0.5, "samples": 0}, "0 samples of 16 tokens cannot be drawn"),
        ({"sparsity": 0.5, "length": 65}, "reads at most 64 tokens, samples of 65 were asked for"),
        ({"sparsity": 0.5, "dtype": "int8"}, "no dtype int8; models are run in float32"),
        ({"sparsity": 0.01, "budget": "owl"}, "budget owl: spread: sparsities would run from"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(options: dict[str, object], sentence: str, prune, tmp_path: Path):
    with pytest.raises(XmsimError) as caught:
        prune(**options)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "pruned").exists() and not (tmp_path / "pruned.part").exists()


def test_a_family_whose_blocks_are_not_known_is_refused_by_name(small_llama: Path, tmp_path: Path, prune):
    config = transformers.MixtralConfig(**GATED, num_local_experts=2)
    transformers.MixtralForCausalLM(config).save_pretrained(tmp_path / "mixtral")
    with pytest.raises(XmsimError, match=r"mixtral: a model of family mixtral .* cannot be pruned block by block; .* llama, mistral"):
        prune(model=tmp_path / "mixtral", sparsity=0.5)


def test_weights_that_are_missing_or_quantised_are_refused(small_llama: Path, tmp_path: Path, prune):
    folder = tmp_path / "lacking"
    folder.mkdir()
    for path in small_llama.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    tensors = tensors_of(small_llama)
    del tensors["model.layers.3.mlp.down_proj.weight"]
    safetensors_torch.save_file(tensors, folder / "model.safetensors")
    with pytest.raises(XmsimError, match=r"the weights lack model.layers.3.mlp.down_proj.weight \(1 missing in all\)"):
        prune(model=folder, sparsity=0.5)
    (folder / "model.safetensors").unlink()
    with pytest.raises(XmsimError, match="has no safetensors file"):
        prune(model=folder, sparsity=0.5)
    config = json.loads((folder / "config.json").read_text()) | {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(XmsimError, match="its weights are quantised"):
        prune(model=folder, sparsity=0.5)
    assert not (tmp_path / "pruned").exists()


DOCS = Path(__file__).resolve().parents[3] / "docs" / "pruning.md"
RECORDS = DOCS.parents[1] / "reports" / "measured"


def test_the_documented_perplexities_are_those_of_the_records():
    table = DOCS.read_text().partition("## xm-tiny at 50 %")[2]
    rows = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("| `")]
    checked = 0
    for method, at_half, at_pattern, *_ in rows:
        name = method.strip().strip("`").replace(" --budget ", "_")
        for cell, suffix in ((at_half, "50"), (at_pattern, "2of4")):
            record = RECORDS / f"evaluation_xm_tiny_{name}_{suffix}.json"
            if record.exists():
                (run,) = read_evaluation(record).runs
                assert cell.strip(" *") == f"{run.perplexity:.2f}", record.name
                checked += 1
    assert checked == len(list(RECORDS.glob("evaluation_xm_tiny_*_50.json"))) + len(list(RECORDS.glob("evaluation_xm_tiny_*_2of4.json")))
