"""Families of models that people use: what is captured is what the model's own attention puts out, and what cannot be is refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xmsim.traces.manifest import Bias
from xmsim.traces.store import LayerTrace
from xmsim.workloads.attachment.attach import attach
from xmsim.workloads.extraction.extract import extract_windows
from xmsim.workloads.models.linear_exchange import linear_layers, share_of_experts, sparsify
from xmsim.workloads.models.loading import LoadedModel, ModelError
from xmsim.workloads.quality.token_losses import window_loss

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
SIZES |= {"max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": None, "pad_token_id": None}
GROUPED = SIZES | {"num_key_value_heads": 2}
NAMED = GROUPED | {"head_dim": 16}  # heads are wider than hidden_size / heads
EXPERTS = {"num_experts": 4, "moe_intermediate_size": 16, "num_experts_per_tok": 2}
ALTERNATING = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
LATENT = SIZES | {"num_key_value_heads": 4, "kv_lora_rank": 8, "q_lora_rank": None, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8}
LATENT |= {"v_head_dim": 8, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_group": 1, "topk_group": 1}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8}
TOKENS = 24
CAUSAL, WINDOW = Bias("causal"), Bias("sliding_window", window=8)


@dataclass(frozen=True)
class Family:
    """A small model of a family, and what its trace must say of its two layers."""

    name: str  # of transformers' classes, before ForCausalLM
    arguments: dict[str, Any] = field(default_factory=lambda: GROUPED)
    biases: tuple[Bias, Bias] = (CAUSAL, CAUSAL)
    scale: float = 8**-0.5
    kv_heads: int = 2
    reader: str = "self_attn.o_proj"  # the module that reads what attention puts out
    config: str = ""  # class, where it is not the name and Config


FAMILIES = {
    "mixtral": Family("Mixtral", GROUPED | {"num_local_experts": 4}),
    "qwen2, windows in some layers": Family(
        "Qwen2", GROUPED | {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}, (CAUSAL, WINDOW)
    ),
    "qwen2_moe": Family("Qwen2Moe", GROUPED | EXPERTS | {"shared_expert_intermediate_size": 16}),
    "qwen3, QK norm": Family("Qwen3", NAMED, scale=0.25),
    "qwen3_moe": Family("Qwen3Moe", NAMED | EXPERTS, scale=0.25),
    "gemma, one KV head": Family("Gemma", NAMED | {"num_key_value_heads": 1}, scale=0.25, kv_heads=1),
    "gemma2 without its softcap": Family(
        "Gemma2", NAMED | ALTERNATING | {"query_pre_attn_scalar": 25, "attn_logit_softcapping": None}, (WINDOW, CAUSAL), scale=0.2
    ),
    "gemma3": Family("Gemma3", NAMED | ALTERNATING | {"query_pre_attn_scalar": 25}, (WINDOW, CAUSAL), scale=0.2, config="Gemma3TextConfig"),
    "phi": Family("Phi", SIZES | {"partial_rotary_factor": 0.5}, kv_heads=4, reader="self_attn.dense"),
    "phi3, fused QKV": Family("Phi3", GROUPED | {"sliding_window": 8}, (WINDOW, WINDOW)),
    "phimoe": Family("Phimoe", GROUPED | {"num_local_experts": 4}),
    "starcoder2": Family("Starcoder2", GROUPED | {"sliding_window": 8}, (WINDOW, WINDOW)),
    "gpt_bigcode, one KV head": Family(
        "GPTBigCode", {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}, kv_heads=1, reader="attn.c_proj"
    ),
    "olmo": Family("Olmo", GROUPED | {"clip_qkv": 0.5}),
    "olmo2": Family("Olmo2"),
    "cohere": Family("Cohere", GROUPED | {"use_qk_norm": True}),
    "granite, its own scale": Family("Granite", GROUPED | {"attention_multiplier": 0.11, "residual_multiplier": 0.5}, scale=0.11),
    "stablelm": Family("StableLm", GROUPED | {"partial_rotary_factor": 0.5, "qk_layernorm": True}),
    "glm": Family("Glm", GROUPED | {"head_dim": 8}),
    "smollm3, a layer without rotation": Family("SmolLM3", GROUPED | {"no_rope_layers": [1, 0]}),
    "llama4, within a chunk": Family(
        "Llama4",
        NAMED | {"num_local_experts": 4, "num_experts_per_tok": 1, "intermediate_size_mlp": 48, "attention_chunk_size": 32},
        scale=0.25,
        config="Llama4TextConfig",
    ),
}


def random_model(model: str, config: str, arguments: dict[str, Any]) -> LoadedModel:
    """A model of random weights, norms included, and large enough that its attention is far from uniform."""
    torch.manual_seed(1)
    network = getattr(transformers, model)(getattr(transformers, config)(**arguments)).eval()
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "norm" in name:
                weight.add_(0.3 * torch.randn_like(weight))
            elif weight.ndim > 1 and "emb" not in name:
                weight.normal_(std=0.3)
    return LoadedModel(network, None, "model", network.config.model_type)


@pytest.fixture(scope="module")
def models() -> dict[str, LoadedModel]:
    return {
        label: random_model(f"{family.name}ForCausalLM", family.config or f"{family.name}Config", family.arguments)
        for label, family in FAMILIES.items()
    }


@pytest.fixture(params=FAMILIES)
def label(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def token_ids() -> list[int]:
    return [int(token) for token in np.random.default_rng(7).integers(2, 64, TOKENS)]


def logits(model: Any) -> Any:
    with torch.inference_mode():
        return model(torch.tensor([token_ids()]), use_cache=False).logits


def reproduced(layer: LayerTrace, head: int) -> np.ndarray:
    """softmax(scale · Q Kᵀ) V on the allowed pairs, from what the trace stores, in float64."""
    operands = layer.head(0, head)
    scores = operands.q.astype(np.float64) @ operands.k.astype(np.float64).T * layer.scale
    scores[~layer.bias.allowed(TOKENS)] = -np.inf
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    assert (weights / weights.sum(axis=1, keepdims=True))[1:].max() > 0.3  # uniform is nowhere near: the comparison means something
    return weights / weights.sum(axis=1, keepdims=True) @ operands.v.astype(np.float64)


def test_the_stored_operands_give_what_the_models_own_attention_puts_out(models: dict[str, LoadedModel], label: str, tmp_path: Path):
    family, model, outputs = FAMILIES[label], models[label].model, []
    model.set_attn_implementation("eager")
    readers = [module for name, module in model.named_modules() if name.endswith(family.reader)]
    hooks = [reader.register_forward_pre_hook(lambda _, inputs: outputs.append(inputs[0].reshape(TOKENS, 4, -1))) for reader in readers]
    logits(model)
    for hook in hooks:
        hook.remove()
    trace = extract_windows(models[label], (tuple(token_ids()),), out=tmp_path / "trace")
    assert trace.layers == (0, 1) and len(outputs) == 2
    for number, output in enumerate(outputs):
        layer = trace.read_layer(number)
        assert layer.bias == family.biases[number]
        assert layer.scale == pytest.approx(family.scale)
        assert layer.k.shape[1] == family.kv_heads
        for head in range(4):
            np.testing.assert_allclose(reproduced(layer, head), output[:, head].numpy(), rtol=0, atol=2e-6 * float(output.abs().max()))


def test_a_method_that_keeps_all_changes_no_logits_and_no_generated_token(models: dict[str, LoadedModel], label: str):
    model, prompt = models[label].model, torch.tensor([token_ids()[:12]])
    how: dict[str, Any] = {"max_new_tokens": 10, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    how |= {"output_logits": True, "return_dict_in_generate": True}
    model.set_attn_implementation("eager")
    eager, spoken = logits(model), model.generate(prompt, **how)
    with attach(model, "dense"):
        assert torch.equal(logits(model), eager)
        attached = model.generate(prompt, **how)
    assert torch.equal(attached.sequences, spoken.sequences)
    for ours, own in zip(attached.logits, spoken.logits, strict=True):
        torch.testing.assert_close(ours, own, rtol=0, atol=1e-5 * float(own.abs().max()))


REFUSED = {
    "deepseek_v2": (
        ("DeepseekV2", LATENT),
        r"deepseek_v2: this model family cannot be extracted, a key has 12 elements and a value 8 \(multi-head latent attention\)",
    ),
    "deepseek_v3 with keys and values of one size": (
        ("DeepseekV3", LATENT | {"v_head_dim": 12}),
        "deepseek_v3: .* layer 0 has 4 heads on 4 KV heads of 12 elements, its configuration says 4 heads on 4 KV heads of 4 elements",
    ),
    "gpt_oss": (
        ("GptOss", NAMED | {"num_local_experts": 4, "num_experts_per_tok": 2}),
        "gpt_oss: .* layer 0 changes its scores through attention sinks",
    ),
    "llama4": (
        ("Llama4", FAMILIES["llama4, within a chunk"].arguments | {"attention_chunk_size": 8}, "Llama4TextConfig"),
        r"llama4_text: .* the mask of layer 0 is neither causal .* \(it attends in chunks of 8 tokens: ask for that many or fewer\)",
    ),
    "gemma4": (
        ("Gemma4", NAMED | ALTERNATING | {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 64}, "Gemma4TextConfig"),
        "gemma4_text: .* layer 1 has 4 heads on 2 KV heads of 512 elements, its configuration says 4 heads on 2 KV heads of 16 elements",
    ),
    "bamba": (
        ("Bamba", GROUPED | MAMBA | {"attn_layer_indices": [0]}),
        "bamba: .* attention was seen in 1 of 2 layers, the others being of kind linear_attention",
    ),
    "diffllama": (("DiffLlama", GROUPED), "diffllama: .* attention was seen in 4 of 2 layers"),
    "mamba": (
        ("Mamba", {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2}),
        "mamba: .* its configuration has no num_attention_heads, which models with attention have",
    ),
}


@pytest.mark.parametrize("family", REFUSED)
def test_what_a_trace_cannot_hold_is_refused_each_time_and_nothing_is_written(family: str, tmp_path: Path):
    (name, arguments, *config), sentence = REFUSED[family]
    loaded = random_model(f"{name}ForCausalLM", config[0] if config else f"{name}Config", arguments)
    for _ in range(2):  # layers of a first try must not pass for a whole trace in the second
        with pytest.raises(ModelError, match=f"^{sentence}.*; docs/how_to/own_model.md lists the families that are verified$"):
            extract_windows(loaded, (tuple(token_ids()),), layers=[0], out=tmp_path / "trace")
        assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("family", ["deepseek_v2", "llama4", "gemma4"])
def test_methods_serve_some_families_that_a_trace_cannot_hold(family: str):
    (name, arguments, *config), _ = REFUSED[family]
    model = random_model(f"{name}ForCausalLM", config[0] if config else f"{name}Config", arguments).model
    model.set_attn_implementation("eager")
    eager = logits(model)
    with attach(model, "dense"):
        assert torch.equal(logits(model), eager)
    with attach(model, "topk"), torch.inference_mode():
        assert window_loss(model, token_ids())(token_ids(), 8) > 0


def test_a_model_that_changes_its_masks_itself_is_refused_in_a_sentence():
    loaded = random_model("DogeForCausalLM", "DogeConfig", GROUPED)
    with pytest.raises(ModelError, match=r"^this model changes its attention mask by a function of its own"), attach(loaded, "dense"):
        logits(loaded.model)


@pytest.mark.parametrize("label", ["phimoe", "llama4, within a chunk"])
def test_a_router_of_experts_is_no_linear_layer(models: dict[str, LoadedModel], label: str):
    family = FAMILIES[label]
    model = random_model(f"{family.name}ForCausalLM", family.config or f"{family.name}Config", family.arguments).model
    before = logits(model)
    assert not any("router" in name for name in linear_layers(model))
    torch.testing.assert_close(logits(sparsify(model, format="packed")), before, rtol=0, atol=1e-4 * float(before.abs().max()))


def test_the_weights_in_experts_are_told_apart(models: dict[str, LoadedModel]):
    model = models["mixtral"].model
    stacked = sum(block.mlp.experts.gate_up_proj.numel() + block.mlp.experts.down_proj.numel() for block in model.model.layers)
    assert share_of_experts(model) == pytest.approx(stacked / sum(weight.numel() for weight in model.parameters()))
    assert share_of_experts(models["olmo2"].model) == 0
