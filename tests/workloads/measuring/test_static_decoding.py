"""Decoding on a cache of fixed room: the tokens of the growing cache, also after a rewind."""

import pytest

torch = pytest.importorskip("torch")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from xmsim.configs.errors import XmsimError  # noqa: E402
from xmsim.workloads.measuring.linear_variants import LinearVariants  # noqa: E402
from xmsim.workloads.measuring.static_decoding import GRAPH, StaticDecoding, time_graphs  # noqa: E402
from xmsim.workloads.models.shape import ModelShape, random_model  # noqa: E402

SHAPE = ModelShape(
    hidden_size=64,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=16,
    intermediate_size=128,
    vocabulary=97,
    tied_embeddings=False,
    rope_theta=1e4,
    sources={},
)
NEW = 6


@pytest.fixture(scope="module")
def model():
    return random_model(SHAPE, dtype="float32")


@pytest.fixture(scope="module")
def prompt():
    return torch.randint(97, (2, 11), generator=torch.Generator().manual_seed(0))


def greedy(model, prompt):
    """Tokens by whole prefixes, without any cache."""
    tokens = prompt
    with torch.inference_mode():
        for _ in range(NEW + 1):
            tokens = torch.cat([tokens, model(tokens, use_cache=False).logits[:, -1:].argmax(dim=-1)], dim=1)
    return tokens[:, prompt.shape[1] :]


def test_steps_on_a_static_cache_give_the_greedy_tokens_again_and_again(model, prompt):
    wanted = greedy(model, prompt)
    with torch.inference_mode():
        decoding = StaticDecoding(model, prompt, NEW)
        address = decoding.token.data_ptr()
        for _ in range(2):
            decoding.prefill()
            found = [decoding.token.clone()]
            for _ in range(NEW):
                decoding.step()
                found.append(decoding.token.clone())
            assert torch.equal(torch.cat(found, dim=1), wanted)
        assert decoding.token.data_ptr() == address


def test_a_rewind_forgets_what_came_after_the_prompt(model, prompt):
    wanted = greedy(model, prompt)
    with torch.inference_mode():
        decoding = StaticDecoding(model, prompt, NEW)
        decoding.prefill()
        first = decoding.token.clone()
        for _ in range(3):
            decoding.step()
        decoding.rewind()
        decoding.token.copy_(first)
        decoding.step()
        assert torch.equal(decoding.token, wanted[:, 1:2])


def test_a_step_reads_nothing_back_and_so_can_be_captured(model, prompt):
    class Refusing(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.name() in ("aten::_local_scalar_dense", "aten::lift_fresh", "aten::nonzero"):
                raise AssertionError(f"{func.name()} cannot be captured")
            return func(*args, **(kwargs or {}))

    with torch.inference_mode():
        decoding = StaticDecoding(model, prompt, NEW)
        decoding.prefill()
        decoding.step()
        with Refusing():
            decoding.step()


def test_a_model_that_keeps_a_window_only_is_refused(prompt):
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=97,
        sliding_window=4,
    )
    with pytest.raises(XmsimError, match=r"keeps less than all its tokens .*; measure it with --eager"):
        StaticDecoding(MistralForCausalLM(config), prompt, NEW)


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", ["torch", "tcabme", "spdp", "teal"])
def test_a_replayed_graph_is_timed_on_a_gpu(prompt, kernel):
    if not torch.cuda.is_available():
        pytest.skip("no GPU that torch can use")
    network = random_model(SHAPE, dtype="bfloat16").to("cuda")
    variants = LinearVariants(network, (kernel,), sparsity=0.5)
    (run,) = time_graphs(network, variants, prompt.cuda(), new_tokens=NEW, warmup=1, repeat=2, attention="sdpa")
    assert run.attention == f"sdpa, {GRAPH}" and run.p50_ms > 0
