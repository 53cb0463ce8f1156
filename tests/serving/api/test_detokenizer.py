from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers

from moe_serving.api.detokenizer import Detokenizer
from moe_serving.api.tokenizer import ModelTokenizer

TEXTS = ["the quick fox", "naïve café — 日本語 🦊🦊", "tabs\tand\n\nlines", "é", "🏳️‍🌈 e\u0301", " leading space"]


def byte_fallback() -> Tokenizer:
    """As Llama's and Mixtral's: words begin with ▁, what is unknown is spelled in bytes."""
    words = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "t", "h", "e", "▁t", "▁th", "▁the", "he"]
    merges = [("▁", "t"), ("▁t", "h"), ("▁th", "e"), ("h", "e")]
    model = models.BPE({word: i for i, word in enumerate(words)}, merges, unk_token="<unk>", byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


FALLBACK = byte_fallback()


def fallback_decode(ids: Sequence[int]) -> str:
    return str(FALLBACK.decode(list(ids)))


def one_by_one(detokenizer: Detokenizer, ids: Sequence[int]) -> list[str]:
    return [*(detokenizer.push([token]) for token in ids), detokenizer.flush()]


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_of_a_byte_level_tokenizer_join_to_the_text(checkpoint: Path, text: str) -> None:
    tokenizer = ModelTokenizer.load(str(checkpoint))
    pieces = one_by_one(Detokenizer(tokenizer.decode, tokenizer.encode("prompt: ")), tokenizer.encode(text))
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_of_a_byte_fallback_tokenizer_join_to_the_text(text: str) -> None:
    prompt = FALLBACK.encode("the the").ids
    # The answer's first word begins with ▁: its space is text, since the answer goes on behind a prompt.
    pieces = one_by_one(Detokenizer(fallback_decode, prompt), FALLBACK.encode(text).ids)
    assert "".join(pieces) == f" {text}"
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_character_appears_when_its_last_byte_does() -> None:
    fox = [FALLBACK.token_to_id(f"<0x{byte:02X}>") for byte in "🦊".encode()]
    assert one_by_one(Detokenizer(fallback_decode, []), [*fox, *fox]) == ["", "", "", "🦊", "", "", "", "🦊", ""]


def test_bytes_that_never_become_a_character_are_told_at_the_end() -> None:
    half = [FALLBACK.token_to_id(f"<0x{byte:02X}>") for byte in "🦊".encode()[:2]]
    assert one_by_one(Detokenizer(fallback_decode, []), half) == ["", "", "\ufffd\ufffd"]


@given(text=st.text(max_size=40), cuts=st.lists(st.integers(0, 200), max_size=10))
def test_any_text_in_any_cut_is_told_whole(text: str, cuts: list[int]) -> None:
    ids = FALLBACK.encode(f"x{text}").ids
    detokenizer = Detokenizer(fallback_decode, FALLBACK.encode("the").ids)
    edges = [0, *sorted(min(cut, len(ids)) for cut in cuts), len(ids)]
    pieces = [detokenizer.push(ids[begin:end]) for begin, end in pairwise(edges)]
    # The tokenizer writes a space as ▁, so a ▁ in the text becomes one.
    assert "".join(pieces) + detokenizer.flush() == f" x{text}".replace("▁", " ")
