"""A small language model with its tokenizer, on disk; and one thread for models too small to gain from more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from xmsim.workloads.measuring.threads import thread_limit


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch and numba: on a busy host each of their thousand small parallel regions would wait for the slowest thread."""
    pytest.importorskip("torch")
    with thread_limit(1):
        yield


@pytest.fixture(scope="session")
def small_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Llama of random weights: 4 layers, 4 heads on 2 KV heads, head_dim 8, 64 positions; one token a byte, and a first token."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("small_llama") / "model"
    torch.manual_seed(3)
    config = transformers.LlamaConfig(
        vocab_size=257,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    vocabulary = {"<s>": 0} | {sign: at for at, sign in enumerate(sorted(byte_level.alphabet()), start=1)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = byte_level
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>").save_pretrained(folder)
    return folder


@pytest.fixture
def short_text(tmp_path: Path) -> Path:
    """A text of 200 bytes."""
    path = tmp_path / "text.txt"
    path.write_text("0123456789" * 20)
    return path
