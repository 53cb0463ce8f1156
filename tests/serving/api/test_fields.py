"""What common clients send beside the fields they need: taken, given to the template, or reported as ignored."""

import json
from pathlib import Path

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_serving.api.reference import reference
from moe_serving.api.schemas import ChatRequest, CompletionRequest, Message, StreamOptions, TextPart
from moe_serving.api.unknown import nearest

ROOT = Path(__file__).parents[3]
COMPLETION = {"model": "model", "prompt": "the fox"}
CHAT = {"model": "model", "messages": [{"role": "user", "content": "the fox"}]}
VLLM_BENCH = {"repetition_penalty": 1.0, "top_k": -1, "min_p": 0.0, "min_tokens": 0, "length_penalty": 1.0}
CONTINUE = [
    *("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|endoftext|>", "//", "\n\n", "\r\n\r\n", "/src/", "```"),
    *("\nclass", "\nfunction", "\n#- coding: utf-8"),
]


@pytest.fixture
def official(client) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url="http://api/v1", api_key="none", max_retries=0, http_client=client)


@pytest.mark.parametrize(
    "fields",
    [
        VLLM_BENCH | {"logprobs": None, "stream": True, "stream_options": {"include_usage": True}},
        {"stream": True, "stop": None, "stream_options": {"include_usage": True, "continuous_usage_stats": True}},
        {"stop": CONTINUE},
        {"prompt_cache_key": "a", "prompt_cache_retention": "24h", "service_tier": "flex", "safety_identifier": "u"},
        {"metadata": {"chat": "1"}, "user": "u", "request_id": "r", "priority": 3, "cache_salt": "s"},
        {"frequency_penalty": 0.0, "presence_penalty": 0, "logit_bias": {}, "tools": [], "tool_choice": "none"},
        {"skip_special_tokens": True, "include_stop_str_in_output": False, "use_beam_search": False},
        {"add_special_tokens": False},
        {"ignore_eos": None, "return_token_ids": None, "stream_options": None, "n": None, "top_p": 0},
        {"models": ["a", "b"], "prediction": {"type": "content", "content": "x"}, "parallel_tool_calls": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
async def test_hints_and_values_that_change_nothing_are_taken(api, client, fields, path) -> None:
    api.answer_with(" dog")
    response = await client.post(path, json=(COMPLETION if path == "/v1/completions" else CHAT) | fields)
    assert response.status_code == 200, response.text
    assert "x-moe-ignored-fields" not in response.headers
    assert "moe_ignored_fields_total 0.0" in (await client.get("/metrics")).text


async def test_a_history_of_our_own_answers_as_openai_dumps_them(api, official) -> None:
    api.answer_with("dog")
    ask = {"role": "user", "content": "the fox"}
    first = await official.chat.completions.create(model="model", messages=[ask])
    dumped = first.choices[0].message.model_dump()
    assert dumped["annotations"] is None
    await official.chat.completions.create(model="model", messages=[ask, dumped, ask])
    tokenizer = api.service.bounds("model").tokenizer
    said = {"role": "assistant", "content": "dog"}
    assert list(api.source.asked[1].prompt_ids) == tokenizer.encode_chat([ask, said, ask])


@pytest.mark.parametrize(
    "extra",
    [
        {"annotations": []},
        {"annotations": [{"type": "url_citation"}]},
        {"reasoning_details": [{"text": "x"}]},
        {"provider_specific_fields": None},
        {"thinking_blocks": []},
        {"prefix": False},
        {"refusal": None, "audio": None, "function_call": None, "tool_calls": None, "parsed": None},
        {"cache_control": {"type": "ephemeral"}},
    ],
    ids=str,
)
async def test_echoes_of_assistants_change_no_prompt(api, client, extra) -> None:
    api.answer_with("dog")
    for turn in ({"role": "assistant", "content": "x"}, {"role": "assistant", "content": "x"} | extra):
        response = await client.post("/v1/chat/completions", json=CHAT | {"messages": [*CHAT["messages"], turn]})
        assert response.status_code == 200, response.text
    assert api.source.asked[0].prompt_ids == api.source.asked[1].prompt_ids


@pytest.mark.parametrize("content", [{"content": None}, {}, {"content": []}], ids=str)
async def test_an_assistant_that_was_stopped_before_its_first_token(api, client, content) -> None:
    api.answer_with("dog")
    for turn in ({"role": "assistant", "content": ""}, {"role": "assistant"} | content):
        response = await client.post("/v1/chat/completions", json=CHAT | {"messages": [*CHAT["messages"], turn]})
        assert response.status_code == 200, response.text
    assert api.source.asked[0].prompt_ids == api.source.asked[1].prompt_ids


async def test_cache_marks_change_no_prompt_and_parts_are_lines(api, client) -> None:
    api.answer_with("dog")
    parts = [{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}} for text in ("the fox", "jumps")]
    for content in (parts, "the fox\njumps"):
        messages = [{"role": "user", "content": content}]
        response = await client.post("/v1/chat/completions", json=CHAT | {"messages": messages})
        assert response.status_code == 200, response.text
    assert api.source.asked[0].prompt_ids == api.source.asked[1].prompt_ids


def prompt_of(api, number: int) -> str:
    return api.service.bounds("model").tokenizer.decode(api.source.asked[number].prompt_ids)


async def test_template_variables_reach_the_template_as_text_only(api, official) -> None:
    api.answer_with("dog")
    extra = {"chat_template_kwargs": {"mood": "glad<|end|>", "enable_thinking": False}}
    await official.chat.completions.create(**CHAT, extra_body=extra, reasoning_effort="low")
    await official.chat.completions.create(**CHAT)
    assert "(glad<|end|>)" in prompt_of(api, 0)
    assert "(no thinking)" in prompt_of(api, 0)
    assert "(effort low)" in prompt_of(api, 0)
    assert "(" not in prompt_of(api, 1)
    tokenizer = api.service.bounds("model").tokenizer
    end = tokenizer.encode("<|end|>")[0]
    assert [asked.prompt_ids.count(end) for asked in api.source.asked] == [1, 1]


async def test_reasoning_of_earlier_turns_reaches_the_template(api, client) -> None:
    api.answer_with("dog")
    for name in ("reasoning", "reasoning_content"):
        turn = {"role": "assistant", "content": "x", name: "hm"}
        response = await client.post("/v1/chat/completions", json=CHAT | {"messages": [*CHAT["messages"], turn]})
        assert response.status_code == 200, response.text
    assert "(thought hm)" in prompt_of(api, 0)
    assert prompt_of(api, 0) == prompt_of(api, 1)


@pytest.mark.parametrize("value", [[[1]], {"a": 1}, "x", -1, 10**20, None], ids=str)
async def test_whatever_a_template_does_with_a_variable_is_the_clients_error(api, client, value) -> None:
    """The template adds 1 to it."""
    body = CHAT | {"chat_template_kwargs": {"number": value}}
    api.answer_with("dog")
    response = await client.post("/v1/chat/completions", json=body)
    assert response.status_code == (200 if isinstance(value, int) else 400)
    if response.status_code == 400:
        said = response.json()["error"]["message"]
        assert said == "messages: the model's chat template refuses them: TypeError"


@pytest.mark.parametrize("streamed", [True, False])
async def test_what_nobody_knows_is_taken_and_reported(api, official, client, streamed) -> None:
    api.answer_with("dog")
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "x", "mood": 1}], "weather": 2},
        {"role": "user", "content": "y", "weather": 3},
    ]
    extra = {"colour": {"a": 1}, "not a\r\nheader": 1, "x" * 41: 1}
    if streamed:
        extra |= {"stream_options": {"sound": True}}
    raw = await official.chat.completions.with_raw_response.create(
        model="model", messages=messages, extra_body=extra, stream=streamed
    )
    told = set(raw.headers["x-moe-ignored-fields"].split(", "))
    names = {"colour", "messages.weather", "messages.content.mood"} | ({"stream_options.sound"} if streamed else set())
    assert told == names
    metrics = (await client.get("/metrics")).text
    assert f"moe_ignored_fields_total {len(names) + 2}.0" in metrics
    assert "colour" not in metrics


async def test_the_header_has_ten_names_at_most(api, client) -> None:
    api.answer_with("dog")
    response = await client.post("/v1/completions", json=COMPLETION | {f"field{n}": 0 for n in range(200)})
    assert response.status_code == 200
    assert len(response.headers["x-moe-ignored-fields"].split(", ")) == 10


async def test_usage_in_every_chunk_on_demand(api, official) -> None:
    api.answer_with(" dog")
    options = {"include_usage": True, "continuous_usage_stats": True}
    stream = await official.completions.create(**COMPLETION, stream=True, stream_options=options)
    counts = [chunk.usage.completion_tokens async for chunk in stream]
    assert counts == sorted(counts)
    assert counts[0] >= 1


KNOWN = [(schema, name) for schema in (CompletionRequest, ChatRequest, Message, TextPart, StreamOptions)
         for name in schema.model_fields]  # fmt: skip


@settings(deadline=None)
@given(st.sampled_from(KNOWN), st.data())
def test_every_single_edit_of_a_known_name_is_noticed(known, data) -> None:
    schema, name = known
    place = data.draw(st.integers(0, len(name) - 1))
    letter = data.draw(st.sampled_from("abcz_0"))
    edits = {name[:place] + name[place + 1 :], name[:place] + letter + name[place:]}
    edits |= {name[:place] + letter + name[place + 1 :]}
    edits |= {name[:place] + name[place : place + 2][::-1] + name[place + 2 :]}
    for edit in edits - schema.model_fields.keys():
        assert nearest(schema, edit) is not None, edit


@pytest.mark.parametrize("name", ["colour", "prefix", "max_new", "temp", "prompt_keys_x"])
def test_other_names_are_nobodys_slip(name) -> None:
    assert nearest(ChatRequest, name) is None


def test_the_reference_is_generated() -> None:
    assert (ROOT / "docs/serving-api.md").read_text() == reference()
    assert json.dumps({"type": "text"}) in reference()
