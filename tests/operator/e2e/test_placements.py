"""ExpertPlacements through a real API server and operator process; the data plane is a fake that is there at once."""

import json
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from epochs import epoch_figures
from fake_ray import FakeDirectory, FakeRay, told_placement
from gathered_traffic import EXPERTS, LAYERS, Gathered, domains
from moe_objects import Objects
from placement_objects import content, manifest, moved

from moe_contract.report import DirectoryReport
from moe_dev.kube import KubectlError
from moe_placement import Placement

pytestmark = pytest.mark.e2e

OTHER = moved(6, 16, 2, 8)


def runs(ray: FakeRay, namespace: str) -> tuple[int, Placement]:
    """What the directory was told last."""
    core = next(config for name, config in ray.configs.items() if config["route_prefix"] == f"/{namespace}/tiny")
    return told_placement(core)


def by_hand(objects: Objects, revision: int, base: int, digest: str, **fields: Any) -> dict[str, Any]:
    return manifest(content(OTHER, revision, base, digest) | fields, namespace=objects.namespace)


def test_written_by_hand_migrated_to_outlived_and_pruned(
    operator, objects: Objects, ray: FakeRay, directory: FakeDirectory
) -> None:
    objects.apply("tiny", ray.spec(rebalance={"historyLimit": 1}))
    objects.wait_active("tiny-r1")
    first = objects.placement("tiny-r1")
    assert (first["spec"]["decision"], first["status"]["origin"]) == ("Approved", "Operator")

    objects.kube.apply(by_hand(objects, 2, 1, directory.facts.digest))
    objects.wait("the price", lambda: "price" in objects.placement("tiny-r2").get("status", {}))
    assert (objects.phase("tiny-r2"), runs(ray, objects.namespace)[0]) == ("Proposed", 1)
    objects.approve("tiny-r2")
    objects.wait_active("tiny-r2")
    assert runs(ray, objects.namespace) == (2, OTHER)
    second = objects.placement("tiny-r2")
    assert second["status"]["price"] == {"moves": 96, "bytes": 96 * directory.facts.bytes_per_expert}
    assert [owner["kind"] for owner in second["metadata"]["ownerReferences"]] == ["MoEDeployment"]
    objects.wait("an Event", lambda: "InForce" in {each["reason"] for each in objects.events_of("tiny-r2")})
    shown = objects.kube.run("get", "xp", "-n", objects.namespace).splitlines()
    assert shown[2].split()[:5] == ["tiny-r2", "tiny", "2", "Active", "Approved"]

    # Nobody's hand changes what runs but a decision's.
    objects.kube.run("delete", "xp", "tiny-r2", "-n", objects.namespace)
    objects.wait_active("tiny-r2")
    assert objects.placement("tiny-r2")["spec"] == second["spec"]
    assert runs(ray, objects.namespace) == (2, OTHER)

    # What comes too late is refused.
    objects.kube.apply(by_hand(objects, 9, 1, directory.facts.digest))
    objects.wait("it to fail", lambda: objects.phase("tiny-r9") == "Failed")
    for shards in (3, 4, 3):
        objects.scale("tiny", shards)
        objects.wait_settled("tiny", objects.get("tiny")["metadata"]["generation"])

    def by_operator() -> list[Any]:
        return [each for each in objects.placements() if each.get("status", {}).get("origin") == "Operator"]

    # One is deleted after the other.
    objects.wait("the history to be pruned", lambda: not objects.placement("tiny-r1") and len(by_operator()) <= 4)
    assert "tiny-r9" in [each["metadata"]["name"] for each in objects.placements()]


def flow(ray: FakeRay, stop: threading.Event) -> None:
    """Statistics of traffic that comes, told anew each second, which fade as where they are looked at each ten."""
    # Twice as many in a window as are needed to compare: on a busy machine they come late.
    gathered, tokens = Gathered(half_life=20.0), domains(120_000)[0]
    for ids in np.array_split(tokens, 600):
        gathered.answer(ids, seconds=1.0)
        ray.statistics = bytes(gathered.told())
        if stop.wait(1.0):
            return


@dataclass
class Judging(FakeDirectory):
    """Counts that every placement but the first does harm."""

    first: str | None = None
    balances: dict[int, float] = field(default_factory=dict)

    def __call__(self, config: dict[str, Any]) -> DirectoryReport | None:
        report = super().__call__(config)
        if report is None or report.placement is None:
            return report
        self.first = self.first or report.placement
        self.balances[report.revision] = 0.9 if report.placement == self.first else 0.4
        self.epochs = tuple(
            epoch_figures(revision, revision=revision, fan_out=1.9, node_fan_out=0.9, balance=balance)
            for revision, balance in sorted(self.balances.items())[-8:]
        )
        return super().__call__(config)


def rolled_back(objects: Objects) -> list[int]:
    over = [each for each in objects.placements() if each.get("status", {}).get("phase") == "RolledBack"]
    return [each["spec"]["content"]["revision"] for each in over]


@pytest.mark.timeout(900)
def test_the_operator_proposes_and_approves_by_itself_and_takes_back_what_did_harm(
    operator, objects: Objects, ray: FakeRay, directory: FakeDirectory
) -> None:
    """Traffic and figures are made up; looks, plans in a process of their own, decisions and who made them are real."""
    facts = directory.facts.model_copy(update={"layers": LAYERS, "experts": EXPERTS})
    ray.report = Judging(facts, nodes=("a", "a", "b", "b"))
    stop = threading.Event()
    traffic = threading.Thread(target=flow, args=(ray, stop))
    traffic.start()
    try:
        rebalance = {"mode": "Propose", "interval": "10s", "cooldown": "10s", "horizon": "24h"}
        objects.apply("tiny", ray.spec(experts={"shards": 4, "slotsPerShard": 5}, rebalance=rebalance))
        objects.wait_active("tiny-r1")
        first = runs(ray, objects.namespace)[1]
        # Where no kernels are kept, they are compiled before the first plan.
        objects.wait("a proposal", lambda: objects.placement("tiny-r2").get("status", {}).get("origin"), 480)
        proposed = objects.placement("tiny-r2")
        assert (proposed["spec"]["decision"], proposed["status"]["origin"]) == ("Pending", "Operator")
        assert proposed["status"]["price"]["moves"] > 0
        objects.wait("that to be told", lambda: bool(objects.events("Proposed")))
        assert (runs(ray, objects.namespace)[0], objects.condition("tiny", "RebalancePaused")["status"]) == (1, "False")

        objects.patch("tiny", json.dumps({"spec": {"rebalance": {"mode": "Auto"}}}))
        objects.wait("it to be taken back", lambda: bool(rolled_back(objects)), 240)
    finally:
        stop.set()
        traffic.join()
    (harm,) = rolled_back(objects)
    revision, placement = runs(ray, objects.namespace)
    assert (revision > harm, placement == first) == (True, True)
    objects.wait_active(f"tiny-r{revision}")
    assert objects.placement(f"tiny-r{harm}")["status"]["approvedBy"] == "Operator"
    (event,) = objects.events("RolledBack")
    assert (event["regarding"]["kind"], event["type"]) == ("MoEDeployment", "Warning")
    assert objects.metric(operator, 'moe_operator_rebalance_rollbacks_total{origin="Operator"}') == 1.0


def test_an_editor_writes_and_an_administrator_decides(operator, objects: Objects, ray: FakeRay, directory) -> None:
    objects.apply("tiny", ray.spec())
    objects.wait_active("tiny-r1")
    for user, role in (("jane", "edit"), ("joe", "admin")):
        name = f"--clusterrole={role}"
        objects.kube.run("create", "rolebinding", role, name, f"--user={user}", "-n", objects.namespace)
    body = by_hand(objects, 2, 1, directory.facts.digest)
    decide = ["patch", "xp", "tiny-r2", "-n", objects.namespace, "--type=merge", "-p"]
    approved = json.dumps({"spec": {"decision": "Approved"}})
    deadline = time.monotonic() + 30
    while True:  # roles are aggregated, and bindings seen, a moment later
        try:
            objects.kube.run("create", "--as=jane", "-f", "-", text=json.dumps(body))
            break
        except KubectlError as error:
            assert "forbidden" in str(error)
            assert time.monotonic() < deadline, "waited 30 s for the right to write a placement"
            time.sleep(0.5)
    with pytest.raises(KubectlError, match="cannot patch resource"):
        objects.kube.run(*decide, approved, "--as=jane")
    with pytest.raises(KubectlError, match='resource "expertplacements/status"'):
        objects.kube.run(*decide, '{"status": {"origin": "Operator"}}', "--as=joe", "--subresource=status")
    objects.kube.run(*decide, approved, "--as=joe")
    objects.wait_active("tiny-r2")
    assert runs(ray, objects.namespace) == (2, OTHER)
