"""The operator's rights are those that it uses, by what the API server wrote down of one whole run; and dashboard and
alerts show something of it."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from audit import Grant, asked, entries, granted
from epochs import epoch_figures
from expressions import is_of_operator, metrics, missing, of_alerts, of_dashboard
from fake_ray import FakeDirectory, FakeRay, running
from kube_ray_objects import IMAGE, install_kube_ray_kinds
from kube_rest import fresh_namespace
from moe_facts import FACTS
from moe_objects import Objects
from placement_objects import content, manifest, moved
from prometheus import Prometheus, Target, scraping
from releases import Release

from moe_contract.report import DirectoryReport
from moe_dev.controlplane import ControlPlane
from moe_dev.helm import Helm
from moe_dev.kube import Kubectl
from moe_operator.telemetry.metrics import Metrics

pytestmark = [pytest.mark.e2e, pytest.mark.long]

CLUSTER = "tiny-abcde"
MODEL = FACTS.model_copy(update={"layers": 6, "experts": 16})
# Of a pod, on this machine, where nothing answers.
NOBODY = "127.0.0.9"
# What Prometheus has no figure of in these lives, and why.
NOT_DRAWN = {"moe_operator_rebalance_decisions_total": "no look at the traffic is due"}
NOT_HELD = {
    "MoECleanupAbandoned": "every Ray could be asked in the end",
    "MoEServeWrittenAgainAndAgain": "nobody undoes what is written",
}


class SecondIsWorse(FakeDirectory):
    """Counts that the second placement does harm."""

    def __call__(self, config: dict) -> DirectoryReport | None:
        report = super().__call__(config)
        if report is None or report.placement is None:
            return report
        counted = [
            epoch_figures(
                revision, revision=revision, fan_out=1.9, node_fan_out=0.9, balance=0.4 if revision == 2 else 0.9
            )
            for revision in range(1, report.revision + 1)
        ]
        self.epochs = tuple(counted[-8:])
        return super().__call__(config)


def live(objects: Objects, ray: FakeRay, digest: str) -> None:
    """A life in which the operator has to do all that it ever does."""
    objects.ray_token("ray", "the-token", ray.url)
    ray.token = "the-token"
    runtime = {"tokenSecretRef": {"name": "ray"}}
    rebalance = {"mode": "Propose", "interval": "10s", "rollback": "Always", "historyLimit": 1}
    objects.apply("tiny", ray.spec(runtime=runtime, rebalance=rebalance))
    objects.wait_active("tiny-r1")
    # Somebody's hand is on the operator's own Secret; the next change of the spec has it looked at.
    objects.kube.run("label", "secret", "tiny-moe-internal", "-n", objects.namespace, "moe-operator.io/component-")
    # A person's placement does harm, and what was before comes back.
    objects.kube.apply(manifest(content(moved(6, 16, 2, 8), 2, 1, digest), namespace=objects.namespace))
    objects.approve("tiny-r2")
    objects.wait("the way back", lambda: objects.phase("tiny-r2") == "RolledBack")
    # What is told again is counted; what is over is pruned.
    for shards in (0, 2, 0, 3, 2):
        objects.scale("tiny", shards)
        if shards:
            objects.wait_settled("tiny", objects.get("tiny")["metadata"]["generation"])
        else:
            objects.wait_condition("tiny", "Ready", "True", "Asleep")
    objects.wait("an Event to be counted", lambda: any(each.get("series") for each in objects.events_of("tiny")))
    objects.wait("the history to be pruned", lambda: not objects.placement("tiny-r1"))
    # A policy asks for more shards than there are.
    policy = {"shards": 2, "autoscaling": {"minShards": 3, "maxShards": 4}}
    objects.apply("bounded", ray.spec(runtime=runtime, experts=policy))
    objects.wait("the policy to scale", lambda: objects.get("bounded")["spec"]["experts"]["shards"] == 3)
    objects.delete("bounded")
    objects.wait_gone("bounded")
    # One whose finalizer somebody took away while its Ray was away is asked for once more before anything is removed.
    ray.token = "another"
    objects.delete("tiny")
    objects.patch("tiny", '{"metadata": {"finalizers": null}}')
    objects.wait_gone("tiny")
    ray.token = "the-token"
    objects.wait("its applications to be removed", lambda: ray.runs(objects.namespace) == [])


def live_on_kube_ray(objects: Objects) -> Iterator[None]:
    """One on pods of its own, where nobody runs KubeRay's operator: what that writes is written here."""
    kube, namespace = objects.kube, objects.namespace

    def patch(kind: str, name: str, patch: dict, *more: str) -> None:
        kube.run("patch", kind, name, "-n", namespace, "--type=merge", "-p", json.dumps(patch), *more)

    def spec(kind: str, name: str) -> dict:
        return (kube.get(kind, name, namespace) or {}).get("spec", {})

    runtime = {"kubeRay": {"image": IMAGE, "expertWorkers": {"spares": 1}}}
    model = {"source": {"path": "models/tiny"}}
    objects.apply("tiny", {"model": model, "experts": {"shards": 2}, "runtime": runtime})
    objects.wait("the RayService", lambda: bool(spec("rayservice", "tiny")))
    # Somebody's hand is on all children.
    drift = {
        ("service", "tiny-moe-api"): {"selector": {"app": "other"}},
        ("pdb", "tiny-moe-experts"): {"minAvailable": 0},
        ("networkpolicy", "tiny-moe-api"): {"ingress": []},
        ("rayservice", "tiny"): {"excludeHeadPodFromServeSvc": False},
    }
    for (kind, name), changed in drift.items():
        before = spec(kind, name)
        patch(kind, name, {"spec": changed})
        objects.wait(f"{kind} {name} to be as it was", lambda was=(kind, name, before): spec(*was[:2]) == was[2])
    # What led to an activator that is there no more.
    owner = (kube.get("service", "tiny-moe-api", namespace) or {})["metadata"]
    kube.apply({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "tiny-moe-activation",
            "namespace": namespace,
            "labels": owner["labels"] | {"endpointslice.kubernetes.io/managed-by": "moe-operator"},
            "ownerReferences": owner["ownerReferences"],
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.0.0.7"]}],
        "ports": [{"name": "http", "port": 8000, "protocol": "TCP"}],
    })  # fmt: skip

    def led_to() -> list:
        return (kube.get("endpointslice", "tiny-moe-activation", namespace) or {})["endpoints"] or []

    objects.wait("what led to an activator to be emptied", lambda: not led_to())
    # The cluster is there, and its autoscaler keeps no spare pod yet.
    made = kube.get("rayservice", "tiny", namespace) or {}
    cluster = made["spec"]["rayClusterConfig"]
    cluster["workerGroupSpecs"][1]["minReplicas"] = 0
    metadata = {"name": CLUSTER, "namespace": namespace, "labels": made["metadata"]["labels"]}
    kube.apply({"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": metadata, "spec": cluster})
    active = {"status": {"activeServiceStatus": {"rayClusterName": CLUSTER}}}
    patch("rayservice", "tiny", active, "--subresource=status")
    # Its head is on a node that is removed, and nobody is there to end it.
    node = f"node-{namespace}"
    kube.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}})
    labels = {**made["metadata"]["labels"], "moe-operator.io/component": "ray-head", "ray.io/cluster": CLUSTER}
    head = {"nodeName": node, "containers": [{"name": "ray-head", "image": IMAGE}]}
    about = {"name": "head", "namespace": namespace, "labels": labels}
    kube.apply({"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": head})
    address = {"phase": "Running", "podIP": NOBODY, "podIPs": [{"ip": NOBODY}]}
    patch("pod", "head", {"status": address}, "--subresource=status")
    kube.run("delete", "node", node)
    objects.wait("the head to be removed", lambda: not kube.get("pod", "head", namespace))

    def kept() -> int:
        return spec("raycluster", CLUSTER)["workerGroupSpecs"][1].get("minReplicas", 0)

    objects.wait("the bound of spare pods", lambda: kept() == 3)
    yield
    objects.delete("tiny")
    objects.wait_gone("tiny")
    assert not kube.get("rayservice", "tiny", namespace)


@dataclass(frozen=True, slots=True)
class Lived:
    """What is left of both lives: the API server's log of them, what the operator might have done, its metrics, a
    Prometheus that scraped them from the start and found nobody in the end, and what an alert said meanwhile."""

    log: list[dict]
    rights: set[Grant]
    told: str
    prometheus: Prometheus
    warning: str


@pytest.fixture(scope="module")
def rule() -> dict[str, Any]:
    """The chart's PrometheusRule."""
    objects = Helm().template(monitoring={"prometheusRule": {"enabled": True}})
    (found,) = (each for each in objects if each["kind"] == "PrometheusRule")
    return found


@pytest.fixture(scope="module")
def lived(
    controlplane: ControlPlane,
    helm: Helm,
    installed: Kubectl,
    rule: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Lived]:
    install_kube_ray_kinds(installed)
    ray, folder = FakeRay(report=SecondIsWorse(MODEL), deleting_reads=2), tmp_path_factory.mktemp("lived")
    with running(ray), fresh_namespace(installed.kubeconfig) as namespace, ExitStack() as stack:
        release = Release(helm, installed, namespace)
        release.install(crds={"enabled": False}, userRoles={"create": False})
        operator = release.start_operator(folder)
        objects = Objects(installed, namespace)
        try:
            scraped = Target(f"{operator.url}/metrics", {"namespace": namespace, "pod": "operator"})
            prometheus = stack.enter_context(scraping(folder / "prometheus", [scraped], rule["spec"]))
            live(objects, ray, MODEL.digest)
            for _ in live_on_kube_ray(objects):
                # Nobody works the RayService, and the operator says so while there is one; it tells of its conditions.
                warning = prometheus.wait_pending("MoEDeploymentDegraded")["summary"]
                told = objects.metrics(operator)
            rights = granted([*release.rules("ClusterRole"), *release.rules("Role")])
        finally:
            operator.stop()
            release.uninstall("--no-hooks")
        yield Lived(entries(controlplane, operator.user), rights, told, prometheus, warning)


def test_every_right_is_used_and_none_is_missing(lived: Lived) -> None:
    refused = [(entry["verb"], entry["requestURI"]) for entry in lived.log if entry["responseStatus"]["code"] == 403]
    assert refused == []
    assert {asked(entry) for entry in lived.log} == lived.rights


def test_prometheus_draws_every_panel_of_the_operator(lived: Lived) -> None:
    drawn = {each: lived.prometheus.drawn(each) for each in of_dashboard() if is_of_operator(each)}
    assert {metric for each, series in drawn.items() if not series for metric in metrics(each)} == NOT_DRAWN.keys()
    (rollbacks,) = (series for each, series in drawn.items() if "rollbacks" in each)
    assert {each.labels["origin"] for each in rollbacks if max(each.figures) > 0} == {"Person"}


def test_prometheus_evaluates_every_alert_and_one_that_holds_is_pending(lived: Lived, rule: dict[str, Any]) -> None:
    lived.prometheus.wait_pending("MoEOperatorWithoutLeader")
    rules = lived.prometheus.rules()
    assert len(rules) == len(of_alerts(rule))
    assert [each for each in rules if each["health"] != "ok"] == []
    held = {each["name"] for each in rules if lived.prometheus.drawn(each["query"])}
    assert held == {each["name"] for each in rules} - NOT_HELD.keys()
    assert lived.warning == "1 MoEDeployments are degraded for the reason KubeRayMissing."


def test_dashboard_and_alerts_ask_the_operator_for_what_it_tells(lived: Lived, rule: dict[str, Any]) -> None:
    # No look at the traffic is due in these lives.
    looked = Metrics()
    looked.rebalance_decided("Accepted", "GainPays")
    told = lived.told + looked.exposition().decode()
    assert missing([*of_dashboard(), *of_alerts(rule)], told, of_operator=True) == []
    wrong = ["sum by (colour) (moe_operator_leader)", "moe_operator_follower"]
    said = ["moe_operator_follower is not there", "moe_operator_leader has no label colour"]
    assert missing(wrong, told, of_operator=True) == said
