"""Models of a shape with random weights."""

import pytest

from xmsim.configs.errors import ConfigError
from xmsim.workloads.models.loading import ModelError
from xmsim.workloads.models.shape import ModelShape, load_shape, random_model, shipped_shapes

SMALL = ModelShape(
    hidden_size=32,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=8,
    intermediate_size=48,
    vocabulary=100,
    tied_embeddings=True,
    rope_theta=1e4,
    sources={},
)


def test_shipped_shapes_have_the_parameters_of_the_models_they_are_named_after():
    assert shipped_shapes() == ("llama-3-8b", "llama-3.2-1b")
    counts = {}
    for name in shipped_shapes():
        s = load_shape(name)
        attention = s.hidden_size * s.head_dim * 2 * (s.heads + s.kv_heads)
        norms = 2 * s.hidden_size
        layer = attention + 3 * s.hidden_size * s.intermediate_size + norms
        embeddings = s.vocabulary * s.hidden_size * (1 if s.tied_embeddings else 2)
        counts[name] = s.layers * layer + embeddings + s.hidden_size
    assert counts == {"llama-3.2-1b": 1_235_814_400, "llama-3-8b": 8_030_261_248}  # as their model cards count


def test_a_random_model_runs_and_is_the_same_for_the_same_seed():
    import torch

    first, second = random_model(SMALL, dtype="float32", seed=3), random_model(SMALL, dtype="float32", seed=3)
    tokens = torch.arange(6)[None]
    with torch.inference_mode():
        logits = first(tokens).logits
        assert logits.shape == (1, 6, 100) and torch.isfinite(logits).all()
        assert torch.equal(logits, second(tokens).logits)
    assert first.lm_head.weight is first.model.embed_tokens.weight
    assert not any(p.is_meta for p in first.parameters()) and not any(b.is_meta for b in first.buffers())
    assert 0.015 < first.model.layers[1].mlp.up_proj.weight.std() < 0.025


def test_an_unknown_shape_or_dtype_is_answered_with_what_there_is():
    with pytest.raises(ConfigError, match=r"no model shape llama-3\.2-2b; did you mean llama-3\.2-1b\?"):
        load_shape("llama-3.2-2b")
    with pytest.raises(ModelError, match="float32 or bfloat16"):
        random_model(SMALL, dtype="int4")
