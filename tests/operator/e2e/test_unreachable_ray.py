"""Many MoEDeployments whose Ray does not answer: each says so soon, and then nothing is written any more."""

import json
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from moe_dev.controlplane import ControlPlane
from moe_dev.operator_process import OperatorProcess, service_account

pytestmark = pytest.mark.e2e

MANY = 100
SOON_SECONDS = 30.0
QUIET_SECONDS = 60.0


@pytest.fixture
def silent_address() -> Iterator[str]:
    """Takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(512)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def closed_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def writes_of_the_operator(plane: ControlPlane) -> list[str]:
    """Method and path of each write the API server took from the operator, but for its Lease."""
    user = "system:serviceaccount:{}:{}".format(*service_account())
    entries = (json.loads(line) for line in plane.audit_log.read_text().splitlines())
    return [
        f"{entry['verb']} {entry['requestURI']}"
        for entry in entries
        if entry["user"]["username"] == user and entry["objectRef"]["resource"] != "leases"
    ]


def test_many_are_told_of_soon_and_quiet_afterwards(
    controlplane: ControlPlane,
    start_operator: Callable[..., OperatorProcess],
    objects,
    closed_address: str,
    silent_address: str,
) -> None:
    start_operator(f"--namespace={objects.namespace}")
    addresses = [closed_address, closed_address, silent_address, "http://nowhere.invalid:8265"]
    manifests = [
        objects.manifest(
            f"far-{number}",
            {
                "model": {"source": {"path": "models/tiny"}},
                "runtime": {
                    "rayCluster": {"dashboardURL": addresses[number % len(addresses)], "serveURL": closed_address}
                },
            },
        )
        for number in range(MANY)
    ]
    objects.kube.apply({"apiVersion": "v1", "kind": "List", "items": manifests})
    created = time.monotonic()

    def all_told() -> bool:
        items = json.loads(objects.kube.run("get", "moe", "-n", objects.namespace, "-o", "json"))["items"]
        reasons = [
            {c["type"]: (c["status"], c["reason"]) for c in item.get("status", {}).get("conditions", [])}
            for item in items
        ]
        return len(items) == MANY and all(
            told.get("RuntimeReachable") == told.get("Ready") == ("False", "RayUnreachable") for told in reasons
        )

    objects.wait(f"RuntimeReachable=False of {MANY} objects", all_told, SOON_SECONDS)
    print(f"{MANY} objects told of after {time.monotonic() - created:.1f} s")

    # The Events of the last transitions are still on their way.
    time.sleep(3.0)
    before = writes_of_the_operator(controlplane)
    time.sleep(QUIET_SECONDS)
    assert writes_of_the_operator(controlplane)[len(before) :] == []
    assert len([w for w in before if "/status" in w and objects.namespace in w]) == MANY
