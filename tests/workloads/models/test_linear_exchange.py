"""Models whose linear layers run on our kernels."""

import pytest
import torch
from safetensors.torch import load_model, save_model
from transformers import GPT2Config, GPT2LMHeadModel

import xmsim.workloads
from xmsim.reference.kernels import DenseLinear, Int8SparseLinear, SparseLinear, SpdpLinear, TcaBmeLinear
from xmsim.reference.weights import magnitude_keep
from xmsim.workloads.models.linear_exchange import exchanged_layers, linear_layers, restore_layers, sparsify
from xmsim.workloads.models.loading import ModelError
from xmsim.workloads.models.shape import ModelShape, random_model

SHAPE = ModelShape(
    hidden_size=32,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=8,
    intermediate_size=48,
    vocabulary=64,
    tied_embeddings=True,
    rope_theta=1e4,
    sources={},
)
TOKENS = torch.arange(9)[None]


def llama(seed=0):
    """A small Llama, half of whose weights are zero."""
    model = random_model(SHAPE, dtype="float32", seed=seed)
    for layer in linear_layers(model).values():
        layer.weight.mul_(magnitude_keep(layer.weight, sparsity=0.5))
    return model


def logits(model):
    with torch.inference_mode():
        return model(TOKENS).logits


def test_it_is_a_public_name():
    assert xmsim.workloads.sparsify is sparsify


@pytest.mark.parametrize(
    ("format", "kind"), [("bitmap", SparseLinear), ("packed", DenseLinear), ("spdp", SpdpLinear), ("tcabme", TcaBmeLinear)]
)
def test_the_model_computes_what_it_computed(format, kind):
    model, plain = llama(), llama()
    assert sparsify(model, format=format) is model
    assert sum(isinstance(module, kind) for module in model.modules()) == 14
    torch.testing.assert_close(logits(model), logits(plain), rtol=1e-4, atol=1e-5)


def test_int8_weights_come_close_to_what_it_computed():
    model, plain = llama(), llama()
    sparsify(model, format="bitmap_int8")
    assert isinstance(model.model.layers[0].mlp.up_proj, Int8SparseLinear)
    difference = (logits(model) - logits(plain)).norm() / logits(plain).norm()
    assert 0 < difference < 0.05


def test_the_layer_of_the_logits_is_exchanged_only_if_it_is_named():
    assert "lm_head" not in linear_layers(llama())
    assert set(linear_layers(llama(), include="lm_head")) == {"lm_head"}
    model = sparsify(llama(), include=["lm_head", "*.down_proj"])
    assert isinstance(model.lm_head, SparseLinear) and isinstance(model.model.embed_tokens, torch.nn.Embedding)
    torch.testing.assert_close(logits(model), logits(llama()), rtol=1e-4, atol=1e-5)


def test_patterns_include_and_exclude_names():
    assert len(linear_layers(llama(), include="*.mlp.*")) == 6
    assert len(linear_layers(llama(), exclude=["*.mlp.*", "*.layers.0.*"])) == 4


def test_the_report_lists_what_was_exchanged_and_its_bytes():
    model = sparsify(llama(), include="*.q_proj")
    first, second = exchanged_layers(model)
    assert (first.name, first.in_features, first.out_features, first.format) == ("model.layers.0.self_attn.q_proj", 32, 32, "bitmap")
    assert second.density == pytest.approx(0.5, abs=0.01)
    assert first.dense_bytes == 32 * 32 * 4 and first.weight_bytes < first.dense_bytes


@pytest.mark.parametrize("format", ["bitmap", "packed", "spdp", "tcabme"])
def test_plain_layers_with_the_same_weights_come_back(format):
    model, plain = sparsify(llama(), format=format), llama()
    restore_layers(model)
    assert exchanged_layers(model) == () and len(linear_layers(model)) == 14
    assert torch.equal(logits(model), logits(plain))


def test_gpt2s_layers_which_hold_their_matrix_the_other_way_round_are_exchanged_too():
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=64, n_positions=32)).eval()
    before = logits(model)
    sparsify(model)
    assert {layer.name for layer in exchanged_layers(model)} == {
        f"transformer.h.0.{name}" for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    }
    torch.testing.assert_close(logits(model), before, rtol=1e-4, atol=1e-5)


def test_a_state_dict_survives_its_file_and_another_models_weights(tmp_path):
    model, other = sparsify(llama(seed=1)), sparsify(llama(seed=2))
    save_model(model, str(tmp_path / "model.safetensors"))
    assert not torch.equal(logits(model), logits(other))
    load_model(other, str(tmp_path / "model.safetensors"))
    assert torch.equal(logits(model), logits(other))


def test_generation_works_and_gives_the_same_words():
    def words(model):
        return model.generate(TOKENS, max_new_tokens=5, do_sample=False, pad_token_id=0)

    assert torch.equal(words(sparsify(llama())), words(llama()))


def test_any_module_is_served():
    module = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2, bias=False))
    x = torch.randn(4, 5)
    before = module(x)
    torch.testing.assert_close(sparsify(module)(x), before)


def test_a_layer_that_a_format_does_not_hold_is_named():
    with pytest.raises(ModelError, match=r"q_proj cannot be stored as 2:4: weights: row 0 has more than 2 non-zeros"):
        sparsify(random_model(SHAPE, dtype="float32"), format="2:4")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_become_16_bits_wide_if_that_is_asked_for(dtype):
    layer = torch.nn.Sequential(torch.nn.Linear(40, 20))
    x = torch.randn(3, 40).to(dtype)
    sparsify(layer, dtype=dtype)
    assert layer[0].values.dtype == dtype and layer(x).dtype == dtype


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"include": "*.qkv"}, r"pattern \*\.qkv: no linear layer of this model has such a name; they are model\.layers\.0\."),
        ({"exclude": "*"}, "no linear layer of the model is left to exchange"),
        ({"format": "marlin"}, "no format marlin; linear layers are stored as bitmap, bitmap_int8, packed, spdp, tcabme, 2:4"),
    ],
)
def test_what_cannot_be_exchanged_is_refused_before_the_model_changes(options, sentence):
    model = llama()
    before = {name: type(module) for name, module in model.named_modules()}
    with pytest.raises(ModelError, match=sentence):
        sparsify(model, **options)
    assert {name: type(module) for name, module in model.named_modules()} == before
