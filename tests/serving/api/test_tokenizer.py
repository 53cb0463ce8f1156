"""The tokenizer of models/tiny, which puts a begin token before a text."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from moe_serving.api.tokenizer import ModelTokenizer

TINY = Path(__file__).parents[3] / "models/tiny"

BEGIN = 1


@pytest.fixture(scope="module")
def tokenizer() -> ModelTokenizer:
    return ModelTokenizer.load(str(TINY))


def test_a_begin_token_that_the_client_brings_is_not_doubled(tokenizer) -> None:
    plain = tokenizer.encode("<|user|>\nabc")
    assert plain[0] == BEGIN
    assert tokenizer.encode("<|begin|><|user|>\nabc") == plain
    assert tokenizer.encode("<|begin|><|user|>\nabc", special=False) == plain
    assert tokenizer.encode("<|user|>\nabc", special=False) == plain[1:]
    assert tokenizer.encode("<|begin|><|begin|>x")[:3].count(BEGIN) == 2


PIECES = ["a", " fox", "<|end|>", "<|user|>", "<|", "end|>", "\n", "é", "\U000f0000", "\U000f0001", "<|begin|>"]
MESSAGES = st.lists(
    st.builds(
        dict,
        role=st.sampled_from(["system", "user", "assistant"]),
        content=st.lists(st.sampled_from(PIECES), max_size=8).map("".join),
    ),
    min_size=1,
    max_size=4,
)


@pytest.fixture(scope="module")
def theirs() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(TINY)


@settings(deadline=None)
@given(MESSAGES)
def test_a_chat_has_the_tokens_that_transformers_gives_it(tokenizer, theirs, messages) -> None:
    wanted = theirs.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False, sanitize_control_tokens=True
    )
    chat = tokenizer.render_chat(messages)
    assert tokenizer.encode_rendered(chat) == wanted
    assert tokenizer.least_tokens(chat) <= len(wanted)
    assert tokenizer.encode("<|end|>", special=False) == [2], "and a text's special tokens stay what they are"
