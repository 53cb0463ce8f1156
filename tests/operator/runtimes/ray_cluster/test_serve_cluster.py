"""One writer per address: changes are gathered, equal ones are not written, losses are noticed, tokens not mixed."""

import asyncio
import contextlib
import gc
from typing import Any

import pytest
from aiohttp import web
from fake_ray import FakeRay, serving

from moe_contract.applications import CORE_IMPORT_PATH, SHARD_IMPORT_PATH
from moe_contract.serve.merge import Change, Conflict
from moe_operator import recent
from moe_operator.errors import LeadershipLostError, StaleBasisError
from moe_operator.kube.errors import SecretNotLabelledError
from moe_operator.runtimes.credential import Credential
from moe_operator.runtimes.errors import RayAnswerRefusedError, RayAuthError, RayUnreachableError
from moe_operator.runtimes.ray_cluster.basis import Basis
from moe_operator.runtimes.ray_cluster.serve_rest import cluster as module
from moe_operator.runtimes.ray_cluster.serve_rest import kept
from moe_operator.runtimes.ray_cluster.serve_rest.cluster import ServeCluster, ServeClusters, WriteOutcome

SHOP = {"name": "shop", "route_prefix": "/shop", "import_path": "shop:app"}


def change(owner: str, shards: int = 1, route: str | None = None) -> Change:
    core = {"name": owner, "route_prefix": route or f"/{owner}", "import_path": CORE_IMPORT_PATH}
    experts: list[dict[str, Any]] = [
        {"name": f"{owner}.experts-{index}", "route_prefix": None, "import_path": SHARD_IMPORT_PATH}
        for index in range(shards)
    ]
    return Change(owner, (core, *experts))


def free() -> None:
    """May always write."""


@pytest.fixture(autouse=True)
def always_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(module, "ABSENT_SECONDS", 0.01)
    monkeypatch.setattr(module, "GATHER_SECONDS", 0.05)


@pytest.fixture
def ray(http, fake_ray) -> ServeCluster:
    return ServeClusters(http, free).at(fake_ray.url)


async def test_an_equal_change_writes_nothing(ray, fake_ray) -> None:
    assert (await ray.apply(None, change("a"))).written
    assert not (await ray.apply(None, change("a"))).written
    assert len(fake_ray.puts) == 1


async def test_changes_that_wait_go_into_one_put(ray, fake_ray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FRESH_SECONDS", 60.0)
    fake_ray.configs["shop"] = SHOP
    await ray.observe(None)
    outcomes = await asyncio.gather(*(ray.apply(None, change(f"d{number}")) for number in range(50)))
    assert all(outcome.written for outcome in outcomes)
    assert len(fake_ray.configs) == 101
    assert len(fake_ray.puts) == 1


async def test_each_token_writes_by_itself(ray, fake_ray) -> None:
    fake_ray.token = "right"
    good, bad = await asyncio.gather(
        ray.apply(Credential("right"), change("a")), ray.apply(Credential("wrong"), change("b")), return_exceptions=True
    )
    assert good.written
    assert isinstance(bad, RayAuthError)
    assert fake_ray.configs.keys() == {"a", "a.experts-0"}


async def test_what_may_not_be_written_any_more_is_left_out_and_the_rest_is_written(ray, fake_ray) -> None:
    """Two Secrets may hold the same token, and each deployment has API keys of its own."""

    async def refuse() -> None:
        raise SecretNotLabelledError("no longer")

    fake_ray.token = "right"
    good, keys, token = await asyncio.gather(
        ray.apply(Credential("right"), change("a")),
        ray.apply(Credential("right"), change("b"), check=refuse),
        ray.apply(Credential("right", refuse), change("c")),
        return_exceptions=True,
    )
    assert (good.written, type(keys), type(token)) == (True, SecretNotLabelledError, SecretNotLabelledError)
    assert fake_ray.configs.keys() == {"a", "a.experts-0"}


async def test_nothing_is_asked_about_where_nothing_is_written(ray, fake_ray) -> None:
    asked = []

    async def check() -> None:
        asked.append(True)

    await ray.apply(None, change("a"), check=check)
    await ray.apply(None, change("a"), check=check)
    assert asked == [True]


async def test_a_failed_put_fails_all_that_waited_for_it_and_the_next_succeeds(ray, fake_ray) -> None:
    async def break_puts(request: web.Request) -> web.StreamResponse:
        if request.method == "PUT":
            return web.Response(status=500)
        return web.json_response(fake_ray.state())

    fake_ray.override = break_puts
    results = await asyncio.gather(*(ray.apply(None, change(d)) for d in "abc"), return_exceptions=True)
    assert [type(result) for result in results] == [RayUnreachableError] * 3
    fake_ray.override = None
    assert (await ray.apply(None, change("a"))).written


async def test_a_cancelled_writer_leaves_the_others_to_the_next(ray, fake_ray) -> None:
    entered, released = asyncio.Event(), asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        entered.set()
        await released.wait()
        return web.json_response(fake_ray.state())

    await ray.observe(None)
    fake_ray.override = slow
    ray._seen.get(None).at = float("inf")
    first = asyncio.create_task(ray.apply(None, change("a")))
    second = asyncio.create_task(ray.apply(None, change("b")))
    await entered.wait()
    first.cancel()
    fake_ray.override = None
    released.set()
    assert (await asyncio.wait_for(second, 5)).written
    assert fake_ray.configs.keys() == {"b", "b.experts-0"}


async def test_nothing_is_written_without_leadership(http, fake_ray) -> None:
    def lost() -> None:
        raise LeadershipLostError("the Lease has run out")

    with pytest.raises(LeadershipLostError):
        await ServeClusters(http, lost).at(fake_ray.url).apply(None, change("a"))
    assert fake_ray.puts == []


async def test_what_a_foreign_put_removed_is_put_back_and_named(ray, fake_ray) -> None:
    await ray.apply(None, change("a", shards=2))
    fake_ray.drop("a.experts-1")
    outcome = await ray.apply(None, change("a", shards=2))
    assert outcome.written
    assert outcome.lost == {"a.experts-1"}
    assert "a.experts-1" in fake_ray.configs


async def test_what_we_removed_or_ray_forgot_is_no_loss(ray, fake_ray) -> None:
    await ray.apply(None, change("a", shards=2))
    await ray.apply(None, change("a", shards=1))
    assert not (await ray.apply(None, change("a", shards=2))).lost
    fake_ray.configs.clear()
    fake_ray.controller = "controller-2"
    assert not (await ray.apply(None, change("a", shards=2))).lost


async def test_a_route_that_is_taken(ray, fake_ray) -> None:
    fake_ray.configs["shop"] = SHOP
    outcome = await ray.apply(None, change("a", route="/shop"))
    assert not outcome.written
    assert outcome.conflict == Conflict("/shop", "shop")
    assert fake_ray.configs == {"shop": SHOP}


async def test_foreign_applications_survive_a_ray_that_says_for_a_moment_that_it_runs_no_serve(ray, fake_ray) -> None:
    fake_ray.configs["shop"] = SHOP
    answers = iter([{"applications": {}}, {"applications": {}}])

    async def blink(request: web.Request) -> web.StreamResponse:
        answer = next(answers, None) if request.method == "GET" else None
        if answer is None:
            fake_ray.override = None
            return await fake_ray.handle(request)
        return web.json_response(answer)

    fake_ray.override = blink
    await ray.apply(None, change("a"))
    assert "shop" in fake_ray.configs


def blinking(fake_ray, *looks: int) -> None:
    """Have the looks of these numbers find no controller."""
    seen = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal seen
        seen += request.method == "GET"
        if request.method == "GET" and seen in looks:
            return web.json_response({"applications": {}})
        return await fake_ray.answer(request)

    fake_ray.override = answer


async def test_a_look_believes_only_the_second_time_that_no_serve_runs(ray, fake_ray) -> None:
    blinking(fake_ray, 1)
    assert (await ray.observe(None)).controller == "controller-1"
    fake_ray.controller, fake_ray.gets = "", 0
    for _ in range(3):
        assert (await ray.observe(None)).controller == ""
    assert fake_ray.gets == 4


async def test_foreign_applications_survive_a_blink_just_before_the_put(ray, fake_ray) -> None:
    fake_ray.configs["shop"] = SHOP
    blinking(fake_ray, 3)
    with pytest.raises(StaleBasisError):
        await ray.apply(None, change("a"))
    assert fake_ray.puts == []


async def test_what_was_decided_from_something_else_is_not_written(ray, fake_ray) -> None:
    await ray.apply(None, change("a", shards=2))
    for unlike in (Basis(""), Basis("controller-2"), Basis("controller-1")):
        stale, right = await asyncio.gather(
            ray.apply(None, change("a", shards=0), unlike), ray.apply(None, change("b")), return_exceptions=True
        )
        assert isinstance(stale, StaleBasisError)
        assert isinstance(right, WriteOutcome)
    assert fake_ray.configs.keys() == {"a", "a.experts-0", "a.experts-1", "b", "b.experts-0"}
    assert (await ray.apply(None, change("a", shards=0), Basis.of(await ray.observe(None), "a"))).written


async def test_rays_that_run_no_serve_do_not_wait_for_each_other(http, fake_ray) -> None:
    fake_ray.controller = ""
    stuck, released = asyncio.Event(), asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        if request.method == "PUT":
            stuck.set()
            await released.wait()
            return web.Response()
        return web.json_response({"applications": {}})

    clusters = ServeClusters(http, free)
    async with serving(slow) as other:
        waiting = asyncio.create_task(clusters.at(other).apply(None, change("b")))
        await asyncio.wait_for(stuck.wait(), 5)
        assert (await asyncio.wait_for(clusters.at(fake_ray.url).apply(None, change("a")), 5)).written
        released.set()
        await waiting


async def test_that_no_serve_runs_is_made_sure_of_once(ray, fake_ray) -> None:
    """Each time costs a second, for which the first deployment of a Ray cluster would wait."""
    fake_ray.controller = ""
    basis = Basis.of(await ray.observe(None), "a")
    fake_ray.gets = 0
    assert (await ray.apply(None, change("a"), basis)).written
    # To decide, for the controller to lock by, and under that lock.
    assert fake_ray.gets == 3


async def test_what_nobody_asks_for_is_forgotten(http, fake_ray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "IDLE_SECONDS", 1.0)
    clusters = ServeClusters(http, free)
    ray = clusters.at(fake_ray.url)
    await ray.apply(Credential("one"), change("a"))
    assert ray.remembered("a")
    await asyncio.sleep(1.1)
    clusters.at("http://elsewhere:8265")
    await ray.observe(Credential("other"))
    assert (len(clusters._clusters), len(ray._seen), len(ray._written)) == (1, 1, 0)
    assert not clusters._writes._locks


async def test_two_addresses_of_one_ray_do_not_lose_each_others_changes(http, fake_ray) -> None:
    clusters = ServeClusters(http, free)
    addresses = [fake_ray.url, fake_ray.url.replace("127.0.0.1", "localhost")]
    for _ in range(5):
        await asyncio.gather(
            *(clusters.at(address).apply(None, change(f"d{n}")) for n, address in enumerate(addresses))
        )
        assert len(fake_ray.configs) == 4
        await asyncio.gather(
            *(clusters.at(address).apply(None, Change(f"d{n}", ())) for n, address in enumerate(addresses))
        )
        assert len(fake_ray.configs) == 0


async def test_a_ray_that_gives_the_controller_id_of_another_does_not_stop_its_writes(
    http, fake_ray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SAME_CONTROLLER_SECONDS", 0.1)
    stuck, released = asyncio.Event(), asyncio.Event()

    async def liar(request: web.Request) -> web.StreamResponse:
        if request.method == "PUT":
            stuck.set()
            await released.wait()
        return web.json_response({"controller_info": {"actor_id": fake_ray.controller}, "applications": {}})

    clusters = ServeClusters(http, free)
    async with serving(liar) as first, serving(liar) as second:
        lying = [asyncio.create_task(clusters.at(each).apply(None, change("b"))) for each in (first, second)]
        await asyncio.wait_for(stuck.wait(), 5)
        assert (await asyncio.wait_for(clusters.at(fake_ray.url).apply(None, change("a")), 5)).written
        released.set()
        await asyncio.gather(*lying)


async def test_writes_are_counted(http, fake_ray) -> None:
    counted: list[bool] = []
    ray = ServeClusters(http, free, counted.append).at(fake_ray.url)
    await ray.apply(None, change("a"))
    fake_ray.token = "another"
    with pytest.raises(RayAuthError):
        await ray.apply(None, change("b"))
    assert counted == [True]


async def test_observers_share_one_get(http, fake_ray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FRESH_SECONDS", 60.0)
    clusters = ServeClusters(http, free)
    assert clusters.at(fake_ray.url) is clusters.at(fake_ray.url + "/")
    await asyncio.gather(*(clusters.at(fake_ray.url).observe(None) for _ in range(20)))
    assert fake_ray.gets == 1
    await clusters.at(fake_ray.url).apply(None, change("a"))
    assert "a" in (await clusters.at(fake_ray.url).observe(None)).applications


async def test_observers_share_one_failure(http, black_hole, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FRESH_SECONDS", 60.0)
    monkeypatch.setattr("moe_operator.runtimes.ray_cluster.serve_rest.client.READ_SECONDS", 0.5)
    ray = ServeClusters(http, free).at(black_hole)
    async with asyncio.timeout(5):
        results = await asyncio.gather(*(ray.observe(None) for _ in range(30)), return_exceptions=True)
    (said,) = {str(result) for result in results}
    assert said.startswith(f"spec.runtime.rayCluster.dashboardURL is {black_hole}, but {black_hole}/api/serve/")
    assert ": no answer within 0 s; see that Ray runs there" in said
    assert len({id(result) for result in results}) == 30


async def test_a_ray_that_answers_too_much_is_left_alone_by_all_who_name_it(http, fake_ray) -> None:
    asked = 0

    async def deep(request: web.Request) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        return web.Response(body=b"[" * 100_000)

    fake_ray.override = deep
    clusters = ServeClusters(http, free)
    for token in (Credential("one"), Credential("two")):
        with pytest.raises(RayAnswerRefusedError, match="nested too deep"):
            await clusters.at(fake_ray.url).observe(token)
        with pytest.raises(RayAnswerRefusedError, match="nested too deep"):
            await clusters.at(fake_ray.url).apply(token, change("a"))
    assert asked == 1
    fake_ray.override = None
    clusters.at(fake_ray.url)._aside.clear()
    assert (await clusters.at(fake_ray.url).apply(Credential("one"), change("a"))).written


async def test_of_what_many_rays_tell_only_so_much_is_kept(http, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FRESH_SECONDS", 60.0)
    clusters, fakes = ServeClusters(http, free), [FakeRay() for _ in range(3)]
    async with contextlib.AsyncExitStack() as stack:
        for fake in fakes:
            fake.url = await stack.enter_async_context(serving(fake.handle))
            fake.configs["shop"] = SHOP | {"args": "x" * 1000}
        monkeypatch.setattr(kept, "KEPT_BYTES", 2500)
        for _ in range(2):
            for fake in (*fakes, fakes[-1]):
                assert "shop" in (await clusters.at(fake.url).observe(None)).applications
    assert [fake.gets for fake in fakes] == [2, 2, 2]


async def test_what_is_read_anew_or_forgotten_is_not_kept_beside(http, fake_ray: FakeRay) -> None:
    clusters = ServeClusters(http, free)
    for number in range(5):
        assert (await clusters.at(fake_ray.url).apply(None, change("a", route=f"/a{number}"))).written
        await clusters.at(fake_ray.url).observe(None)
    gc.collect()
    assert len(clusters._kept._sizes) == 1
