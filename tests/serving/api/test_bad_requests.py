"""Every way to ask wrongly: the status, and an error that names field, value and cure."""

from typing import Any

import pytest

from moe_serving.api import gate

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
        ({"prompt": "fox " * 70}, "prompt", "context_length_exceeded", "this model's context of 64"),
        ({"prompt": [9] * 64}, "prompt", "context_length_exceeded", "shorten it by 1 tokens"),
        ({"prompt": "x" * 100_000}, "prompt", "context_length_exceeded", "100000 characters are at least"),
        ({"prompt": [9] * 60, "max_tokens": 5}, "max_tokens", "context_length_exceeded", "ask for at most 4"),
        ({"prompt": ["fox"] * 100, "n": 2}, None, None, "200 answers asked for"),
        ({"max_tokens": -1}, "max_tokens", "invalid_value", "greater than or equal to 1 (got -1)"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value", "greater than or equal to 1 (got 0)"),
        ({"max_tokens": "5"}, "max_tokens", "invalid_value", 'a valid integer (got "5")'),
        ({"max_tokens": 1.5}, "max_tokens", "invalid_value", "(got 1.5)"),
        ({"temperature": -0.1}, "temperature", "invalid_value", "(got -0.1)"),
        ({"temperature": 2.5}, "temperature", "invalid_value", "(got 2.5)"),
        ({"top_p": 0}, "top_p", "invalid_value", "greater than 0 (got 0)"),
        ({"n": 0}, "n", "invalid_value", "(got 0)"),
        ({"n": True}, "n", "invalid_value", "(got true)"),
        ({"seed": "x"}, "seed", "invalid_value", '(got "x")'),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "invalid_value", "up to 4 texts"),
        ({"stop": ""}, "stop", "invalid_value", "none of them empty"),
        ({"stream": "yes"}, "stream", "invalid_value", '(got "yes")'),
        ({"stream_options": {"include_usage": True}}, None, "invalid_value", "only for requests with stream=true"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x", "unsupported_parameter", "leave it out"),
        ({"logprobs": 2}, "logprobs", "unsupported_parameter", "does not support it; leave it out (got 2)"),
        ({"best_of": 3}, "best_of", "unsupported_parameter", "leave it out or send 1"),
        ({"suffix": "x"}, "suffix", "unsupported_parameter", "leave it out"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "unsupported_parameter", "send 0 (got 0.5)"),
        ({"presence_penalty": -1}, "presence_penalty", "unsupported_parameter", "(got -1)"),
        ({"logit_bias": {"5": 3}}, "logit_bias", "unsupported_parameter", "leave it out"),
        ({"top_k": 5}, "top_k", "unsupported_parameter", "knows no such parameter"),
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
        ({"messages": []}, "messages", "invalid_value", "at least 1 item"),
        ({"messages": "fox"}, "messages", "invalid_value", '(got "fox")'),
        ({"messages": [{"role": "user"}]}, "messages.0.content", "missing_parameter", "is required"),
        ({"messages": [{"role": "wolf", "content": "x"}]}, "messages.0.role", "invalid_value", '(got "wolf")'),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages.0.content",
            "invalid_value",
            "reads text only",
        ),
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
            "context of 64",
        ),
        ({"max_completion_tokens": -3}, "max_completion_tokens", "invalid_value", "(got -3)"),
        ({"max_completion_tokens": 3, "max_tokens": 4}, None, "unsupported_parameter", "not both"),
        ({"max_tokens": 64}, "max_tokens", "context_length_exceeded", "max_tokens: 64 and a prompt"),
        (
            {"max_completion_tokens": 64},
            "max_completion_tokens",
            "context_length_exceeded",
            "max_completion_tokens: 64 and a prompt",
        ),
        ({"tools": [{"type": "function"}]}, "tools", "unsupported_parameter", "leave it out"),
        ({"tool_choice": "required"}, "tool_choice", "unsupported_parameter", "leave it out"),
        ({"response_format": {"type": "json_object"}}, "response_format", "unsupported_parameter", "leave it out"),
        ({"logprobs": True}, "logprobs", "unsupported_parameter", "leave it out"),
        ({"modalities": ["audio"]}, "modalities", "unsupported_parameter", "leave it out"),
        ({"store": True}, "store", "unsupported_parameter", "leave it out"),
        ({"reasoning_effort": "high"}, "reasoning_effort", "unsupported_parameter", "leave it out"),
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
        (b"{nonsense", "application/json", "invalid_json", "not valid JSON: Expecting property name"),
        (b"", "application/json", "missing_parameter", "needs a JSON body"),
        (b"[1, 2]", "application/json", "invalid_value", "(got [1, 2])"),
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
    monkeypatch.setattr(gate, "MAX_BODY_BYTES", 2 << 20)
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
    ("method", "path", "status"), [("GET", "/v2/models", 404), ("DELETE", "/v1/models", 405), ("GET", "/", 404)]
)
async def test_routes_that_do_not_exist(client, method, path, status) -> None:
    response = await client.request(method, path)
    assert response.status_code == status
    assert response.json()["error"]["type"] == "invalid_request_error"


async def test_a_bad_request_harms_nobody_else(api, client) -> None:
    api.answer_with(" dog")
    await refusal(client, "/v1/completions", COMPLETION | {"max_tokens": -1})
    response = await client.post("/v1/completions", json=COMPLETION)
    assert response.json()["choices"][0]["text"] == " dog"
