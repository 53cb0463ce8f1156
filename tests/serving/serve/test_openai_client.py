"""The official ``openai`` client against the real thing: Ray, Serve, shards, the trained model."""

import contextlib
import json
import subprocess
import sys
import time
from typing import Any

import openai as library
import pytest
from load import VOCABULARY, compare_with_reference, complete_all
from reference import prompts
from transformers import AutoTokenizer

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

PROMPT = "def main(self"
TOLD_S = 60.0


def stream_text(stream) -> tuple[str, str | None]:
    """Text and reason of a streamed completion."""
    pieces = [chunk.choices[0] for chunk in stream if chunk.choices]
    return "".join(piece.text for piece in pieces), pieces[-1].finish_reason


def test_models(openai) -> None:
    assert [model.id for model in openai.models.list()] == ["tiny"]
    assert openai.models.retrieve("tiny").owned_by == "moe-operator"
    with pytest.raises(library.NotFoundError, match="ask for 'tiny'"):
        openai.models.retrieve("huge")


def test_tokens_are_those_of_the_unsharded_model(openai, tiny) -> None:
    answers = complete_all(openai, prompts(32, vocabulary=VOCABULARY), 64)
    tally = compare_with_reference(tiny, openai, answers, 64)
    print(tally)
    assert tally.sequences == 32


def test_completions_whole_and_streamed(openai) -> None:
    asked = {"model": "tiny", "prompt": PROMPT, "max_tokens": 24, "temperature": 0}
    whole = openai.completions.create(**asked)
    text, finish = stream_text(openai.completions.create(**asked, stream=True))
    assert (text, finish) == (whole.choices[0].text, whole.choices[0].finish_reason)
    assert len(text) > 10
    assert whole.usage.completion_tokens <= 24
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    assert whole.system_fingerprint.startswith("fp_")


def test_text_and_token_prompts_say_the_same(openai, tiny) -> None:
    ids = AutoTokenizer.from_pretrained(tiny).encode(PROMPT)
    asked = {"model": "tiny", "max_tokens": 16, "temperature": 0}
    by_ids = openai.completions.create(prompt=ids, **asked)
    by_text = openai.completions.create(prompt=[PROMPT, PROMPT], echo=True, **asked)
    assert [choice.text for choice in by_text.choices] == [PROMPT + by_ids.choices[0].text] * 2


def test_chat_whole_and_streamed(openai) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Write a function."}]
    asked = {"model": "tiny", "messages": messages, "max_completion_tokens": 24, "temperature": 0}
    whole = openai.chat.completions.create(**asked)
    assert whole.choices[0].message.role == "assistant"
    chunks = list(openai.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage


def test_a_stop_string_is_not_sent(openai) -> None:
    asked = {"model": "tiny", "prompt": PROMPT, "max_tokens": 40, "temperature": 0}
    full = openai.completions.create(**asked).choices[0].text
    stop = full[9:14]
    cut, finish = stream_text(openai.completions.create(**asked, stop=[stop, "never there"], stream=True))
    assert (cut, finish) == (full[: full.index(stop)], "stop")


def test_sampling_repeats_with_its_seed(openai) -> None:
    asked = {"model": "tiny", "prompt": PROMPT, "max_tokens": 24, "temperature": 1.0, "top_p": 0.9, "n": 2}
    first, again, other = (openai.completions.create(**asked, seed=seed) for seed in (7, 7, 8))
    texts = [[choice.text for choice in answer.choices] for answer in (first, again, other)]
    assert texts[0] == texts[1] != texts[2]
    assert texts[0][0] != texts[0][1]


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"model": "gpt-9"}, library.NotFoundError, "'gpt-9' is not served here"),
        ({"prompt": ""}, library.BadRequestError, "the prompt is empty"),
        ({"prompt": "word " * 20_000}, library.BadRequestError, "this model's maximum context length is"),
        ({"max_tokens": -1}, library.BadRequestError, "max_tokens: must be at least 1"),
        ({"logprobs": 5}, library.BadRequestError, "logprobs: this server does not support it"),
        ({"extra_body": {"max_token": 3}}, library.BadRequestError, "did you mean max_tokens?"),
    ],
    ids=str,
)
def test_refusals(openai, fields, error, message) -> None:
    with pytest.raises(error, match=message):
        openai.completions.create(**({"model": "tiny", "prompt": PROMPT, "max_tokens": 4} | fields))


def test_a_wrong_key(openai) -> None:
    with pytest.raises(library.AuthenticationError, match="incorrect API key"):
        openai.with_options(api_key="sk-wrong").models.list()


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_goes_away_frees_its_cache(plane, openai, streamed) -> None:
    asked = {"model": "tiny", "prompt": PROMPT, "max_tokens": 900, "extra_body": {"ignore_eos": True}}
    if streamed:
        stream = openai.completions.create(**asked, stream=True)
        for _ in zip(stream, range(3), strict=False):
            pass
        plane.wait(lambda report: any(replica.kv_tokens for replica in report.attention), "a cache in use")
        stream.close()
    else:
        with contextlib.suppress(library.APITimeoutError):
            openai.with_options(timeout=1).completions.create(**asked)
            pytest.fail("the answer was too fast to walk away from")
    plane.wait(
        lambda report: all(r.kv_tokens == r.running == r.waiting == 0 for r in report.attention),
        "the cache to be free again",
    )


def test_who_has_an_api_key_may_ask_where_it_is_busy(plane, openai, tmp_path) -> None:
    openai.completions.create(model="tiny", prompt=PROMPT, max_tokens=32)
    key = tmp_path / "key"
    key.write_text(plane.api_key)
    asked = [sys.executable, "-m", "moe_operator.kubectl.main", "top", "--url", f"{plane.url}/v1", "-o", "json"]

    def load() -> dict[str, Any] | None:
        ended = subprocess.run([*asked, "--api-key-file", key], capture_output=True, text=True, timeout=120, check=True)
        return json.loads(ended.stdout)["load"]

    # What was counted comes with the next reports, of attention to the directory and of that to the api.
    deadline = time.monotonic() + TOLD_S
    while (told := load()) is None:
        assert time.monotonic() < deadline, f"waited {TOLD_S} s for the load of a request"
        time.sleep(0.5)
    assert sum(told["shards"]) == pytest.approx(1.0, abs=0.001)
    assert [band["layers"] for band in told["bands"]] == ["0-1", "2-3", "4-5"]
    refused = subprocess.run(asked, capture_output=True, text=True, timeout=120)
    assert (refused.returncode, refused.stdout) == (4, "")
