"""To whom the Service of a deployment leads that sleeps, wakes and serves; and what the activator is told of it."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from announcements import KEY, digest
from fake_kube_ray import KubeRayBench, several_rays

from moe_operator.activator.announcement import Announcement, announced
from moe_operator.kube.api import Listing
from moe_operator.kube.errors import KubeError
from moe_operator.kube.resources import ENDPOINT_SLICES, NETWORK_POLICIES, RAY_SERVICES, Resource
from moe_operator.runtimes.http.client import HttpClient
from moe_operator.runtimes.kube_ray import clusters
from moe_operator.runtimes.kube_ray.activators import Activators, ServiceName

PODS = ["10.0.0.7", "10.0.0.8"]


def activators(addresses: list[str] = PODS, family: str = "IPv4") -> Activators:
    found = Activators(ServiceName("moe-system", "activator"))
    endpoints = [{"addresses": [each], "conditions": {"ready": True}} for each in addresses]
    endpoints.append({"addresses": ["10.0.0.9"], "conditions": {"ready": False}})
    metadata = {"name": "activator-x", "namespace": "moe-system", "uid": "u", "resourceVersion": "1"}
    ports = [{"name": "http", "port": 8000}]
    live = {"metadata": metadata, "addressType": family, "endpoints": endpoints, "ports": ports}
    found.kind.objects.replace_all(Listing([live], "1"))
    return found


@pytest.fixture
async def bench(http: HttpClient, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[KubeRayBench]:
    async with several_rays() as (rays, port):
        monkeypatch.setattr(clusters, "SERVE_PORT", port)
        yield KubeRayBench(http, rays[0], rays=rays, activators=activators())


def leads(bench: KubeRayBench) -> tuple[str, list[str]]:
    """The Ray cluster that the Service selects, and the addresses beside it."""
    endpoints = bench.child(ENDPOINT_SLICES, "tiny-moe-activation")["endpoints"] or []
    return bench.selected, [each["addresses"][0] for each in endpoints]


def told(bench: KubeRayBench) -> Announcement:
    found = announced(bench.child(ENDPOINT_SLICES, "tiny-moe-activation"))
    assert found is not None
    return found


async def test_requests_are_held_from_the_sleep_until_it_serves_again(bench: KubeRayBench) -> None:
    bench.apply(sleep={"afterIdle": "30m"})
    report, bench.rays[0].report = bench.rays[0].report, lambda config: None
    await bench.work(5, seconds=1.0)
    assert leads(bench) == ("none", PODS), "it has not served yet"
    bench.rays[0].report = report
    await bench.ready()
    assert leads(bench) == ("tiny-1", [])
    assert not told(bench).held
    assert bench.condition("SleepsWhenIdle") == "True AsExpected"

    bench.directory.running = 0
    await bench.work(1, seconds=1800.0)
    await bench.work(1, seconds=1.0)
    assert (leads(bench), told(bench).held, told(bench).shards) == (("none", PODS), True, 2)
    await bench.work(3, seconds=2.0)
    assert not bench.kube.exists(RAY_SERVICES, "tiny")

    bench.rays[1].report = lambda config: None
    bench.change(experts={"shards": told(bench).shards})
    await bench.work(5, seconds=1.0)
    assert (leads(bench), told(bench).held) == (("none", PODS), True), "it loads its experts"
    bench.rays[1].report = bench.directory
    await bench.ready()
    assert (leads(bench), told(bench).held) == (("tiny-2", []), False)


async def test_a_request_that_comes_until_its_service_is_switched_ends_before_the_pods_go(bench: KubeRayBench) -> None:
    bench.apply(sleep={"afterIdle": "30m"})
    await bench.ready()
    bench.directory.running = 0
    await bench.work(1, seconds=1800.0)
    bench.directory.running = 1  # after the look by which it was found idle
    await bench.work(5, seconds=5.0)
    assert leads(bench) == ("none", PODS)
    assert bench.kube.exists(RAY_SERVICES, "tiny"), "a request runs"
    bench.directory.running = 0
    await bench.work(2, seconds=1.0)
    assert not bench.kube.exists(RAY_SERVICES, "tiny")


async def test_what_is_settled_is_not_written_again(bench: KubeRayBench) -> None:
    bench.apply(sleep={"afterIdle": "30m"})
    await bench.ready()
    before = {key: body["metadata"]["resourceVersion"] for key, body in bench.kube.objects.items()}
    await bench.work(3, seconds=2.0, kube_ray=False)
    assert {key: body["metadata"]["resourceVersion"] for key, body in bench.kube.objects.items()} == before


async def test_a_service_that_leads_to_a_cluster_goes_on_when_it_stops_serving(bench: KubeRayBench) -> None:
    bench.apply(sleep={"afterIdle": "30m"})
    await bench.ready()
    bench.rays[0].report = lambda config: None
    await bench.work(3, seconds=10.0)
    assert leads(bench) == ("tiny-1", [])


async def test_pods_of_the_activator_that_change_are_followed(bench: KubeRayBench) -> None:
    bench.apply(sleep={"afterIdle": "30m"}, experts={"shards": 0})
    await bench.work(2, seconds=1.0)
    assert leads(bench)[1] == PODS
    assert bench.activators is not None
    bench.activators.kind.objects.replace_all(activators(["10.0.0.9"]).kind.objects and Listing([], "2"))
    await bench.work(1, seconds=5.0)
    assert leads(bench)[1] == []


@pytest.mark.parametrize("labelled", [True, False])
async def test_keys_are_told_as_hashes_and_without_them_it_is_closed(bench: KubeRayBench, labelled: bool) -> None:
    bench.kube.secret("keys", use="api-keys" if labelled else None, one=KEY)
    serving: Any = {"apiKeysSecretRef": {"name": "keys"}, "routePrefix": "/a"}
    bench.apply(sleep={"afterIdle": "30m"}, experts={"shards": 0}, serving=serving)
    await bench.work(2, seconds=1.0)
    assert (told(bench).open, told(bench).route) == (False, "/a")
    assert told(bench).keys == ((digest(KEY),) if labelled else ())
    assert KEY not in str(bench.child(ENDPOINT_SLICES, "tiny-moe-activation"))


async def test_more_keys_than_can_be_told_keep_it_awake_and_nothing_else_stops(bench: KubeRayBench) -> None:
    bench.kube.secret("keys", use="api-keys", **{f"k{number}": f"{number:040}" for number in range(3001)})
    bench.apply(sleep={"afterIdle": "30m"}, serving={"apiKeysSecretRef": {"name": "keys"}})
    await bench.ready()
    assert told(bench).keys == ()
    assert bench.condition("SleepsWhenIdle") == "False TooManyKeys"
    bench.directory.running = 0
    await bench.work(2, seconds=1800.0)
    assert bench.kube.scaled == []
    bench.kube.secret("keys", use="api-keys", one=KEY)
    await bench.work(2, seconds=1800.0)
    assert bench.kube.scaled == [("moe-operator-sleep", 0)]


async def test_a_slice_that_is_refused_is_told_and_ends_no_pass(
    bench: KubeRayBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = bench.kube.create

    async def refuse(resource: Resource, body: Any) -> Any:
        if resource == ENDPOINT_SLICES:
            raise KubeError("annotations: Too long", 422)
        return await create(resource, body)

    monkeypatch.setattr(bench.kube, "create", refuse)
    bench.apply(sleep={"afterIdle": "30m"})
    await bench.ready()
    assert bench.condition("SleepsWhenIdle") == "False KubernetesRefused"
    monkeypatch.setattr(bench.kube, "create", create)
    await bench.work(2, seconds=5.0)
    assert bench.condition("SleepsWhenIdle") == "True AsExpected"


async def test_without_spec_sleep_nothing_is_held(bench: KubeRayBench) -> None:
    bench.apply(sleep={"afterIdle": "30m"}, experts={"shards": 0})
    await bench.work(2, seconds=1.0)
    assert leads(bench) == ("none", PODS)
    bench.change(sleep=None)
    await bench.work(2, seconds=1.0)
    assert (leads(bench), told(bench).held) == (("none", []), False)


async def test_an_activator_that_is_removed_leaves_no_address_behind(bench: KubeRayBench) -> None:
    bench.apply(sleep={"afterIdle": "30m"}, experts={"shards": 0})
    await bench.work(2, seconds=1.0)
    assert leads(bench) == ("none", PODS)
    bench.activators = None
    bench.restart()
    await bench.work(2, seconds=1.0)
    assert (leads(bench), told(bench).held, told(bench).keys) == (("none", []), False, ())
    bench.change(experts={"shards": 2})
    await bench.ready()
    assert leads(bench) == ("tiny-1", [])


async def test_one_that_never_sleeps_has_nothing_of_it(bench: KubeRayBench) -> None:
    bench.apply()
    await bench.ready()
    assert not bench.kube.exists(ENDPOINT_SLICES, "tiny-moe-activation")


async def test_the_activator_may_connect_where_clients_are_named(bench: KubeRayBench) -> None:
    bench.apply({"apiFrom": [{"podLabels": {"app": "web"}}]}, sleep={"afterIdle": "30m"})
    await bench.ready()
    (rule,) = bench.child(NETWORK_POLICIES, "tiny-moe-api")["spec"]["ingress"]
    assert {"matchLabels": {"moe-operator.io/component": "activator"}} in [each["podSelector"] for each in rule["from"]]
    assert len(rule["from"]) == 2
