"""A thousand MoEDeployments on ten Rays, a tenth of them with faults: each says how it is, and then there is quiet.
`make endurance` runs it, and prints what it measured beside what it aims at."""

import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import psutil
import pytest
from audit import READS, asked, entries
from fake_ray import FakeDirectory, FakeRay, JsonObject, running
from kube_rest import rest
from moe_objects import OURS, Objects, condition

from moe_contract.model import ModelProblem
from moe_dev.controlplane import ControlPlane
from moe_dev.operator_process import OperatorProcess

pytestmark = [pytest.mark.e2e, pytest.mark.whole, pytest.mark.timeout(900)]

SOUND, FAULTY, RAYS = 900, 100, 10
AIM_SECONDS, AIM_BYTES = 60, 150e6
MOST_SECONDS, SETTLING_SECONDS, QUIET_SECONDS = 420.0, 45.0, 60.0
LOOK_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """One deployment, and its condition Ready as ``status reason``."""

    spec: JsonObject
    ready: str


@pytest.fixture
def wanted(directory: FakeDirectory, closed_address: str) -> Iterator[dict[str, Wanted]]:
    """By name. Eight of the Rays are sound; of one the token is another, and on one the model cannot be served."""
    problem = ModelProblem(reason="ConfigMissing", message="there is no config.json")
    with contextlib.ExitStack() as stack:
        rays = [stack.enter_context(running(FakeRay(report=directory))) for _ in range(RAYS - 2)]
        closed = stack.enter_context(running(FakeRay(report=directory, token="another")))
        bad = stack.enter_context(running(FakeRay(report=FakeDirectory(directory.facts, problem))))
        nobody = {"dashboardURL": closed_address, "serveURL": closed_address}
        faults = [
            Wanted(closed.spec(), "False RayAuthFailed"),
            Wanted(bad.spec(), "False ConfigMissing"),
            Wanted(rays[0].spec(runtime=nobody), "False RayUnreachable"),
            Wanted(rays[0].spec(serving={"apiKeysSecretRef": {"name": "absent"}}), "False SecretMissing"),
        ]
        sound = {f"sound-{n}": Wanted(rays[n % len(rays)].spec(), "True Available") for n in range(SOUND)}
        yield sound | {f"faulty-{n}": faults[n % len(faults)] for n in range(FAULTY)}


def private_bytes(operator: OperatorProcess) -> list[int]:
    """Of the operator's own process, and then of those that it has for work of size."""
    bind = f"--bind={operator.url.removeprefix('http://')}"
    (own,) = (
        each
        for each in psutil.Process().children(recursive=True)
        if each.cmdline()[1:3] == ["-m", "moe_operator"] and bind in each.cmdline()
    )
    return [each.memory_full_info().uss for each in (own, *own.children(recursive=True))]


def told(objects: Objects) -> dict[str, str]:
    """Condition Ready of each, by name."""
    ready = {each["metadata"]["name"]: condition(each, "Ready") for each in objects.all()}
    return {name: f"{each.get('status')} {each.get('reason')}" for name, each in ready.items()}


def test_a_thousand_are_told_of_and_then_there_is_quiet(
    controlplane: ControlPlane,
    start_operator: Callable[..., OperatorProcess],
    objects: Objects,
    wanted: dict[str, Wanted],
) -> None:
    api = rest(objects.kube.kubeconfig)
    for name, each in wanted.items():
        api.create(f"{OURS}/namespaces/{objects.namespace}/moedeployments", objects.manifest(name, each.spec))
    begun, started = time.monotonic(), datetime.now(UTC)
    operator = start_operator()
    expected = {name: each.ready for name, each in wanted.items()}
    while (found := told(objects)) != expected:
        wrong = {name: found.get(name) for name, ready in expected.items() if found.get(name) != ready}
        assert time.monotonic() < begun + MOST_SECONDS, f"{len(wrong)} are wrong: {Counter(wrong.values())}"
        time.sleep(LOOK_SECONDS)
    took = time.monotonic() - begun
    time.sleep(SETTLING_SECONDS)  # figures and Events of the last ones are still on their way
    since = datetime.now(UTC)
    time.sleep(QUIET_SECONDS)
    log = [
        entry
        for entry in entries(controlplane, operator.user)
        if datetime.fromisoformat(entry["requestReceivedTimestamp"]) >= started
    ]
    quiet = [
        asked(each)
        for each in log
        if datetime.fromisoformat(each["requestReceivedTimestamp"]) >= since and asked(each).resource != "leases"
    ]
    own, *others = private_bytes(operator)
    print(
        f"{len(wanted)} deployments on {RAYS} Rays: right conditions {took:.0f} s after the operator's start "
        f"(aim {AIM_SECONDS}), {own / 1e6:.0f} MB of private memory (aim {AIM_BYTES / 1e6:.0f}) and "
        f"{sum(others) / 1e6:.0f} MB of its worker processes; in {QUIET_SECONDS:.0f} s of quiet "
        f"{json.dumps(Counter(f'{each.verb} {each.resource}' for each in quiet))}"
    )
    assert [each["requestURI"] for each in log if each["responseStatus"]["code"] == 403] == []
    assert [each for each in quiet if each.verb not in READS] == []
    assert told(objects) == expected
