"""Rays and directories that answer far too much: each is told of, and nobody else notices.

Of the operator it is measured from outside what its users would: probes, the time of another tenant's scaling, memory,
the Lease. ``make endurance`` runs it for ten minutes.
"""

import contextlib
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import psutil
import pytest
from aiohttp import web
from fake_ray import FakeDirectory, FakeRay, Handler, JsonObject, running, running_handler
from moe_objects import Objects

from moe_contract.model import ModelFacts
from moe_dev.kube import Kubectl
from moe_dev.operator_process import OperatorProcess

pytestmark = [pytest.mark.e2e, pytest.mark.alone]

HEALTHY_SECONDS = 1.0
SCALED_SECONDS = 5.0
TOLD_SECONDS = 30.0
MOST_MEMORY = 350e6
LARGEST_SHARDS = 512
PAUSE = 3.0
"""Between two scalings of the other tenant, and two looks at it."""


def applications(size: int) -> bytes:
    """Serve's answer, valid, of about so many bytes."""
    one = {"status": "RUNNING", "source": "declarative", "deployed_app_config": {"import_path": "a:b", "args": {}}}
    text = json.dumps(one)
    count = size // (len(text) + 12)
    body = ",".join(f'"a{number:06}":{text}' for number in range(count))
    return f'{{"controller_info":{{"actor_id":"c"}},"applications":{{{body}}}}}'.encode()


def heavy(size: int) -> bytes:
    """Within the bound of bytes, and twenty times that once it is read."""
    return b'{"applications":{},"more":[' + b"[]," * (size // 3) + b"0]}"


def always(body: bytes, declared: bool = True) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if declared:
            response.content_length = len(body)
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            for begin in range(0, len(body), 1 << 18):
                await response.write(body[begin : begin + (1 << 18)])
        return response

    return answer


@dataclass
class Watcher:
    """Looks at an operator ten times a second, until it is left; what it saw at most."""

    operator: OperatorProcess
    healthz: float = 0.0
    refused: list[str] = field(default_factory=list)
    memory: float = 0.0
    worker: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Watcher":
        self._threads = [threading.Thread(target=self._repeat, args=(look,)) for look in (self._probe, self._weigh)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _repeat(self, look: Callable[[], None]) -> None:
        while not self._stop.wait(0.1):
            look()

    def _probe(self) -> None:
        begun = time.monotonic()
        try:
            with urllib.request.urlopen(f"{self.operator.url}/healthz", timeout=20):
                pass
        except (urllib.error.URLError, OSError) as error:
            self.refused.append(str(error))
        self.healthz = max(self.healthz, time.monotonic() - begun)

    def _weigh(self) -> None:
        main = operator_process(self.operator)
        sizes = []
        for process in [main, *main.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                sizes.append(process.memory_info().rss)
        self.memory, self.worker = max(self.memory, sum(sizes)), max(self.worker, sum(sizes[1:]))


def operator_process(operator: OperatorProcess) -> psutil.Process:
    """The one that listens at its address, and no guard of it."""
    bind = f"--bind={operator.url.removeprefix('http://')}"
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            line = process.cmdline()
            if line[1:3] == ["-m", "moe_operator"] and bind in line:
                return process
    raise LookupError(f"no operator runs with {bind}")


@pytest.fixture
def facts(directory: FakeDirectory) -> ModelFacts:
    return directory.facts


@pytest.fixture
def culprits(facts: ModelFacts) -> Iterator[dict[str, tuple[JsonObject, str]]]:
    """Specs of MoEDeployments by name, and the reason that each must be given."""
    with contextlib.ExitStack() as stack:
        found: dict[str, tuple[JsonObject, str]] = {}
        large, within = applications(56 << 20), heavy(11 << 20)
        answers = {
            "large-0": always(large),
            "large-1": always(large),
            "large-2": always(large, declared=False),
            "large-3": always(large, declared=False),
            "heavy": always(within),
            "many": always(applications(4 << 20)),
            "deep": always(b'{"applications":' * (1 << 19)),
        }
        for name, answer in answers.items():
            url = stack.enter_context(running_handler(answer))
            found[name] = replace(FakeRay(), url=url).spec(), "RayAnswerRefused"
        sizes = {"wide": (200, 1024), "endless": (10**9, 16), "nothing": (0, 16)}
        for name, (layers, experts) in sizes.items():
            reported = facts.model_copy(update={"layers": layers, "experts": experts})
            fake = stack.enter_context(running(FakeRay(report=FakeDirectory(reported))))
            found[name] = fake.spec(), "PlacementTooLarge" if layers == 200 else "DirectoryUnreachable"
        yield found


@pytest.fixture
def largest(facts: ModelFacts) -> Iterator[FakeRay]:
    """A Ray on which the largest deployment that there is will run."""
    with running(FakeRay(report=FakeDirectory(facts.model_copy(update={"layers": 61, "experts": 512})))) as fake:
        yield fake


@pytest.fixture
def other(installed: Kubectl, second_namespace: str) -> Iterator[Objects]:
    made = Objects(installed, second_namespace)
    yield made
    made.let_go()


def lease(kube: Kubectl) -> tuple[str, int]:
    found = kube.get("lease", "moe-operator", "moe-system")
    assert found is not None
    return found["spec"]["holderIdentity"], found["spec"]["leaseTransitions"]


@pytest.mark.long
@pytest.mark.timeout(180)
def test_what_a_few_answer_is_told_and_nobody_else_notices(
    start_operator, objects: Objects, other: Objects, ray: FakeRay, largest: FakeRay, culprits
) -> None:
    stand(start_operator, objects, other, ray, largest, culprits, seconds=40.0)


@pytest.mark.whole
@pytest.mark.timeout(900)
def test_the_same_for_ten_minutes(
    start_operator, objects: Objects, other: Objects, ray: FakeRay, largest: FakeRay, culprits
) -> None:
    stand(start_operator, objects, other, ray, largest, culprits, seconds=600.0)


def stand(
    start_operator: Callable[..., OperatorProcess],
    objects: Objects,
    other: Objects,
    ray: FakeRay,
    largest: FakeRay,
    culprits: dict[str, tuple[JsonObject, str]],
    seconds: float,
) -> None:
    """Have all of them at once for so long."""
    operator = start_operator()
    other.apply("tiny", ray.spec())
    other.wait_ready("tiny")
    held = lease(other.kube)
    scaled: list[float] = []
    with Watcher(operator) as watcher:
        begun = time.monotonic()
        items = [objects.manifest(name, spec) for name, (spec, _) in culprits.items()]
        largest_spec = largest.spec(LARGEST_SHARDS)
        objects.kube.apply(
            {"apiVersion": "v1", "kind": "List", "items": [*items, objects.manifest("largest", largest_spec)]}
        )
        told: dict[str, float] = {}
        while time.monotonic() - begun < seconds:
            told |= {name: time.monotonic() - begun for name in newly_told(objects, culprits, told)}
            late = culprits.keys() - told.keys()
            assert not late or time.monotonic() - begun < TOLD_SECONDS, f"not told of: {late}"
            scaled.append(scale(other, ray, shards=3 - len(scaled) % 2))
            time.sleep(PAUSE)
        objects.wait_ready("largest")
    print(
        f"told of after {max(told.values()):.1f} s at most; /healthz within {watcher.healthz:.2f} s; "
        f"{len(scaled)} scalings written within {max(scaled):.1f} s; memory {watcher.memory / 1e6:.0f} MB, of which "
        f"the worker process {watcher.worker / 1e6:.0f} MB"
    )
    assert objects.status("largest")["shards"] == LARGEST_SHARDS
    assert watcher.refused == []
    assert watcher.healthz <= HEALTHY_SECONDS
    assert max(scaled) <= SCALED_SECONDS
    assert watcher.worker > 0
    assert watcher.memory <= MOST_MEMORY
    assert lease(other.kube) == held


def newly_told(objects: Objects, culprits: dict[str, tuple[JsonObject, str]], told: dict[str, float]) -> Iterator[str]:
    """Those that have got a condition, which must be the right one."""
    for moe in objects.all():
        name = moe["metadata"]["name"]
        if name in culprits and name not in told:
            given = {c["reason"]: c["message"] for c in moe.get("status", {}).get("conditions", [])}
            if culprits[name][1] in given:
                yield name


def scale(other: Objects, ray: FakeRay, shards: int) -> float:
    """Seconds from a scale to its PUT, the time of ``kubectl`` included."""
    before, begun = len(ray.puts), time.monotonic()
    other.scale("tiny", shards)
    while len(ray.puts) == before:
        assert time.monotonic() - begun < 30.0, f"the scale to {shards} shards was not written within 30 s"
        time.sleep(0.02)
    return time.monotonic() - begun
