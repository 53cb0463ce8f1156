"""Who may ask, when, and what the api tells about itself."""

import hashlib
import shutil

import pytest

from moe_placement.wire.applications import ApiConfig
from moe_placement.wire.model import ModelProblem
from moe_placement.wire.report import AttentionReport, DirectoryReport
from moe_serving.api import service

COMPLETION = {"model": "model", "prompt": "the fox"}


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def test_models(client) -> None:
    listed = (await client.get("/v1/models")).json()
    assert [model["id"] for model in listed["data"]] == ["model"]
    assert (await client.get("/v1/models/model")).json() == listed["data"][0]
    assert (await client.get("/v1/models/other")).status_code == 404


async def test_a_name_with_slashes_can_be_retrieved(api, client) -> None:
    api.service.config = ApiConfig(served_name="org/model")
    assert (await client.get("/v1/models/org/model")).json()["id"] == "org/model"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        (bearer("wrong"), 401),
        ({"Authorization": "Basic one"}, 401),
        (bearer("one"), 200),
        (bearer("two"), 200),
    ],
    ids=str,
)
async def test_api_keys(api, client, headers, status) -> None:
    api.answer_with(" dog")
    api.service.config = ApiConfig(served_name="model", api_key_sha256=(digest("one"), digest("two")))
    for response in (
        await client.get("/v1/models", headers=headers),
        await client.post("/v1/completions", json=COMPLETION, headers=headers),
    ):
        assert response.status_code == status
        if status == 401:
            assert response.json()["error"]["code"] == "invalid_api_key"
            assert response.headers["www-authenticate"] == "Bearer"
    assert (await client.get("/healthz")).status_code == 200


async def test_a_wrong_key_is_told_before_a_wrong_body(api, client) -> None:
    api.service.config = ApiConfig(served_name="model", api_key_sha256=(digest("one"),))
    assert (await client.post("/v1/completions", json={"nonsense": 1})).status_code == 401


async def test_the_operators_report(api, client) -> None:
    assert (await client.get("/internal/report", headers=bearer("internal"))).status_code == 404
    api.service.config = ApiConfig(served_name="model", internal_key_sha256=digest("internal"))
    assert (await client.get("/internal/report")).status_code == 401
    assert (await client.get("/internal/report", headers=bearer("wrong"))).status_code == 401
    answer = await client.get("/internal/report", headers=bearer("internal"))
    assert DirectoryReport.model_validate_json(answer.text) == api.report


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model": None}, "the model is being inspected"),
        (
            {"model": None, "model_problem": ModelProblem(reason="PathNotFound", message="nothing at /x")},
            r"the model cannot be served (PathNotFound): nothing at /x",
        ),
        ({"placement": None}, "experts are being loaded: 8 of 8 copies are in place"),
        ({"attention": ()}, "no attention replica has started"),
        (
            {"attention": (AttentionReport(replica="a", ready=False, epoch=0, running=0, waiting=0),)},
            "attention is loading the model",
        ),
        (
            {"attention": (AttentionReport(replica="a", ready=False, problem="full", epoch=0, running=0, waiting=0),)},
            "no attention replica can load the model: full",
        ),
    ],
    ids=str,
)
async def test_not_ready_yet(api, eventually, checkpoint, change, reason) -> None:
    fresh = type(api)(checkpoint)
    fresh.report = api.report.model_copy(update=change)
    async with fresh.running(), fresh.client() as client:
        await eventually(lambda: fresh.service.watch.report, "the directory's report")
        health = await client.get("/healthz")
        assert (health.status_code, health.text) == (503, reason)
        answer = await client.post("/v1/completions", json=COMPLETION)
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert answer.json()["error"]["code"] == "not_ready"
        assert reason in answer.json()["error"]["message"]


async def test_what_is_lost_later_turns_nobody_away(api, client, eventually) -> None:
    api.answer_with(" dog")
    problem = ModelProblem(reason="PathNotFound", message="gone")
    nothing = {"model": None, "model_problem": problem, "placement": None, "attention": ()}
    api.report = api.report.model_copy(update=nothing)
    await eventually(lambda: api.service.watch.report is api.report, "the watch to hear of it")
    assert (await client.post("/v1/completions", json=COMPLETION)).status_code == 200


async def test_a_directory_that_does_not_answer_changes_nothing(api, client, eventually) -> None:
    api.answer_with(" dog")
    api.report = None
    asked = api.reports_asked
    await eventually(lambda: api.reports_asked > asked, "the watch to ask again")
    assert (await client.post("/v1/completions", json=COMPLETION)).status_code == 200


async def test_a_tokenizer_that_cannot_be_read_yet(api, eventually, checkpoint, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(service, "_LOAD_AGAIN_S", 0.05)
    (tmp_path / "tokenizer.json").write_text("{")
    late = type(api)(tmp_path)
    async with late.running(), late.client() as client:
        await eventually(lambda: "cannot be loaded" in (late.service.problem or ""), "the tokenizer's problem")
        answer = await client.post("/v1/completions", json=COMPLETION)
        assert answer.status_code == 503
        assert f"the tokenizer of {tmp_path} cannot be loaded" in answer.json()["error"]["message"]
        shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
        await eventually(lambda: late.service.problem is None, "the tokenizer")


async def test_the_context_may_be_bounded(api, client) -> None:
    api.service.config = ApiConfig(served_name="model", max_context=8)
    answer = await client.post("/v1/completions", json=COMPLETION | {"prompt": [9] * 8})
    assert "this model's context of 8" in answer.json()["error"]["message"]


async def test_metrics(api, client) -> None:
    api.answer_with(" dog")
    await client.post("/v1/completions", json=COMPLETION)
    await client.get("/nowhere")
    text = (await client.get("/metrics")).text
    for line in (
        'moe_http_requests_total{code="200",route="/v1/completions"} 1.0',
        'moe_http_requests_total{code="404",route="unmatched"} 1.0',
        "moe_time_to_first_token_seconds_count 1.0",
        "moe_routing_epoch 7.0",
        "moe_shards_wanted 2.0",
        "moe_shards_ready 1.0",
        "moe_attention_ready 1.0",
        "moe_expert_fan_out 1.5",
        "moe_expert_failovers_total 3.0",
        'moe_shard_token_pairs_total{shard="1"} 60.0',
    ):
        assert line in text
