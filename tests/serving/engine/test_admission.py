"""What an engine refuses, and that the message names field, value and bound."""

import pytest

from moe_contract.applications import AttentionConfig
from moe_serving.engine.admission import check_request
from moe_serving.engine.errors import RequestRefusedError
from moe_serving.engine.request import GenerationRequest, Sampling

LIMITS = AttentionConfig(kv_cache_tokens=64)


def check(prompt=(1, 2), emitted=(), **sampling) -> None:
    request = GenerationRequest("a", tuple(prompt), Sampling(**{"max_tokens": 4, **sampling}), tuple(emitted))
    check_request(request, vocabulary=100, max_context=128, limits=LIMITS)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"prompt": ()}, "the prompt is empty"),
        ({"prompt": (1, 100)}, r"token id 100 is not in the vocabulary, 0 \.\. 99"),
        ({"emitted": (-1,)}, r"token id -1 is not in the vocabulary"),
        ({"max_tokens": 0}, "max_tokens is 0; it must be at least 1"),
        ({"max_tokens": -3}, "max_tokens is -3"),
        ({"emitted": (1,) * 5}, "emitted_ids has 5 tokens, max_tokens allows 4"),
        ({"temperature": -0.5}, "temperature is -0.5"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"seed": -1}, "seed is -1"),
        ({"max_tokens": 127}, r"prompt of 2 tokens \+ max_tokens 127 = 129 tokens, the model's context is 128"),
        ({"max_tokens": 63}, "= 65 tokens, the replica's cache holds 64"),
    ],
)
def test_refused(wrong, message):
    with pytest.raises(RequestRefusedError, match=message):
        check(**wrong)


@pytest.mark.parametrize("fine", [{}, {"max_tokens": 62}, {"emitted": (5,) * 4}, {"temperature": 2.0, "top_p": 1.0}])
def test_taken(fine):
    check(**fine)
