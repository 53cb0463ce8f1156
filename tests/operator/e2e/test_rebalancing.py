"""The loop on real parts: API server, operator, Ray Serve, data plane, and traffic that wants its experts elsewhere."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from moe_objects import Objects
from placement_objects import manifest
from ray_clients import CHANGE, START, Streams, client, reference, report, spec, tokens

from moe_dev.paths import CLONE
from moe_dev.raylocal import LocalRay
from moe_placement.encoding import decode_counts

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

ENOUGH = 1500
"""Tokens that are counted before a placement is left: figures are compared from a thousand."""
CODE, PROSE = CLONE / "operator" / "moe_operator" / "kube" / "store.py", CLONE / "docs" / "architecture.md"
EXPERTS = {"slotsPerShard": 8}
EVERY = {"interval": "10s", "cooldown": "10s", "horizon": "24h", "minGainPercent": 1}


class Traffic:
    """Long prompts, one after the other, of which each is hundreds of rows; ``text`` may be another one at any time."""

    def __init__(self, objects: Objects, text: str) -> None:
        self.text = text
        self._stop, self._failed = threading.Event(), False
        self._client = threading.Thread(target=self._ask, args=(objects,))

    def __enter__(self) -> "Traffic":
        self._client.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._stop.set()
        self._client.join()
        assert not self._failed, "a request of the traffic failed: its traceback is above"

    def _ask(self, objects: Objects) -> None:
        self._failed = True
        begin = 0
        with client(objects, "tiny") as api:
            while not self._stop.is_set():
                text = self.text
                begin = (begin + 700) % max(1, len(text) - 1500)
                api.completions.create(model="tiny", prompt=text[begin : begin + 1400], max_tokens=2, temperature=0)
        self._failed = False


def verified(objects: Objects, revision: int) -> dict[str, Any]:
    conditions = objects.placement(f"tiny-r{revision}")["status"]["conditions"]
    return next(each for each in conditions if each["type"] == "Verified")


def wait_counted(objects: Objects, revision: int) -> None:
    """Until enough was counted of what runs for it to be compared with."""

    def enough() -> bool:
        figures = report(objects, "tiny").figures
        return bool(figures and figures.revision == revision and figures.rows >= ENOUGH)

    objects.wait(f"{ENOUGH} tokens of revision {revision}", enough, 240)


def wait_phase(objects: Objects, revision: int, *phases: str, timeout: float = CHANGE) -> None:
    objects.wait(f"revision {revision} to be {phases}", lambda: objects.phase(f"tiny-r{revision}") in phases, timeout)


def lopsided(objects: Objects, revision: int, base: int) -> dict[str, Any]:
    """An ExpertPlacement that does harm: the experts that are asked for most are all on shard 0."""
    content = objects.placement(f"tiny-r{base}")["spec"]["content"]
    load = report(objects, "tiny").traffic.load
    assert load is not None
    ranked = np.argsort(-decode_counts(load, len(content["layers"]), content["experts"]), axis=1)
    fields = {"revision": revision, "baseRevision": base, "layers": [" ".join(map(str, layer)) for layer in ranked]}
    return manifest(content | fields, namespace=objects.namespace)


@contextmanager
def served(objects: Objects, ray: LocalRay, **rebalance: Any) -> Iterator[tuple[Traffic, str]]:
    """The small model on two shards under traffic, while two streams see to it that each of their answers is right."""
    wanted = spec(ray, "models/tiny", model={"dtype": "float32"}, experts=EXPERTS, rebalance={**EVERY, **rebalance})
    objects.apply("tiny", wanted)
    right = reference()
    objects.wait_ready("tiny", START)
    with Traffic(objects, CODE.read_text()) as traffic, Streams(objects, "tiny", 2, right):
        objects.wait_active("tiny-r1", CHANGE)
        yield traffic, right
    assert tokens(objects, "tiny") == right


@pytest.mark.long
def test_what_does_harm_is_taken_back_by_measurement_though_the_operator_dies(
    start_operator, on_ray: Objects, ray_cluster: LocalRay
) -> None:
    operator = start_operator()
    # 1.5 MB an expert: half of all go to the other shard, which takes seconds.
    limits = {"mode": "Propose", "rollback": "Always", "maxBytesPerSecond": "8Mi", "cooldown": "30m"}
    # A thousand tokens have to come within three intervals, or nothing is compared and it stays.
    limits |= {"interval": "40s"}
    with served(on_ray, ray_cluster, **limits):
        wait_counted(on_ray, 1)
        on_ray.kube.apply(lopsided(on_ray, 2, 1))
        on_ray.approve("tiny-r2")
        on_ray.wait("the directory to be told", lambda: report(on_ray, "tiny").revision == 2, CHANGE)
        operator.kill()
        start_operator()
        wait_phase(on_ray, 2, "Verifying", "RolledBack", timeout=START)
        wait_phase(on_ray, 2, "RolledBack", timeout=240)
        on_ray.wait_active("tiny-r3", CHANGE)
    first, back = on_ray.placement("tiny-r1"), on_ray.placement("tiny-r3")
    assert back["spec"]["content"]["layers"] == first["spec"]["content"]["layers"]
    assert (back["spec"]["content"]["baseRevision"], back["status"]["origin"]) == (2, "Operator")
    harm = on_ray.placement("tiny-r2")["status"]
    assert float(harm["measured"]["balance"]) < float(harm["before"]["balance"]) - 0.05
    assert verified(on_ray, 2)["reason"] == "GainMissing"
    assert all(harm[part]["latency"][0]["medianMicroseconds"] > 0 for part in ("before", "measured"))
    (event,) = on_ray.events("RolledBack")
    assert (event["regarding"]["kind"], event["regarding"]["name"]) == ("MoEDeployment", "tiny")
    assert event["note"].startswith("tiny-r2: ")
    print(event["note"])


def told(objects: Objects, revision: int) -> dict[str, Any]:
    """What a placement's status says of its figures, shown as well."""
    status: dict[str, Any] = objects.placement(f"tiny-r{revision}")["status"]
    print(f"tiny-r{revision}:", json.dumps({name: status.get(name) for name in ("predicted", "before", "measured")}))
    return status


@pytest.mark.whole
def test_a_person_approves_a_proposal_and_then_the_operator_follows_a_shift_by_itself(
    start_operator, on_ray: Objects, ray_cluster: LocalRay
) -> None:
    start_operator()

    def set_rebalance(**fields: str) -> None:
        on_ray.patch("tiny", json.dumps({"spec": {"rebalance": fields}}))

    with served(on_ray, ray_cluster, mode="Propose") as (traffic, _):
        on_ray.wait("a proposal", lambda: bool(on_ray.placement("tiny-r2").get("status", {}).get("predicted")), 240)
        set_rebalance(cooldown="1h")  # lest another one takes its place while it is decided on
        proposed = on_ray.placement("tiny-r2")
        assert (proposed["spec"]["decision"], proposed["status"]["origin"]) == ("Pending", "Operator")
        assert proposed["status"]["price"]["moves"] > 0
        assert on_ray.status("tiny")["placement"]["revision"] == 1
        latest = max(number for number in range(2, 6) if on_ray.placement(f"tiny-r{number}"))
        on_ray.approve(f"tiny-r{latest}")
        wait_phase(on_ray, latest, "Active", timeout=240)
        assert told(on_ray, latest)["approvedBy"] == "Person"
        assert verified(on_ray, latest)["status"] == "True"

        traffic.text = PROSE.read_text()
        set_rebalance(mode="Auto", cooldown="10s")

        def followed() -> bool:
            revision = on_ray.status("tiny")["placement"]["revision"]
            return revision > latest and on_ray.phase(f"tiny-r{revision}") == "Active"

        on_ray.wait("a placement for the other text", followed, 400)
        revision = on_ray.status("tiny")["placement"]["revision"]
        by_itself = told(on_ray, revision)
        assert (by_itself["origin"], by_itself["approvedBy"]) == ("Operator", "Operator")
        assert verified(on_ray, revision)["status"] == "True"
