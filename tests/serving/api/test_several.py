"""Several api processes of one deployment: whichever is asked, it is the same."""

import asyncio

import pytest

from moe_contract.applications import ApiConfig
from moe_contract.model import ModelProblem
from moe_contract.report import DirectoryReport
from moe_serving.api import service
from moe_serving.api.tokenizer import ModelTokenizer
from moe_serving.directory.apis import Apis
from moe_serving.directory.leases import LEASE_SECONDS

COMPLETION = {"model": "model", "prompt": "fox", "max_tokens": 8}


@pytest.fixture
async def two(api, checkpoint, eventually):
    """Beside ``api`` another one, of the same directory."""
    async with type(api)(checkpoint, api.directory).running() as other:
        await eventually(lambda: other.service.problem is None, "the other api to be ready")
        yield api, other


async def scrape(one) -> dict[str, float]:
    async with one.client() as client:
        lines = (await client.get("/metrics")).text.splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def counters(samples: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in samples.items() if name.split("{")[0].endswith(("_total", "_count", "_sum"))}


async def tell(*several) -> None:
    """What they do once a second anyhow."""
    for one in several:
        await one.service.watch.ask()


async def complete(one) -> None:
    one.answer_with(" dog")
    async with one.client() as client:
        assert (await client.post("/v1/completions", json=COMPLETION)).status_code == 200


async def test_metrics_are_the_sum_whichever_is_asked(two) -> None:
    for one, times in zip(two, (2, 3), strict=True):
        for _ in range(times):
            await complete(one)
    await tell(*two)
    for one in two:
        told = await scrape(one)
        assert told['moe_http_requests_total{code="200",route="/v1/completions"}'] == 5
        assert told["moe_time_to_first_token_seconds_count"] == 5
        assert told['moe_time_to_first_token_seconds_bucket{le="+Inf"}'] == 5
        assert told["moe_inter_token_seconds_sum"] >= 0
        assert not [name for name in told if "_created" in name]


async def test_gauges_are_those_that_live(two) -> None:
    for one in two:
        one.service.metrics.running.inc(3)
    await tell(*two)
    assert [(await scrape(one))["moe_answers_running"] for one in two] == [6, 6]


async def test_counters_never_fall_whoever_ends_and_begins(two, checkpoint, eventually) -> None:
    api, other = two
    seen: dict[str, float] = {}

    async def check(one) -> None:
        told = counters(await scrape(one))
        assert {name: value for name, value in seen.items() if told.get(name, value) < value} == {}
        assert seen.keys() <= told.keys()
        seen.update(told)

    for one in (api, other, api):
        await complete(one)
        await check(one)
    report, other.report = other.report, None  # the other one is heard of no more
    async with type(api)(checkpoint, api.directory).running() as third:
        await eventually(lambda: third.service.problem is None, "the third api to be ready")
        await complete(third)
        for one in (third, api):
            await check(one)
        # The directory is gone, and so is what it knew; nothing is told until all have given theirs back.
        api.report = third.report = None
        assert counters(await scrape(api)) == counters(await scrape(third)) == {}
        fresh = Apis()
        for one in (api, third):
            one.directory, one.report = fresh, report
        assert "moe_http_requests_total" not in str(counters(await scrape(third)))
        assert "moe_shards_ready" in await scrape(third)
        await scrape(api)
        for one in (api, third):
            one.ahead += LEASE_SECONDS
        for one in (third, api):
            await complete(one)
            await check(one)
    assert seen['moe_http_requests_total{code="200",route="/v1/completions"}'] == 6


async def test_models_and_headers_are_the_same(two) -> None:
    two[1].service.watch.created += 100  # it came later
    await tell(*two)
    told = []
    for one in two:
        async with one.client() as client:
            models = (await client.get("/v1/models")).json()
            one.answer_with(" dog")
            answer = await client.post("/v1/completions", json=COMPLETION | {"strange_thing": 1})
            told.append((models, answer.json()["system_fingerprint"], answer.headers["x-moe-ignored-fields"]))
    assert told[0] == told[1]


async def test_what_one_refused_any_tells(two) -> None:
    api, other = two
    for one in two:
        one.service.config = ApiConfig(served_name="model", internal_key_sha256=None)
    other.service.configure({"served_name": "model", "max_context": -1})
    await tell(other)
    assert "max_context" in ((await api.service.watch.ask()).report.refused or "")


async def test_one_that_starts_beside_one_that_answers_takes_no_requests_before_it_can(
    api, checkpoint, eventually, monkeypatch
) -> None:
    """Serve sends it none until its first configuration has been taken."""
    monkeypatch.setattr(service, "_START_S", 0.2)
    loading, load = asyncio.Event(), ModelTokenizer.load

    def load_late(path: str) -> ModelTokenizer:
        asyncio.run_coroutine_threadsafe(loading.wait(), loop).result(30)
        return load(path)

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(ModelTokenizer, "load", load_late)
    new = type(api)(checkpoint, api.directory)
    await tell(api)
    async with new.running():
        taken = asyncio.create_task(new.service.may_be_asked())
        await eventually(lambda: new.service.watch.others_ready == 1, "it to hear of the other")
        await asyncio.sleep(0.5)
        assert not taken.done()
        loading.set()
        await asyncio.wait_for(taken, 30)
        assert new.service.problem is None


@pytest.mark.parametrize(
    "change",
    [
        {"model": None, "model_problem": ModelProblem(reason="PathNotFound", message="nothing at /x")},
        {"placement": None, "shards": ()},
        {"attention": ()},
    ],
    ids=["bad model", "no shards yet", "no attention yet"],
)
async def test_one_that_starts_where_nobody_can_answer_tells_why(api, checkpoint, change, monkeypatch) -> None:
    monkeypatch.setattr(service, "_START_S", 0.5)
    first = type(api)(checkpoint)
    first.report = api.report.model_copy(update=change)
    async with first.running():
        await asyncio.wait_for(first.service.may_be_asked(), 30)
        assert first.service.problem is not None


@pytest.mark.parametrize("report", [None, "restarted"])
async def test_one_that_starts_beside_a_directory_that_is_away_waits_for_it(
    api, checkpoint, report, monkeypatch, eventually
) -> None:
    new = type(api)(checkpoint)
    new.report = api.report.model_copy(update={"placement": None}) if report else None
    async with new.running():
        taken = asyncio.create_task(new.service.may_be_asked())
        await asyncio.sleep(0.4)
        assert not taken.done()
        new.report = api.report
        await asyncio.wait_for(taken, 30)
        assert new.service.problem is None


async def test_a_request_to_one_that_has_not_heard_yet_that_all_is_ready_waits(api, checkpoint, monkeypatch) -> None:
    """Another process has told the client so."""
    late = type(api)(checkpoint)
    late.report = api.report.model_copy(update={"attention": ()})
    async with late.running(), late.client() as client:
        refused = await client.post("/v1/completions", json=COMPLETION)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")
        monkeypatch.setattr("moe_serving.api.watch.PERIOD_WHILE_STARTING_S", 600)
        await asyncio.sleep(0.3)
        late.report = api.report
        assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/v1/models")).json()["data"][0]["max_model_len"] == 64


async def test_many_scrapes_cost_the_directory_few_calls(api) -> None:
    asked = api.reports_asked
    await asyncio.gather(*(scrape(api) for _ in range(50)))
    assert api.reports_asked - asked <= 4


async def test_the_operators_report_is_of_now(api) -> None:
    asked = api.reports_asked
    report: DirectoryReport = (await api.service.watch.ask()).report
    assert api.reports_asked > asked
    assert report == api.report
