"""The tokenizer of models/tiny, which puts a begin token before a text."""

from pathlib import Path

import pytest

from moe_serving.api.tokenizer import ModelTokenizer

BEGIN = 1


@pytest.fixture(scope="module")
def tokenizer() -> ModelTokenizer:
    return ModelTokenizer.load(str(Path(__file__).parents[3] / "models/tiny"))


def test_a_begin_token_that_the_client_brings_is_not_doubled(tokenizer) -> None:
    plain = tokenizer.encode("<|user|>\nabc")
    assert plain[0] == BEGIN
    assert tokenizer.encode("<|begin|><|user|>\nabc") == plain
    assert tokenizer.encode("<|begin|><|user|>\nabc", special=False) == plain
    assert tokenizer.encode("<|user|>\nabc", special=False) == plain[1:]
    assert tokenizer.encode("<|begin|><|begin|>x")[:3].count(BEGIN) == 2
