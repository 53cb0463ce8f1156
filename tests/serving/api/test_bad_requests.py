"""Every way to ask wrongly: the status, and an error that names field, value and cure."""

import re
from typing import Any

import httpx2
import pytest

from moe_serving.api import access
from moe_serving.api.schemas import ChatRequest, CompletionRequest, Message

COMPLETION = {"model": "model", "prompt": "the fox"}
CHAT = {"model": "model", "messages": [{"role": "user", "content": "the fox"}]}


async def refusal(client, path: str, body: Any, status: int = 400) -> dict[str, Any]:
    """The error object of an answer, after a look at its shape."""
    response = await client.post(path, json=body)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    return error


@pytest.mark.parametrize(
    ("fields", "param", "code", "message"),
    [
        ({"prompt": ""}, "prompt", "empty_prompt", "the prompt is empty"),
        ({"prompt": []}, "prompt", "empty_prompt", "the prompt is empty"),
        ({"prompt": ["fox", ""]}, "prompt", "empty_prompt", "the prompt is empty"),
        ({"prompt": [[]]}, "prompt", "invalid_value", "a text, token ids"),
        ({"prompt": None}, "prompt", "invalid_value", "a text, token ids"),
        ({"prompt": 7}, "prompt", "invalid_value", "(got 7)"),
        ({"prompt": [1, "fox"]}, "prompt", "invalid_value", 'got [1, "fox"]'),
        ({"prompt": [-1]}, "prompt", "invalid_value", "(got [-1])"),
        ({"prompt": [1, 99999]}, "prompt", None, "99999 is no token id of this model"),
        (
            {"prompt": "fox " * 70},
            "prompt",
            "context_length_exceeded",
            "this model's maximum context length is 64 tokens",
        ),
        ({"prompt": [9] * 64}, "prompt", "context_length_exceeded", "shorten it by 1 tokens"),
        ({"prompt": "x" * 100_000}, "prompt", "context_length_exceeded", "100000 characters are at least"),
        ({"prompt": [9] * 60, "max_tokens": 5}, "max_tokens", "context_length_exceeded", "ask for at most 4"),
        ({"prompt": ["fox"] * 100, "n": 2}, None, None, "200 answers asked for"),
        ({"max_tokens": -1}, "max_tokens", "invalid_value", "max_tokens: must be at least 1 (got -1)"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value", "must be at least 1 (got 0)"),
        ({"max_tokens": "5"}, "max_tokens", "invalid_value", 'max_tokens: must be an integer (got "5")'),
        ({"max_tokens": 1.5}, "max_tokens", "invalid_value", "(got 1.5)"),
        ({"temperature": -0.1}, "temperature", "invalid_value", "(got -0.1)"),
        ({"temperature": 2.5}, "temperature", "invalid_value", "(got 2.5)"),
        ({"top_p": -0.1}, "top_p", "invalid_value", "must be at least 0 (got -0.1)"),
        ({"n": 0}, "n", "invalid_value", "(got 0)"),
        ({"n": True}, "n", "invalid_value", "(got true)"),
        ({"seed": "x"}, "seed", "invalid_value", '(got "x")'),
        ({"stop": list("abcdefghijklmnopqrstuvwxyz0123456")}, "stop", "invalid_value", "up to 32 texts"),
        ({"stop": "x" * 1025}, "stop", "invalid_value", "longer than 1024 characters"),
        ({"stop": ""}, "stop", "invalid_value", "none of them empty"),
        ({"stream": "yes"}, "stream", "invalid_value", '(got "yes")'),
        (
            {"stream_options": {"include_usage": True}},
            "stream_options",
            "invalid_value",
            'true (got {"include_usage": true})',
        ),
        (
            {"stream": True, "stream_options": {"include_usages": True}},
            "stream_options.include_usages",
            "unsupported_parameter",
            "did you mean stream_options.include_usage?",
        ),
        ({"max_token": 4}, "max_token", "unsupported_parameter", "did you mean max_tokens?"),
        ({"temprature": 0}, "temprature", "unsupported_parameter", "did you mean temperature?"),
        ({"sede": 0}, "sede", "unsupported_parameter", "did you mean seed?"),
        ({"top_a": 0}, "top_a", "unsupported_parameter", "did you mean top_k?"),
        ({f"field{n}": 0 for n in range(257)}, None, "unsupported_parameter", "more than 256 parameters"),
        ({"logprobs": 2}, "logprobs", "unsupported_parameter", "does not support it; leave it out (got 2)"),
        ({"best_of": 3}, "best_of", "unsupported_parameter", "leave it out or send 1"),
        ({"suffix": "x"}, "suffix", "unsupported_parameter", "leave it out"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "unsupported_parameter", "send 0 (got 0.5)"),
        ({"presence_penalty": -1}, "presence_penalty", "unsupported_parameter", "(got -1)"),
        ({"logit_bias": {"5": 3}}, "logit_bias", "unsupported_parameter", "leave it out"),
        ({"top_k": -2}, "top_k", "invalid_value", "must be at least -1 (got -2)"),
        ({"top_k": 1.5}, "top_k", "invalid_value", "must be an integer (got 1.5)"),
        ({"min_p": 1.1}, "min_p", "invalid_value", "must be at most 1 (got 1.1)"),
        ({"repetition_penalty": 0}, "repetition_penalty", "invalid_value", "must be at least 0.01 (got 0)"),
        ({"min_tokens": 3}, "min_tokens", "unsupported_parameter", "leave it out or send 0"),
        ({"guided_json": {}}, "guided_json", "unsupported_parameter", "leave it out"),
        ({"tools": [{}]}, "tools", "unsupported_parameter", "leave it out or send []"),
        ({"metadata": "x"}, "metadata", "invalid_value", 'must be an object (got "x")'),
        ({"prompt_cache_key": 5}, "prompt_cache_key", "invalid_value", "must be text (got 5)"),
        ({"add_special_tokens": "no"}, "add_special_tokens", "invalid_value", "must be true or false"),
    ],
    ids=str,
)
async def test_completions(client, fields, param, code, message) -> None:
    error = await refusal(client, "/v1/completions", COMPLETION | fields)
    assert (error["param"], error["code"]) == (param, code)
    assert message in error["message"]


@pytest.mark.parametrize(
    ("fields", "param", "code", "message"),
    [
        ({"messages": []}, "messages", "invalid_value", "messages: must not be empty (got [])"),
        ({"messages": "fox"}, "messages", "invalid_value", '(got "fox")'),
        ({"messages": [{"role": "user"}]}, "messages.0.content", "missing_parameter", "is required"),
        ({"messages": [{"role": "wolf", "content": "x"}]}, "messages.0.role", "invalid_value", '(got "wolf")'),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages.0.content.0.type",
            "invalid_value",
            'reads text only; send parts of type text (got "image_url")',
        ),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content", "missing_parameter", "is required"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages.0.content", "invalid_value", "a text or a list of"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": 7}]}]},
            "messages.0.content.0.text",
            "invalid_value",
            "must be text (got 7)",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "cache_controls": {}}]}]},
            "messages.content.cache_controls",
            "unsupported_parameter",
            "did you mean messages.content.cache_control?",
        ),
        (
            {"messages": [{"role": "user", "content": "x", "nme": "y"}]},
            "messages.nme",
            "unsupported_parameter",
            "did you mean messages.name?",
        ),
        (
            {"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}]},
            "messages.0.tool_calls",
            "unsupported_parameter",
            "leave it out or send []",
        ),
        (
            {"messages": [{"role": "assistant", "content": "x", "prefix": True}]},
            "messages.0.prefix",
            "unsupported_parameter",
            "leave it out or send false",
        ),
        (
            {"messages": [{"role": "user", "content": ""}] * 4097},
            "messages",
            "invalid_value",
            "must have at most 4096 items",
        ),
        ({"chat_template_kwargs": {"chat_template": "x"}}, "chat_template_kwargs", "invalid_value", "own to set"),
        ({"chat_template_kwargs": {"bos_token": "x"}}, "chat_template_kwargs", "invalid_value", "own to set"),
        ({"chat_template_kwargs": {"a b": "x"}}, "chat_template_kwargs", "invalid_value", "template's variable"),
        ({"chat_template_kwargs": {"a": "x" * 9000}}, "chat_template_kwargs", "invalid_value", "at most 8192"),
        ({"chat_template_kwargs": []}, "chat_template_kwargs", "invalid_value", "must be an object"),
        ({"add_special_tokens": True}, "add_special_tokens", "unsupported_parameter", "send false"),
        (
            {"messages": [{"role": "user", "content": "x"}, {"role": "system", "content": "y"}]},
            "messages",
            None,
            "a system message must come first",
        ),
        (
            {"messages": [{"role": "user", "content": "fox " * 70}]},
            "messages",
            "context_length_exceeded",
            "this model's maximum context length is 64 tokens",
        ),
        ({"max_completion_tokens": -3}, "max_completion_tokens", "invalid_value", "(got -3)"),
        (
            {"max_completion_tokens": 3, "max_tokens": 4},
            "max_completion_tokens",
            "unsupported_parameter",
            "not both (got 3)",
        ),
        ({"max_tokens": 64}, "max_tokens", "context_length_exceeded", "max_tokens: 64 and a prompt"),
        (
            {"max_completion_tokens": 64},
            "max_completion_tokens",
            "context_length_exceeded",
            "max_completion_tokens: 64 and a prompt",
        ),
        ({"tools": [{"type": "function"}]}, "tools", "unsupported_parameter", "leave it out"),
        ({"tool_choice": "required"}, "tool_choice", "unsupported_parameter", "leave it out"),
        (
            {"response_format": {"type": "json_object"}},
            "response_format",
            "unsupported_parameter",
            'or send {"type": "text"} (got {"type": "json_object"})',
        ),
        ({"logprobs": True}, "logprobs", "unsupported_parameter", "leave it out"),
        ({"modalities": ["audio"]}, "modalities", "unsupported_parameter", "leave it out"),
        ({"store": True}, "store", "unsupported_parameter", "leave it out"),
        ({"reasoning_effort": "hihg"}, "reasoning_effort", "invalid_value", "must be 'none'"),
        ({"verbosity": "low"}, "verbosity", "unsupported_parameter", 'send "medium"'),
    ],
    ids=str,
)
async def test_chat(client, fields, param, code, message) -> None:
    error = await refusal(client, "/v1/chat/completions", CHAT | fields)
    assert (error["param"], error["code"]) == (param, code)
    assert message in error["message"]


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"logit_bias": {}, "frequency_penalty": 0, "presence_penalty": 0.0, "best_of": 1}, "/v1/completions"),
        ({"logprobs": None, "suffix": "", "user": "somebody"}, "/v1/completions"),
        ({"logprobs": False, "tools": [], "tool_choice": "auto", "store": False}, "/v1/chat/completions"),
        ({"response_format": {"type": "text"}, "modalities": ["text"], "n": 1}, "/v1/chat/completions"),
    ],
    ids=str,
)
async def test_what_asks_for_nothing_is_accepted(api, client, fields, path) -> None:
    api.answer_with("dog")
    base = COMPLETION if path == "/v1/completions" else CHAT
    response = await client.post(path, json=base | fields)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize(
    ("body", "content_type", "code", "message"),
    [
        (
            b"{nonsense",
            "application/json",
            "invalid_json",
            "JSON: Expecting property name enclosed in double quotes, at character 1",
        ),
        (b"", "application/json", "missing_parameter", "needs a JSON body"),
        (b"[1, 2]", "application/json", "invalid_value", "the body: must be an object (got [1, 2])"),
        (b"[" * 100_000, "application/json", "invalid_json", "cannot be read: it must be JSON in UTF-8"),
        (b'{"model": "\xff"}', "application/json", "invalid_json", "cannot be read: it must be JSON in UTF-8"),
        (b"9" * 5000, "application/json", "invalid_json", "integers below 4300 digits"),
        (b"{}", "application/x-www-form-urlencoded", "invalid_json", "Content-Type: application/json"),
        (b'{"prompt": "x", "messages": []}', "application/json", "missing_parameter", "model: is required"),
    ],
)
async def test_bodies_that_are_no_request(client, path, body, content_type, code, message) -> None:
    response = await client.post(path, content=body, headers={"Content-Type": content_type})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["code"] == code
    assert message in error["message"]


WRONG = (None, True, -1, 1e9, 10**30, "", "fox", [], [None], [7], ["fox"], [[]], {}, {"fox": 1})
FIELDS = [("/v1/completions", name) for name in CompletionRequest.model_fields] + [
    ("/v1/chat/completions", name) for name in ChatRequest.model_fields
]


@pytest.mark.parametrize(("path", "field"), FIELDS)
async def test_no_field_is_refused_in_the_words_of_pydantic(api, client, path, field) -> None:
    """Nor its parts: all of a request's fields with all kinds of wrong values, one at a time and inside of others."""
    api.answer_with("dog")
    base = COMPLETION if path == "/v1/completions" else CHAT
    inside = [
        *({"include_usage": value} for value in WRONG),
        *([{"role": "user", "content": "x"} | {name: value}] for name in Message.model_fields for value in WRONG),
    ]
    for value in (*WRONG, *(inside if field in ("messages", "stream_options") else ())):
        response = await client.post(path, json=base | {"stream": False, field: value})
        if response.status_code == 200:
            continue
        message = response.json()["error"]["message"]
        assert message.startswith(field), message
        assert not re.search("Input should|valid (integer|string|list|dict|bool|number)|validation", message), message


HALF = '"\\ud800"'


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/completions", f'"prompt": {HALF}'),
        ("/v1/completions", f'"prompt": ["fox", {HALF}]'),
        ("/v1/completions", f'"stop": {HALF}'),
        ("/v1/completions", f'"stop": [{HALF}]'),
        ("/v1/completions", f'"user": {HALF}'),
        ("/v1/completions", f"{HALF}: 1"),
        (
            "/v1/chat/completions",
            f'"messages": [{{"role": "user", "content": "x"}}], "chat_template_kwargs": {{"a": {HALF}}}',
        ),
        ("/v1/completions", f'"logit_bias": {{{HALF}: 1}}'),
        ("/v1/completions", f'"model": {HALF}'),
        ("/v1/chat/completions", f'"messages": [{{"role": "user", "content": {HALF}}}]'),
        ("/v1/chat/completions", f'"messages": [{{"role": {HALF}, "content": "x"}}]'),
        ("/v1/chat/completions", f'"messages": [{{"role": "user", "content": "x", {HALF}: 1}}]'),
    ],
)
@pytest.mark.parametrize("streamed", ["true", "false"])
async def test_half_a_surrogate_pair_is_no_text(client, path, field, streamed) -> None:
    base = (
        f'"model": "model", "stream": {streamed}, "prompt": "x", '
        if path == "/v1/completions"
        else '"model": "model", '
    )
    response = await client.post(path, content="{" + base + field + "}", headers={"Content-Type": "application/json"})
    assert response.status_code in (400, 404), response.text
    assert r"\ud800" in response.text


async def test_a_body_without_end_is_not_read_to_its_end(client, monkeypatch) -> None:
    monkeypatch.setattr(access, "MAX_BODY_BYTES", 2 << 20)
    read = 0

    async def body():
        nonlocal read
        for _ in range(100):
            read += 1
            yield b" " * (1 << 20)

    for content in (body(), b" " * (3 << 20)):
        response = await client.post("/v1/completions", content=content, headers={"Content-Type": "application/json"})
        assert response.status_code == 413
        assert response.json()["error"] == {
            "message": "the body is larger than 2 MiB; send less in one request",
            "type": "invalid_request_error",
            "param": None,
            "code": "request_too_large",
        }
    assert read <= 4


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
async def test_another_model(client, path) -> None:
    base = COMPLETION if path == "/v1/completions" else CHAT
    error = await refusal(client, path, base | {"model": "gpt-9"}, status=404)
    assert (error["param"], error["code"]) == ("model", "model_not_found")
    assert error["message"] == "model: 'gpt-9' is not served here; ask for 'model'"


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/v2/models", 404, "there is no GET /v2/models here; the API is below /v1"),
        ("GET", "/", 404, "there is no GET / here; the API is below /v1"),
        ("GET", "", 404, "there is no GET / here; the API is below /v1"),
        ("POST", "/v1/completions/", 404, "there is no POST /v1/completions/ here; the API is below /v1"),
        ("GET", "/v1/../v1/", 404, "there is no GET /v1/ here; the API is below /v1"),
        ("DELETE", "/v1/models", 405, "DELETE /v1/models: this route takes GET only"),
        ("GET", "/v1/completions", 405, "GET /v1/completions: this route takes POST only"),
        ("POST", "/healthz", 405, "POST /healthz: this route takes GET only"),
    ],
)
async def test_routes_that_do_not_exist(client, method, path, status, message) -> None:
    response = await client.request(method, path)
    assert response.status_code == status
    assert response.json()["error"] == {
        "message": message,
        "type": "invalid_request_error",
        "param": None,
        "code": None,
    }
    assert response.headers.get("allow") == (message.split()[-2] if status == 405 else None)


async def test_routes_below_the_prefix_of_a_deployment(api) -> None:
    """As Serve calls us: its prefix is part of the path."""
    transport = httpx2.ASGITransport(app=api.app, root_path="/default/tiny")
    async with httpx2.AsyncClient(transport=transport, base_url="http://api") as client:
        assert (await client.get("/default/tiny/v1/models")).status_code == 200
        for path in ("/default/tiny", "/default/tiny/", "/default/tiny/v3"):
            response = await client.get(path)
            assert response.status_code == 404
            assert response.json()["error"]["message"] == f"there is no GET {path} here; the API is below /v1"


async def test_a_bad_request_harms_nobody_else(api, client) -> None:
    api.answer_with(" dog")
    await refusal(client, "/v1/completions", COMPLETION | {"max_tokens": -1})
    response = await client.post("/v1/completions", json=COMPLETION)
    assert response.json()["choices"][0]["text"] == " dog"
