"""What objects with which nothing happens cost the API server: settled ones, and those whose Ray does not answer."""

import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from audit import READS, asked, entries
from fake_ray import FakeRay, JsonObject
from moe_objects import Objects

from moe_dev.controlplane import ControlPlane
from moe_dev.operator_process import OperatorProcess, service_account

pytestmark = [pytest.mark.e2e, pytest.mark.waits]

SETTLED, FAR = 20, 100
SOON_SECONDS = 30.0
QUIET_SECONDS = 60.0


def since(plane: ControlPlane, begun: datetime) -> list[dict[str, Any]]:
    """What the operator asked, but about its Lease; once each: a stream is told of when it begins and when it ends."""
    found = {
        entry["auditID"]: entry
        for entry in entries(plane, "system:serviceaccount:{}:{}".format(*service_account()))
        if datetime.fromisoformat(entry["requestReceivedTimestamp"]) >= begun
    }
    return [entry for entry in found.values() if asked(entry).resource != "leases"]


@pytest.fixture
def silent_address() -> Iterator[str]:
    """Takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(512)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def far(closed_address: str, silent_address: str) -> list[JsonObject]:
    """Specs whose Ray cannot be reached, in several ways."""
    addresses = [closed_address, closed_address, silent_address, "http://nowhere.invalid:8265"]
    return [
        {
            "model": {"source": {"path": "models/tiny"}},
            "runtime": {"rayCluster": {"dashboardURL": addresses[number % len(addresses)], "serveURL": closed_address}},
        }
        for number in range(FAR)
    ]


def apply_all(objects: Objects, name: str, specs: list[JsonObject]) -> None:
    items = [objects.manifest(f"{name}-{number}", spec) for number, spec in enumerate(specs)]
    objects.kube.apply({"apiVersion": "v1", "kind": "List", "items": items})


def all_unreachable(objects: Objects) -> bool:
    said = [
        {each["type"]: (each["status"], each["reason"]) for each in moe.get("status", {}).get("conditions", [])}
        for moe in objects.all()
        if moe["metadata"]["name"].startswith("far-")
    ]
    return len(said) == FAR and all(
        told.get("RuntimeReachable") == told.get("Ready") == ("False", "RayUnreachable") for told in said
    )


@pytest.mark.long
def test_what_is_settled_is_seldom_read_and_what_is_unreachable_is_told_of_once(
    controlplane: ControlPlane,
    start_operator: Callable[..., OperatorProcess],
    objects: Objects,
    ray: FakeRay,
    far: list[JsonObject],
) -> None:
    """Each of the many that cannot be reached says so soon; then a minute is looked at, in which nothing is written."""
    start_operator(f"--namespace={objects.namespace}")
    ray.token = "the-token"
    objects.ray_token("ray", ray.token, ray.url)
    objects.secret("keys", "api-keys", mine="k" * 40)
    secrets = {"runtime": {"tokenSecretRef": {"name": "ray"}}, "serving": {"apiKeysSecretRef": {"name": "keys"}}}
    apply_all(objects, "settled", [ray.spec(**secrets)] * SETTLED)
    for number in range(SETTLED):
        objects.wait_ready(f"settled-{number}", 120.0)

    begun = datetime.now(UTC)
    apply_all(objects, "far", far)
    took = objects.wait(f"RuntimeReachable=False of {FAR} objects", lambda: all_unreachable(objects), SOON_SECONDS)
    print(f"{FAR} objects told of after {took:.1f} s")
    # The Events of the last transitions are still on their way.
    time.sleep(3.0)
    told = [each for each in since(controlplane, begun) if asked(each).resource == "moedeployments/status"]
    assert len([each for each in told if each["objectRef"]["name"].startswith("far-")]) == FAR

    begun, looks = datetime.now(UTC), ray.gets
    time.sleep(QUIET_SECONDS)
    quiet = [asked(each) for each in since(controlplane, begun)]
    assert [each for each in quiet if each.verb not in READS] == []
    assert ray.gets > looks, "nobody looked at the settled objects meanwhile"
    reads = Counter(each.resource for each in quiet if each.resource in ("moedeployments", "secrets", "events"))
    print(f"in {QUIET_SECONDS:g} s: {dict(reads)} read, and {ray.gets - looks} looks at Ray")
    # A stream of the watch each 40 s, and a listing each five minutes, whatever the number of objects.
    assert 1 <= reads["moedeployments"] <= 4
    assert reads.total() <= SETTLED * QUIET_SECONDS / 60
