from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from xmsim.configs.errors import ConfigError, XmsimError
from xmsim.reference.attention import sparse_attention, xm_keep
from xmsim.workloads.attachment.attach import attach, detach
from xmsim.workloads.attachment.mask import build_mask
from xmsim.workloads.extraction.capture import capture
from xmsim.workloads.extraction.captured import CapturedLayer
from xmsim.workloads.methods.library import Method, load_method
from xmsim.workloads.models.loading import LoadedModel, ModelError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"intermediate_size": 48, "max_position_embeddings": 64}
GROUPED = SIZES | {"num_key_value_heads": 2}
SMALL = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "bos_token_id": 1, "eos_token_id": None}
TOKENS = 24


@dataclass(frozen=True)
class Family:
    """A small model of a family, and the module that reads what its first attention layer puts out."""

    model: str  # class in transformers
    config: str
    arguments: dict[str, Any]
    reader: str


FAMILIES = {
    "llama": Family("LlamaForCausalLM", "LlamaConfig", GROUPED, "model.layers.0.self_attn.o_proj"),
    "mistral": Family("MistralForCausalLM", "MistralConfig", GROUPED | {"sliding_window": 8}, "model.layers.0.self_attn.o_proj"),
    "qwen2": Family("Qwen2ForCausalLM", "Qwen2Config", GROUPED, "model.layers.0.self_attn.o_proj"),
    "opt": Family(
        "OPTForCausalLM", "OPTConfig", SIZES | {"ffn_dim": 48, "word_embed_proj_dim": 32}, "model.decoder.layers.0.self_attn.out_proj"
    ),
    "gpt2": Family("GPT2LMHeadModel", "GPT2Config", SMALL, "transformer.h.0.attn.c_proj"),
    "gpt_neox": Family("GPTNeoXForCausalLM", "GPTNeoXConfig", SIZES, "gpt_neox.layers.0.attention.dense"),
    "bloom": Family(
        "BloomForCausalLM",
        "BloomConfig",
        {"vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 4},
        "transformer.h.0.self_attention.dense",
    ),
    "bert": Family("BertModel", "BertConfig", SIZES, "encoder.layer.0.attention.output.dense"),
}
CAUSAL = [name for name in FAMILIES if name != "bert"]
PADDING = {  # tokens cut off a batch of two windows: (left, right) of the second
    "no padding": (0, 0),
    "right padding": (0, 7),
    "left padding": (7, 0),
}
XM = load_method("xm", block=8, kept_high=3, kept_low=1)


def random_model(model: str, config: str, arguments: dict[str, Any]) -> Any:
    """A model of random weights, large enough that its attention is far from uniform."""
    torch.manual_seed(1)
    network = getattr(transformers, model)(getattr(transformers, config)(**arguments))
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if weight.ndim == 2 and "emb" not in name:
                weight.normal_(std=0.3)
    return network.eval()


def family_model(name: str) -> Any:
    family = FAMILIES[name]
    return random_model(family.model, family.config, family.arguments)


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {name: family_model(name) for name in FAMILIES}


@pytest.fixture(params=FAMILIES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(models: dict[str, Any], name: str) -> Any:
    return models[name]


@pytest.fixture
def llama(models: dict[str, Any]) -> Any:
    return models["llama"]


@pytest.fixture(params=PADDING)
def inputs(request: pytest.FixtureRequest) -> dict[str, Any]:
    return padded_inputs(*PADDING[request.param])


def padded_inputs(left: int = 0, right: int = 0) -> dict[str, Any]:
    valid = torch.ones(2, TOKENS, dtype=torch.long)
    valid[1, :left] = 0
    valid[1, TOKENS - right :] = 0
    return {"input_ids": token_ids()} if valid.all() else {"input_ids": token_ids(), "attention_mask": valid}


def token_ids(windows: int = 2, tokens: int = TOKENS) -> Any:
    return torch.from_numpy(np.random.default_rng(7).integers(2, 64, (windows, tokens)))


def valid_tokens(inputs: dict[str, Any]) -> Any:
    return inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])).bool()


def run(model: Any, inputs: dict[str, Any], **keywords: Any) -> Any:
    """Logits, or the last hidden states of an encoder."""
    with torch.inference_mode():
        output = model(**inputs, **keywords)
    return output.logits if hasattr(output, "logits") else output.last_hidden_state


def use_eager(model: Any) -> None:
    if model.config.model_type != "bloom":  # which has no other
        model.set_attn_implementation("eager")


def test_a_dense_method_gives_the_eager_logits(model: Any, inputs: dict[str, Any]):
    use_eager(model)
    eager, valid = run(model, inputs), valid_tokens(inputs)
    with attach(model, "dense") as attached:
        dense = run(model, inputs)
    if valid.all():
        assert torch.equal(dense, eager)
    torch.testing.assert_close(dense[valid], eager[valid], rtol=0, atol=2e-5)
    assert attached.densities().density == attached.densities().kv_density == 1


def test_a_dense_method_gives_the_eager_logits_in_half_precision_too(name: str):
    model, inputs = family_model(name).to(torch.bfloat16), {"input_ids": token_ids()}
    use_eager(model)
    eager = run(model, inputs)
    with attach(model, "dense"):
        assert torch.equal(run(model, inputs), eager)


@pytest.mark.parametrize("name", ["llama", "bloom"])
def test_the_dropout_of_the_model_is_kept_in_training(name: str):
    family = FAMILIES[name]
    model = random_model(family.model, family.config, family.arguments | {"attention_dropout": 0.5})
    with attach(model, XM):
        without = run(model, {"input_ids": token_ids()})
        model.train()
        assert not torch.equal(run(model, {"input_ids": token_ids()}), without)


def first_layer(model: Any, tokens: Any) -> CapturedLayer:
    """What the first attention layer works on, one window without padding."""
    layers: list[CapturedLayer] = []
    loaded = LoadedModel(model, None, "model", model.config.model_type)
    with torch.inference_mode(), capture(loaded, [tokens.shape[1]], layers.append):
        model(tokens)
    return layers[0]


def judged(captured: CapturedLayer, keep: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The layer's output by the reference, [queries, heads × head_dim], and its mask."""
    q, k, v = (tensor[0].numpy() for tensor in (captured.q, captured.k, captured.v))
    heads, tokens = q.shape[:2]
    bias = np.zeros((heads, 1, tokens), np.float32)
    if captured.bias.slopes is not None:
        bias = np.float32(captured.bias.slopes)[:, None, None] * np.arange(tokens, dtype=np.float32)
    bias = np.where(captured.bias.allowed(tokens), bias, np.float32(-np.inf))
    scores = q @ k.repeat(heads // len(k), axis=0).swapaxes(1, 2) * np.float32(captured.scale) + bias
    mask = keep(scores)
    output = sparse_attention(q, k, v, mask, scale=captured.scale, bias=bias)
    return output.swapaxes(0, 1).reshape(tokens, -1), mask


def test_a_layer_puts_out_what_the_reference_computes(model: Any, name: str, inputs: dict[str, Any]):
    outputs: list[Any] = []
    reader = model.get_submodule(FAMILIES[name].reader)
    hook = reader.register_forward_pre_hook(lambda module, arguments: outputs.append(arguments[0]))
    positions = {} if name in ("bloom", "opt") else {"position_ids": (valid_tokens(inputs).cumsum(1) - 1).clamp(min=0)}
    try:
        with attach(model, XM) as attached:
            run(model, inputs, **positions)
    finally:
        hook.remove()
    kept = 0
    for window, valid in enumerate(valid_tokens(inputs)):
        captured = first_layer(model, inputs["input_ids"][window : window + 1, valid])  # a window alone, without its padding
        expected, mask = judged(captured, lambda scores: xm_keep(scores, **XM.config.arguments))  # type: ignore[attr-defined]
        np.testing.assert_allclose(outputs[0].reshape(2, TOKENS, -1)[window, valid].numpy(), expected, rtol=0, atol=1e-5)
        assert not outputs[0].reshape(2, TOKENS, -1)[window, ~valid].any()
        kept += int(mask.sum())
    assert attached.layers[0].kept == kept < attached.layers[0].allowed


def state(model: Any) -> list[Any]:
    """Everything about a model that attaching might leave behind."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_backward_hooks")
    modules = [
        (name, type(module), sorted(vars(module)), [len(getattr(module, hook)) for hook in hooks]) for name, module in model.named_modules()
    ]
    return [modules, dict(vars(model.config)), {key: value.clone() for key, value in model.state_dict().items()}]


def test_detaching_restores_the_model_exactly(model: Any):
    inputs = {"input_ids": token_ids()}
    before, logits = state(model), run(model, inputs)
    attached = attach(model, XM)
    assert not torch.equal(run(model, inputs), logits)
    detach(attached)
    after = state(model)
    assert after[:2] == before[:2]
    assert all(torch.equal(after[2][key], value) for key, value in before[2].items())
    assert torch.equal(run(model, inputs), logits)
    detach(attached)  # nothing happens
    assert torch.equal(run(model, inputs), logits)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_the_attention_implementation_is_afterwards_the_one_before(llama: Any, implementation: str):
    llama.set_attn_implementation(implementation)
    with attach(llama, "dense"):
        assert llama.config._attn_implementation not in ("eager", "sdpa")
    assert llama.config._attn_implementation == implementation


def test_an_error_in_the_context_detaches(model: Any):
    inputs = {"input_ids": token_ids()}
    logits = run(model, inputs)
    with pytest.raises(KeyboardInterrupt), attach(model, XM):
        raise KeyboardInterrupt
    assert torch.equal(run(model, inputs), logits)


def test_a_forward_that_someone_else_set_is_put_back(models: dict[str, Any]):
    model = models["bloom"]
    attention = model.transformer.h[0].self_attention
    own = attention.forward
    attention.forward = own
    with attach(model, XM):
        assert attention.forward is not own
    assert vars(attention)["forward"] is own
    del attention.forward


def test_a_method_stays_attached_when_nobody_keeps_the_handle(llama: Any):
    inputs = {"input_ids": token_ids()}
    attached = attach(llama, XM)
    pruned = run(llama, inputs)
    undo = attached._undo
    del attached
    gc.collect()
    assert torch.equal(run(llama, inputs), pruned)
    undo.close()


def test_two_models_have_their_own_methods(models: dict[str, Any]):
    inputs = {"input_ids": token_ids()}
    alone = {}
    for name, method in (("llama", XM), ("qwen2", "dense"), ("bloom", XM)):
        with attach(models[name], method):
            alone[name] = run(models[name], inputs)
    with attach(models["llama"], XM), attach(models["qwen2"], "dense"), attach(models["bloom"], XM):
        assert all(torch.equal(run(models[name], inputs), logits) for name, logits in alone.items())


def test_attaching_twice_is_refused(model: Any, name: str):
    with attach(model, XM):
        for again in (model, model.base_model, LoadedModel(model, None, "model", name)):
            with pytest.raises(ModelError, match=f"^{name}: a method is attached to this model already; detach it first$"):
                attach(again, "dense")
    with attach(model, "dense"):
        pass


UNSUPPORTED = {
    "falcon": (
        ("FalconForCausalLM", "FalconConfig", {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}),
        "it does not use transformers' attention interface",
    ),
    "mpt": (
        ("MptForCausalLM", "MptConfig", {"vocab_size": 64, "d_model": 32, "n_layers": 2, "n_heads": 4}),
        "it does not use transformers' attention interface",
    ),
    "t5": (
        (
            "T5ForConditionalGeneration",
            "T5Config",
            {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4},
        ),
        "it is an encoder and a decoder in one",
    ),
    "gemma2": (("Gemma2ForCausalLM", "Gemma2Config", GROUPED | {"head_dim": 8}), "it changes its scores through a softcap"),
    "mamba": (
        ("MambaForCausalLM", "MambaConfig", {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2}),
        "attention was seen in 0 of 2 layers",
    ),
    "albert": (  # one attention module runs twice
        ("AlbertModel", "AlbertConfig", SIZES | {"embedding_size": 16}),
        "attention was seen in 1 of 2 layers",
    ),
}


@pytest.mark.parametrize("family", UNSUPPORTED)
def test_an_unsupported_family_is_named_with_the_reason_and_stays_as_it_was(family: str):
    built, reason = UNSUPPORTED[family]
    model = random_model(*built)
    before = state(model)
    with pytest.raises(ModelError, match=f"^{family}: no method can be attached to this model family, .*{reason}.*verified$"):  # noqa: SIM117
        with attach(model, "dense"):
            run(model, {"input_ids": token_ids()})
    assert state(model)[:2] == before[:2]


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_a_cache_of_fixed_length_is_refused(models: dict[str, Any], name: str):
    model = models[name]
    with attach(model, XM):
        with pytest.raises(ModelError, match="needs a cache that grows with the text"):
            model.generate(token_ids(1), max_new_tokens=3, cache_implementation="static")
        with pytest.raises(ModelError, match="needs a cache that grows with the text"):
            cache = transformers.StaticCache(config=model.config, max_cache_len=64)
            run(model, {"input_ids": token_ids(1, tokens=6)}, past_key_values=cache)


def test_a_copy_of_an_attached_model_says_why_it_does_not_run(llama: Any):
    with attach(llama, XM):
        twin = copy.deepcopy(llama)
    with pytest.raises(ModelError, match="copied while a method was attached"):
        run(twin, {"input_ids": token_ids(1)})


def test_a_causal_layer_that_is_given_no_mask_is_refused(llama: Any):
    states = torch.zeros(1, TOKENS, 32)
    angles = llama.model.rotary_emb(states, torch.arange(TOKENS)[None])
    with pytest.raises(ModelError, match="an attention layer is causal and was given no mask"), attach(llama, XM):
        llama.model.layers[0].self_attn(states, angles, attention_mask=None)


def test_a_mask_that_a_model_makes_by_a_function_of_its_own_is_refused():
    arguments: dict[str, Any] = {"q_length": 4, "kv_length": 4, "q_offset": 0, "kv_offset": 0, "attention_mask": None, "device": "cpu"}
    with pytest.raises(ModelError, match="changes its attention mask by a function of its own"):
        build_mask(batch_size=1, mask_function=lambda window, head, query, key: key <= query, use_vmap=True, **arguments)


def test_an_unknown_method_is_one_sentence_and_nothing_is_attached(llama: Any):
    with pytest.raises(ConfigError, match="no method xmm; did you mean xm"):
        attach(llama, "xmm")
    assert llama.config._attn_implementation in ("eager", "sdpa")


def test_what_is_no_transformers_model_is_refused():
    with pytest.raises(ModelError, match="attached to a transformers model, got Linear; load one with load_model"):
        attach(torch.nn.Linear(2, 2), "xm")


def test_scores_that_are_not_finite_name_the_method_and_the_layer():
    model = family_model("llama")
    with torch.no_grad():
        model.model.layers[1].self_attn.q_proj.weight[0, 0] = float("nan")
    with pytest.raises(XmsimError, match=r"^method xm on layer 1: scores: NaN or \+inf"), attach(model, XM):
        run(model, {"input_ids": token_ids()})


def four_dimensional(dtype: Any) -> Any:
    """Every query sees the keys up to the next one: no mask that a model makes."""
    allowed = torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril(1)[None, None]
    return allowed if dtype == torch.bool else torch.where(allowed, 0.0, torch.finfo(dtype).min).to(dtype)


def test_a_mask_of_the_users_own_is_followed(llama: Any):
    use_eager(llama)
    eager = run(llama, {"input_ids": token_ids(), "attention_mask": four_dimensional(torch.float32)})
    with attach(llama, "dense") as attached:
        for dtype in (torch.bool, torch.float32):
            logits = run(llama, {"input_ids": token_ids(), "attention_mask": four_dimensional(dtype)})
            assert torch.equal(logits, eager)
    assert attached.densities().density == 1


def test_a_mask_of_the_wrong_size_is_refused(llama: Any):
    mask = four_dimensional(torch.bool)
    for wrong, sentence in (
        (mask[..., 1:], "a mask of 24 × 23 pairs was given to 24 queries and 24 keys"),
        (mask.expand(1, 4, -1, -1), "got shape"),
    ):
        with pytest.raises(ModelError, match=sentence), attach(llama, "dense"):
            run(llama, {"input_ids": token_ids(), "attention_mask": wrong})


def test_a_mask_that_adds_a_bias_is_refused(llama: Any):
    mask = four_dimensional(torch.float32)
    mask[..., 0] = -0.5
    with pytest.raises(ModelError, match="attention mask: it adds a bias of its own to the scores"), attach(llama, "dense"):
        run(llama, {"input_ids": token_ids(), "attention_mask": mask})


ROW_WISE = {  # methods that decide each row by itself, from the keys that it may see
    "nm": load_method("nm", block=8, kept=2),
    "topk": load_method("topk", kept=3),
    "sanger": load_method("sanger", threshold=0.05),
    "xm_causal": load_method("xm_causal", block=8, kept_high=3, kept_low=1),
    "window": load_method("window", window=5, global_tokens=1),
}
STEPS = ([1] * TOKENS, [9, 6, 1, 8])


def in_steps(model: Any, inputs: dict[str, Any], steps: list[int]) -> Any:
    """The logits of a text that is read piece by piece, with a cache."""
    logits, cache, at = [], None, 0
    for tokens in steps:
        keywords: dict[str, Any] = {name: tensor[:, at : at + tokens] for name, tensor in inputs.items() if name != "attention_mask"}
        if "attention_mask" in inputs:
            keywords["attention_mask"] = inputs["attention_mask"][:, : at + tokens]
        with torch.inference_mode():
            output = model(**keywords, past_key_values=cache, use_cache=True)
        logits.append(output.logits)
        cache, at = output.past_key_values, at + tokens
    return torch.cat(logits, dim=1)


@pytest.mark.parametrize("method", ROW_WISE)
@pytest.mark.parametrize("name", ["llama", "mistral", "bloom"])  # mistral's cache drops keys, bloom adds to the scores
@pytest.mark.parametrize("padding", [0, 7])
def test_reading_with_a_cache_keeps_the_pairs_of_one_forward_pass(models: dict[str, Any], name: str, method: str, padding: int):
    inputs = padded_inputs(left=padding)
    model, valid = models[name], valid_tokens(inputs)
    if name != "bloom":
        inputs |= {"position_ids": (valid.cumsum(1) - 1).clamp(min=0)}
    with attach(model, ROW_WISE[method]) as attached:
        whole = run(model, inputs, use_cache=False)
        counts = attached.layers
        for steps in STEPS:
            attached.reset_counts()
            logits = in_steps(model, inputs, steps)
            torch.testing.assert_close(logits[valid], whole[valid], rtol=0, atol=1e-4)
            read = [(at - tokens, at) for tokens, at in zip(steps, np.cumsum(steps), strict=True)]
            pairs = sum(4 * int(window[first:last].sum() * window[:last].sum()) for window in valid for first, last in read)
            for layer, before in zip(attached.layers, counts, strict=True):
                assert (layer.kept, layer.allowed, layer.kv_kept) == (before.kept, before.allowed, before.kv_kept)
                assert layer.pairs == pairs  # keys that a cache has dropped are keys too
    assert counts[0].kept < counts[0].allowed


@pytest.mark.parametrize("name", ["llama", "mistral", "gpt2", "bloom"])
def test_generation_with_a_dense_method_gives_the_eager_tokens(models: dict[str, Any], name: str):
    model = models[name]
    use_eager(model)
    valid = torch.ones(2, TOKENS, dtype=torch.long)
    valid[0, :5] = 0
    options = {"attention_mask": valid, "max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    eager = model.generate(token_ids(), **options)
    with attach(model, "dense"):
        assert torch.equal(model.generate(token_ids(), **options), eager)
    with attach(model, load_method("xm", block=8, kept_high=3, kept_low=1, prediction={"group": 2, "bits": 4})) as attached:
        assert model.generate(token_ids(), **options).shape == eager.shape
    assert 0 < attached.densities().density < 1


def trace_densities(model: Any, ids: Any, method: Method) -> Any:
    """Densities of the first layer by the method itself, on exact scores."""
    captured = first_layer(model, ids)
    _, keep = judged(captured, lambda scores: method.config.keep(scores, kv_heads=captured.k.shape[1]))
    allowed = captured.bias.allowed(ids.shape[1])
    any_head = keep.reshape(captured.k.shape[1], -1, *allowed.shape).any(axis=1)
    return keep.sum() / (len(keep) * allowed.sum()), keep.mean(), any_head.sum() / (len(any_head) * allowed.sum())


@pytest.mark.parametrize("method", ["xm", "xm_shared_max", "window"])
def test_the_densities_are_those_of_the_masks(models: dict[str, Any], method: str):
    overrides = {} if method == "window" else {"block": 8, "kept_high": 3, "kept_low": 1}
    chosen = load_method(method, **overrides | ({"window": 6} if method == "window" else {}))
    for name in ("llama", "mistral", "bert"):
        with attach(models[name], chosen) as attached:
            run(models[name], {"input_ids": token_ids(1)})
            run(models[name], {"input_ids": token_ids(1)})
        found = attached.layers[0].densities()
        expected = trace_densities(models[name], token_ids(1), chosen)
        assert (found.density, found.full_density, found.kv_density) == pytest.approx(expected, rel=1e-12)
        if method == "xm_shared_max":
            assert found.kv_density == pytest.approx(found.density)
    kept, allowed = (sum(getattr(layer, name) for layer in attached.layers) for name in ("kept", "allowed"))
    assert attached.densities().density == kept / allowed


def test_counts_begin_again_at_zero(llama: Any):
    with attach(llama, XM) as attached:
        with pytest.raises(XmsimError, match="no pairs were counted: run the model while the method is attached"):
            attached.densities()
        run(llama, {"input_ids": token_ids(1)})
        once = attached.layers
        run(llama, {"input_ids": token_ids(1)})
        assert attached.layers == tuple(layer + layer for layer in once)
        attached.reset_counts()
        run(llama, {"input_ids": token_ids(1)})
    assert attached.layers == once  # they can be read after detaching


def test_counts_outlive_the_model_and_nothing_keeps_the_model_alive():
    model = family_model("llama")
    watched = weakref.ref(model.model.layers[0].self_attn)
    with attach(model, XM) as attached:
        run(model, {"input_ids": token_ids(1)})
    counts = attached.layers
    del model
    gc.collect()
    assert watched() is None
    assert attached.layers == counts


def test_masks_are_decided_in_float32_whatever_the_model_computes_in():
    model = family_model("llama").to(torch.bfloat16)
    ids = token_ids(1)
    captured = first_layer(model, ids)
    exact = CapturedLayer(0, captured.q.float(), captured.k.float(), captured.v.float(), captured.scale, captured.bias, None)
    _, keep = judged(exact, lambda scores: xm_keep(scores, **XM.config.arguments))  # type: ignore[attr-defined]
    rounded = torch.matmul(captured.q, captured.k.repeat_interleave(2, 1).transpose(2, 3)) * captured.scale
    rounded = torch.where(torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril(), rounded, -torch.inf).float()
    assert not np.array_equal(xm_keep(rounded[0].numpy(), **XM.config.arguments), keep)  # type: ignore[attr-defined]
    with attach(model, XM) as attached:
        run(model, {"input_ids": ids})
    assert attached.layers[0].kept == keep.sum()


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("recompute", [False, True])
def test_a_model_trains_under_a_method(name: str, recompute: bool):
    model = family_model(name).train()
    if recompute:
        model.activation_checkpointing_enable()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    with attach(model, XM):
        for _ in range(4):
            optimizer.zero_grad()
            loss = model(token_ids(), labels=token_ids(), use_cache=False).loss
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < losses[0]
