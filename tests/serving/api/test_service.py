"""Who may ask, when, and what the api tells about itself."""

import hashlib
import shutil

import numpy as np
import pytest

from moe_contract.applications import ApiConfig
from moe_contract.base import CONTRACT
from moe_contract.model import ModelProblem
from moe_contract.report import CONTRACT_HEADER, AdaptiveReport, AttentionReport, DirectoryReport, Traffic
from moe_placement.encoding import encode_counts
from moe_serving.api import service

COMPLETION = {"model": "model", "prompt": "the fox"}


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def test_models(client) -> None:
    listed = (await client.get("/v1/models")).json()
    assert [(model["id"], model["max_model_len"]) for model in listed["data"]] == [("model", 64)]
    assert (await client.get("/v1/models/model")).json() == listed["data"][0]
    assert (await client.get("/v1/models/other")).status_code == 404


async def test_a_name_with_slashes_can_be_retrieved(api, client) -> None:
    api.service.config = ApiConfig(served_name="org/model")
    assert (await client.get("/v1/models/org/model")).json()["id"] == "org/model"


async def test_load_is_for_whoever_has_an_api_key(api, client) -> None:
    assert (await client.get("/v1/load")).json() == {"layer_rows": 0, "shards": "", "bands": []}, "of no traffic"
    api.service.config = ApiConfig(served_name="model", api_key_sha256=(digest("one"),))
    assert (await client.get("/v1/load")).status_code == 401
    counts = encode_counts(np.array([[9, 1, 0, 0], [5, 5, 5, 5]]))
    traffic = Traffic(layer_rows=12_345, load=counts, shares=(6000, 4000))
    api.report = api.report.model_copy(update={"traffic": traffic})
    await api.service.watch.ask()
    told = (await client.get("/v1/load", headers=bearer("one"))).json()
    assert (told["layer_rows"], told["shards"]) == (12_000, "6000 4000"), "not to the row"
    assert told["bands"][0] == {"layers": "0-0", "experts": ["0/0 9000", "0/1 1000"]}


async def test_nobody_can_follow_the_load_of_single_requests(api, client, monkeypatch) -> None:
    def traffic(rows: int, counts: list[list[int]]) -> None:
        told = Traffic(layer_rows=rows, load=encode_counts(np.array(counts)), shares=(6000, 4000))
        api.report = api.report.model_copy(update={"traffic": told})

    traffic(10, [[9, 1, 0, 0], [5, 5, 5, 5]])
    await api.service.watch.ask()
    first = (await client.get("/v1/load")).json()
    traffic(11, [[9, 1, 1, 0], [5, 5, 5, 6]])
    await api.service.watch.ask()
    assert (await client.get("/v1/load")).json() == first, "a minute long"
    monkeypatch.setattr(service, "LOAD_SECONDS", 0.0)
    assert (await client.get("/v1/load")).json()["layer_rows"] == 11


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


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/openapi.json", "/docs", "/nowhere"])
async def test_without_a_key_nothing_else_is_looked_at(api, client, path) -> None:
    api.service.config = ApiConfig(served_name="model", api_key_sha256=(digest("one"),))
    read = 0

    async def body():
        nonlocal read
        for _ in range(3):
            read += 1
            yield b"{nonsense"

    answer = await client.post(path, content=body(), headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    assert read == 0


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/healthz", 200),
        ("POST", "/healthz", 405),
        ("GET", "/metrics", 200),
        ("POST", "/metrics", 405),
        ("GET", "/v1/models", 200),
        ("GET", "/nowhere", 404),
    ],
)
async def test_a_body_that_nobody_wants_is_not_gathered(client, method, path, status) -> None:
    read = 0

    async def body():
        nonlocal read
        for _ in range(15):
            read += 1
            yield bytes(2**20)

    assert (await client.request(method, path, content=body())).status_code == status
    # Whoever watches for the client's leaving may take a part, and keeps none.
    assert read <= 1


async def test_no_schema_is_served(client) -> None:
    for path in ("/openapi.json", "/docs", "/redoc"):
        assert (await client.get(path)).status_code == 404


async def test_nobody_is_let_in_before_it_is_known_who_may(api, client) -> None:
    api.service.config = None
    for path in ("/v1/models", "/internal/report", "/nowhere"):
        answer = await client.get(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
        assert "the api has no configuration yet" in answer.json()["error"]["message"]
    assert (await client.get("/healthz")).text == "the api has no configuration yet"
    api.service.configure({"served_name": ["no", "name"]})
    assert "served_name: Input should be a valid string" in (await client.get("/healthz")).text
    api.service.configure({"served_name": "model"})
    assert (await client.get("/v1/models")).status_code == 200


async def test_a_refused_configuration_is_reported_and_the_old_one_stays(api, client) -> None:
    api.service.configure({"served_name": "other", "internal_key_sha256": digest("internal")})
    api.service.configure({"served_name": "third", "max_context": -1})
    report = DirectoryReport.model_validate_json(
        (await client.get("/internal/report", headers=bearer("internal"))).text
    )
    assert report.refused == (
        "user_config of the api is refused: max_context: Input should be greater than or equal to 2"
    )
    assert (await client.get("/v1/models/other")).status_code == 200
    api.service.configure({"served_name": "third", "internal_key_sha256": digest("internal")})
    report = DirectoryReport.model_validate_json(
        (await client.get("/internal/report", headers=bearer("internal"))).text
    )
    assert report.refused is None


async def test_the_operators_report(api, client) -> None:
    assert (await client.get("/internal/report", headers=bearer("internal"))).status_code == 404
    api.service.config = ApiConfig(served_name="model", internal_key_sha256=digest("internal"))
    assert (await client.get("/internal/report")).status_code == 401
    assert (await client.get("/internal/report", headers=bearer("wrong"))).status_code == 401
    answer = await client.get("/internal/report", headers=bearer("internal") | {CONTRACT_HEADER: str(CONTRACT)})
    assert DirectoryReport.model_validate_json(answer.text) == api.report


@pytest.mark.parametrize(("said", "told"), [({}, 0), ({CONTRACT_HEADER: "1"}, 1), ({CONTRACT_HEADER: "1e9"}, 0)])
async def test_an_operator_is_told_what_it_knows(api, client, said: dict[str, str], told: int) -> None:
    api.service.config = ApiConfig(served_name="model", internal_key_sha256=digest("internal"))
    api.report = api.report.model_copy(update={"contract": 1})
    answer = (await client.get("/internal/report", headers=bearer("internal") | said)).json()
    assert answer.get("contract", 0) == told


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
    await eventually(lambda: api.service.watch.report == api.report, "the watch to hear of it")
    assert (await client.post("/v1/completions", json=COMPLETION)).status_code == 200


async def test_a_directory_that_does_not_answer_changes_nothing(api, client, eventually) -> None:
    api.answer_with(" dog")
    api.report = None
    asked = api.reports_asked
    await eventually(lambda: api.reports_asked > asked, "the watch to ask again")
    assert (await client.post("/v1/completions", json=COMPLETION)).status_code == 200


async def test_a_tokenizer_that_cannot_be_read_yet(api, eventually, checkpoint, tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(service, "_LOAD_AGAIN_S", 0.05)
    (tmp_path / "tokenizer.json").write_text("{")
    late = type(api)(tmp_path)
    async with late.running(), late.client() as client:
        await eventually(lambda: "cannot be loaded" in (late.service.problem or ""), "the tokenizer's problem")
        answer = await client.post("/v1/completions", json=COMPLETION)
        assert answer.status_code == 503
        told = answer.json()["error"]["message"]
        assert f"the tokenizer of {tmp_path} cannot be loaded" in told
        assert "the api's log says more" in told
        raw = [str(record.exc_info[1]) for record in caplog.records if record.exc_info]
        assert raw
        assert not any(text in told for text in raw), "what a library says is for the log"
        shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
        await eventually(lambda: late.service.problem is None, "the tokenizer")


@pytest.mark.parametrize(
    ("bounds", "length"), [({}, 64), ({"max_context": 8}, 8), ({"max_context": 30, "kv_cache_tokens": 20}, 20)], ids=str
)
async def test_models_tell_the_context(api, client, bounds, length) -> None:
    api.service.config = ApiConfig(served_name="model", **bounds)
    assert (await client.get("/v1/models/model")).json()["max_model_len"] == length
    api.service.watch.facts = None
    assert (await client.get("/v1/models/model")).json()["max_model_len"] is None


async def test_the_context_may_be_bounded(api, client) -> None:
    api.service.config = ApiConfig(served_name="model", max_context=8)
    answer = await client.post("/v1/completions", json=COMPLETION | {"prompt": [9] * 8})
    assert "this model's maximum context length is 8 tokens;" in answer.json()["error"]["message"]


async def test_the_cache_of_a_replica_bounds_the_context(api, client) -> None:
    api.service.config = ApiConfig(served_name="model", kv_cache_tokens=20)
    error = (await client.post("/v1/completions", json=COMPLETION | {"prompt": [9] * 8, "max_tokens": 13})).json()[
        "error"
    ]
    assert error["message"] == (
        "max_tokens: 13 and a prompt of 8 tokens are too many; this model's maximum context length is 20 tokens, "
        "what the cache of a replica holds (its kv_cache_tokens; the model has 64); ask for at most 12"
    )
    api.answer_with(" dog")
    chat = {"model": "model", "messages": [{"role": "user", "content": "fox"}]}
    assert (await client.post("/v1/chat/completions", json=chat)).status_code == 200
    asked = api.source.asked[0]
    assert len(asked.prompt_ids) + asked.sampling.max_tokens == 20


@pytest.mark.parametrize(
    ("method", "path", "status", "route"),
    [
        ("POST", "/v1/completions", 401, "/v1/completions"),
        ("GET", "/v1/models/some", 401, "/v1/models/{name:path}"),
        ("GET", "/nowhere", 401, "unmatched"),
        ("POST", "/metrics", 405, "/metrics"),
    ],
)
async def test_what_is_refused_before_its_route_is_looked_for_is_counted_there(
    api, client, method, path, status, route
) -> None:
    api.service.config = ApiConfig(served_name="model", api_key_sha256=(digest("one"),))
    assert (await client.request(method, path)).status_code == status
    assert f'moe_http_requests_total{{code="{status}",route="{route}"}} 1.0' in (await client.get("/metrics")).text


async def test_histograms_tell_minutes_apart(client) -> None:
    text = (await client.get("/metrics")).text
    for name in ("moe_time_to_first_token_seconds", "moe_inter_token_seconds"):
        for edge in ("60.0", "120.0", "300.0", "600.0", "1200.0"):
            assert f'{name}_bucket{{le="{edge}"}}' in text


async def test_the_age_of_the_directorys_report(api, client, eventually, monkeypatch) -> None:
    """What a hung directory reported last is told, and how long ago that was."""

    async def age() -> float:
        text = (await client.get("/metrics")).text
        assert "moe_routing_epoch 7.0" in text
        return float(text.split("\nmoe_report_age_seconds ")[1].split()[0])

    assert await age() < 30
    asked = api.reports_asked
    api.report = None
    await eventually(lambda: api.reports_asked > asked, "the watch to ask in vain")
    first = await age()
    await eventually(lambda: api.reports_asked > asked + 1, "the watch to ask in vain again")
    assert await age() > first


ORIGIN = "https://chat.example.com"
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}


async def test_no_page_may_ask_unless_its_origin_is_allowed(api, client) -> None:
    api.answer_with(" dog")
    for origins, allowed in (
        ((), False),
        (("http://localhost:3000",), False),
        (("http://localhost:3000", ORIGIN), True),
    ):
        api.service.config = ApiConfig(served_name="model", api_key_sha256=(digest("one"),), allowed_origins=origins)
        preflight = await client.options("/v1/chat/completions", headers=PREFLIGHT | {"Origin": ORIGIN})
        asked = await client.post("/v1/completions", json=COMPLETION, headers=bearer("one") | {"Origin": ORIGIN})
        wrong = await client.get("/v1/models", headers=bearer("two") | {"Origin": ORIGIN})
        assert (preflight.status_code == 200) is allowed
        assert (asked.status_code, wrong.status_code) == (200, 401)
        for response in (preflight, asked, wrong):
            assert response.headers.get("access-control-allow-origin") == (ORIGIN if allowed else None)
            assert "access-control-allow-credentials" not in response.headers
        if allowed:
            assert preflight.headers["access-control-allow-headers"] == "authorization,content-type"
            assert "x-moe-ignored-fields" in asked.headers["access-control-expose-headers"]
            assert "Origin" in asked.headers["vary"]


async def test_pages_see_the_api_only(api, client) -> None:
    api.service.config = ApiConfig(served_name="model", internal_key_sha256=digest("i"), allowed_origins=(ORIGIN,))
    for path in ("/internal/report", "/metrics", "/healthz"):
        response = await client.get(path, headers=bearer("i") | {"Origin": ORIGIN})
        assert response.status_code == 200
        assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("origin", ["*", "null", "https://a.b/", "https://A.b", "a.b", "https://a.b/c", "ftp://a.b"])
def test_origins_are_whole(api, origin) -> None:
    api.service.configure({"served_name": "model", "allowed_origins": [origin]})
    assert "allowed_origins" in (api.service.refused or "")


async def test_statistics_are_for_the_operator(api, client) -> None:
    path = "/internal/statistics"
    assert (await client.get(path)).status_code == 404
    api.service.config = ApiConfig(served_name="model", internal_key_sha256=digest("i"), api_key_sha256=(digest("k"),))
    for headers in ({}, bearer("k")):
        assert (await client.get(path, headers=headers)).status_code == 401
    assert (await client.get(path, headers=bearer("i"))).status_code == 204
    api.statistics = b"packed"
    answer = await client.get(path, headers=bearer("i"))
    assert (answer.content, answer.headers["content-type"]) == (b"packed", "application/octet-stream")


async def test_those_of_a_former_cluster_are_taken_from_the_operator(api, client) -> None:
    path = "/internal/statistics"
    assert (await client.put(path, content=b"former")).status_code == 404
    api.service.config = ApiConfig(served_name="model", internal_key_sha256=digest("i"), api_key_sha256=(digest("k"),))
    for headers in ({}, bearer("k")):
        assert (await client.put(path, content=b"former", headers=headers)).status_code == 401
    assert api.statistics is None
    assert (await client.put(path, content=b"former", headers=bearer("i"))).status_code == 204
    assert (api.statistics, api.former_cluster) == (b"former", "")
    named = bearer("i") | {"Moe-Statistics-Of": "tiny-abcde"}
    assert (await client.put(path, content=b"former", headers=named)).status_code == 204
    assert api.former_cluster == "tiny-abcde"
    refused = await client.put(path, content=b"former", headers=bearer("i") | {"Moe-Statistics-Of": "a b"})
    assert (refused.status_code, api.former_cluster) == (400, "tiny-abcde")
    assert "Moe-Statistics-Of is 'a b': write the name of a Ray cluster" in refused.json()["error"]["message"]
    refused = await client.put(path, content=b"", headers=bearer("i"))
    assert (refused.status_code, refused.json()["error"]["message"]) == (400, "these are no statistics")


ADAPTIVE = AdaptiveReport(pairs_saved=12.5, loss_increase=0.002, loss_low=0.001, loss_high=0.003, held_out_tokens=9000)


def adaptive(report: DirectoryReport) -> DirectoryReport:
    (replica,) = report.attention
    return report.model_copy(
        update={
            "attention": (replica, replica.model_copy(update={"replica": "b", "adaptive": ADAPTIVE})),
            "traffic": report.traffic.model_copy(
                update={"pairs_skipped": 11, "experts_chosen": 40, "experts_touched": 33}
            ),
        }
    )


async def test_adaptive_routing_is_named_in_answers_from_the_first_that_may_have_it_to_the_last(
    api, client, eventually
) -> None:
    async def named() -> str:
        return (await client.post("/v1/completions", json=COMPLETION)).json()["system_fingerprint"]

    api.answer_with(" dog")
    exact = await named()
    api.service.configure({"served_name": "model", "pairs_saved": 18.0})
    assert await named() == f"{exact}-adaptive-18"
    api.service.configure({"served_name": "model"})
    assert await named() == exact
    api.report = adaptive(api.report)
    await eventually(lambda: api.service.watch.report.traffic.pairs_skipped, "the report of a replica that goes on")
    assert await named() == f"{exact}-adaptive-12.5"


async def test_fp8_rows_are_named_in_answers_likewise(api, client, eventually) -> None:
    async def named() -> str:
        return (await client.post("/v1/completions", json=COMPLETION)).json()["system_fingerprint"]

    api.answer_with(" dog")
    exact = await named()
    api.service.configure({"served_name": "model", "pairs_saved": 18.0, "wire": "FP8"})
    assert await named() == f"{exact}-adaptive-18-fp8-wire"
    api.service.configure({"served_name": "model"})
    assert await named() == exact
    (replica,) = api.report.attention
    packing = replica.model_copy(update={"replica": "b", "wire": "FP8"})
    api.report = api.report.model_copy(update={"attention": (replica, packing)})
    await eventually(lambda: len(api.service.watch.report.attention) == 2, "the report of a replica that goes on")
    assert await named() == f"{exact}-fp8-wire"
    api.report = api.report.model_copy(update={"model": api.report.model.model_copy(update={"weights": "FP8"})})
    await eventually(lambda: api.service.watch.facts.weights == "FP8", "the report of shards that hold experts so")
    assert await named() == f"{exact}-fp8-weights-fp8-wire"


async def test_metrics_of_adaptive_routing(api, client, eventually) -> None:
    assert "moe_adaptive" not in (await client.get("/metrics")).text
    api.report = adaptive(api.report)
    await eventually(lambda: api.service.watch.report.traffic.pairs_skipped, "the report")
    lines = (await client.get("/metrics")).text.splitlines()
    for line in (
        "moe_expert_pairs_skipped_total 11.0",
        "moe_experts_chosen_total 40.0",
        "moe_experts_touched_total 33.0",
        "moe_adaptive_pairs_saved_wanted 12.5",
        'moe_adaptive_loss_increase{bound="low"} 0.001',
        'moe_adaptive_loss_increase{bound="mean"} 0.002',
        'moe_adaptive_loss_increase{bound="high"} 0.003',
    ):
        assert line in lines


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
        "moe_answers_queued 2.0",
        "moe_expert_fan_out 1.5",
        "moe_expert_failovers_total 3.0",
        'moe_shard_token_pairs_total{shard="1"} 60.0',
        'moe_shard_loaded_bytes_total{shard="1",source="peer"} 8.0',
        'moe_shard_transfers_refused_total{shard="1"} 1.0',
        'moe_shard_copies_damaged_total{shard="1"} 2.0',
        'moe_shard_busy_seconds_total{shard="1"} 1.5',
    ):
        assert line in text
