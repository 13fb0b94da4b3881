"""Which bytes of a text its tokens spell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from xmsim.workloads.models.loading import load_model
from xmsim.workloads.texts.encoded import EncodedText, encode_text
from xmsim.workloads.texts.windows import SHIPPED_TEXT

tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def bytes_tokenizer(small_llama: Path) -> Any:
    """One token a byte behind a first token <s>."""
    return load_model(str(small_llama)).tokenizer


@pytest.fixture(scope="module")
def pieces_tokenizer() -> Any:
    """Llama 2's kind: a space before the first word, pieces with ▁, bytes for what is in no piece."""
    pieces = [("<unk>", 0.0), ("<s>", 0.0)] + [(f"<0x{byte:02X}>", -9.0) for byte in range(256)]
    pieces += [("▁the", -1.0), ("▁cat", -1.0), ("▁", -2.0), ("s", -2.0), ("a", -2.0), ("t", -2.0)]
    model = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=0, byte_fallback=True))
    model.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    model.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=model, bos_token="<s>")


def test_a_token_around_the_text_spells_nothing_and_letters_spell_their_bytes(bytes_tokenizer: Any):
    encoded = encode_text(bytes_tokenizer, "aé€")
    assert encoded.ids[0] == 0 and len(encoded.ids) == 1 + 1 + 2 + 3
    assert encoded.byte_counts == (0, 1, 1, 1, 1, 1, 1)


def test_a_special_token_that_stands_in_the_text_spells_itself(bytes_tokenizer: Any):
    encoded = encode_text(bytes_tokenizer, "a<s>b")
    assert encoded.ids[:3] == (0, encoded.ids[1], 0)
    assert encoded.byte_counts == (0, 1, 3, 1)


def test_tokens_of_a_real_vocabulary_spell_the_whole_shipped_text():
    text = SHIPPED_TEXT.read_text(encoding="utf-8")
    encoded = encode_text(load_model("xm-tiny").tokenizer, text)
    assert encoded.byte_counts is not None and sum(encoded.byte_counts) == len(text.encode())
    assert len(encoded.byte_counts) == len(encoded.ids) and max(encoded.byte_counts) > 5


def test_pieces_spell_their_letters_and_the_space_that_was_put_before_the_first_counts_for_nothing(pieces_tokenizer: Any):
    encoded = encode_text(pieces_tokenizer, "the cats é")
    words = pieces_tokenizer.convert_ids_to_tokens(list(encoded.ids))
    assert words == ["<s>", "▁the", "▁cat", "s", "▁", "<0xC3>", "<0xA9>"]
    assert encoded.byte_counts == (0, 3, 4, 1, 1, 1, 1)


def test_where_tokens_change_the_text_its_bytes_are_not_guessed(small_llama: Path):
    tokenizer = load_model(str(small_llama)).tokenizer
    tokenizer.backend_tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    assert encode_text(tokenizer, "abc").byte_counts == (0, 1, 1, 1)
    assert encode_text(tokenizer, "aBc").byte_counts is None


def test_a_part_has_its_own_tokens_and_bytes():
    assert EncodedText((5, 6, 7), (1, 2, 3)).part(1, 3) == EncodedText((6, 7), (2, 3))
    assert EncodedText((5, 6, 7), None).part(0, 1) == EncodedText((5,), None)


def test_an_empty_text_has_only_the_tokens_around_it(bytes_tokenizer: Any):
    assert encode_text(bytes_tokenizer, "") == EncodedText((0,), (0,))
