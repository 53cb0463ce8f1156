"""What the chart takes as values, and what it says of those it does not take."""

import argparse
import json
from typing import Any

import pytest
import yaml
from expressions import DASHBOARD
from kube_ray_objects import kube_ray_deployment

from moe_dev import manifests
from moe_dev.helm import CHART, Helm, HelmError
from moe_dev.paths import CLONE
from moe_operator.activator.main import LED_PAST_SECONDS, arguments
from moe_operator.activator.service import HOLD_SECONDS
from moe_operator.chart.trial import DELETION_SECONDS
from moe_operator.process.options import add_run_options, read_run_options
from moe_operator.runtimes.kube_ray.manifests.network import ACTIVATOR, OPERATOR
from moe_operator.runtimes.kube_ray.manifests.service import build_service

# Runs helm, which the fast tests do without.
pytestmark = pytest.mark.e2e

# `helm test` without --timeout, and what a node may take to start a pod.
HELM_TEST_SECONDS = 300
START_SECONDS = 30
DAYTIME = {"nodeSelector": {"disk": "ssd"}, "tolerations": [{"key": "gpu", "operator": "Exists"}]}
GOOD: list[dict[str, Any]] = [
    {},
    {"namespaces": ["team-a", "team-b"], "crds": {"enabled": False}},
    {"image": {"repository": "registry.example:5000/ai/moe-operator", "digest": f"sha256:{'0a' * 32}"}},
    {"operator": {"allowedRayAddresses": ["*.ray.svc", "10.0.0.0/8", "[fd00::1]:8265", "ray-head:8265", "fd00::1"]}},
    {"operator": {"kubeRayNamespaces": ["kuberay-system", "default"]}},
    {"operator": {"bindAddress": "::", "port": 9090, "logFormat": "human", "logLevel": "DEBUG"}},
    {"networkPolicy": {"egress": {"enabled": True}, "metricsFrom": [{"namespaceSelector": {}}]}},
    {"monitoring": {"podMonitor": {"enabled": True, "labels": {"release": "prometheus"}}}},
    {"monitoring": {"serviceMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}}},
    {"resources": {"limits": {"cpu": 1, "memory": "2Gi"}}, "extraLabels": {"team": "ml"}, **DAYTIME},
    {"serviceAccount": {"create": False, "name": "mine"}, "userRoles": {"create": False}, "replicas": 1},
    {"test": {"spec": {"model": {"source": {"path": "/models/tiny"}}}}, "uninstall": {"refuseWhileInUse": False}},
    {"activator": {"enabled": True}},
    {"activator": {"enabled": True}, "namespaces": ["team-a"], "crds": {"enabled": False}},
    {"global": {"anything": "of a parent chart"}},
]
# The values, and the words of the error that lead to what is wrong.
BAD: list[tuple[dict[str, Any], str]] = [
    ({"replica": 2}, "replica"),
    ({"operator": {"worker": 3}}, "worker"),
    ({"replicas": -1}, "replicas"),
    ({"replicas": "two"}, "replicas"),
    ({"image": {"tag": "no tag"}}, "tag"),
    ({"image": {"digest": "sha256:12"}}, "digest"),
    ({"image": {"repository": "https://registry.example/moe"}}, "repository"),
    ({"image": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
    ({"namespaces": "team-a", "crds": {"enabled": False}}, "namespaces"),
    ({"namespaces": ["Team_A"], "crds": {"enabled": False}}, "namespaces"),
    ({"namespaces": ["a", "a"], "crds": {"enabled": False}}, "namespaces"),
    ({"namespaces": ["team-a"]}, "crds.enabled must be false where namespaces are named"),
    ({"operator": {"allowedRayAddresses": ["http://ray:8265"]}}, "allowedRayAddresses"),
    ({"operator": {"allowedRayAddresses": ["ray head"]}}, "allowedRayAddresses"),
    ({"operator": {"kubeRayNamespaces": ["Ray"]}}, "kubeRayNamespaces"),
    ({"activator": {"replicas": -1}}, "replicas"),
    ({"activator": {"enable": True}}, "enable"),
    ({"activator": {"clients": ["10.0.0.0/8"]}}, "clients"),
    ({"operator": {"port": 80}}, "port"),
    ({"operator": {"bindAddress": "localhost:80"}}, "bindAddress"),
    ({"operator": {"workers": 0}}, "workers"),
    ({"operator": {"resyncSeconds": "5m"}}, "resyncSeconds"),
    ({"operator": {"logLevel": "TRACE"}}, "logLevel"),
    ({"resources": {"limits": {"memory": "much"}}}, "memory"),
    ({"extraLabels": {"app.kubernetes.io/name": "mine"}}, "extraLabels"),
    ({"extraLabels": {"team": 3}}, "team"),
    ({"networkPolicy": {"metricsFrom": ["prometheus"]}}, "metricsFrom"),
    ({"networkPolicy": {"egress": {"enabled": True, "apiServerPorts": []}}}, "apiServerPorts"),
    ({"podDisruptionBudget": {"maxUnavailable": "many"}}, "maxUnavailable"),
    ({"serviceAccount": {"create": False}}, "serviceAccount.name must be set"),
    ({"monitoring": {"serviceMonitor": {"enabled": True}, "podMonitor": {"enabled": True}}}, "exclude each other"),
    ({"monitoring": {"deployments": {"names": [{"name": "tiny"}]}}}, "namespace"),
    ({"monitoring": {"podMonitor": {"interval": "often"}}}, "interval"),
    ({"test": {"timeoutSeconds": 0}}, "timeoutSeconds"),
    ({"test": {"spec": {"serving": {"apiKeysSecretRef": {"name": "keys"}}}}}, "apiKeysSecretRef"),
]


@pytest.fixture(scope="module")
def offline() -> Helm:
    return Helm()


def deployments(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By component."""
    found = [each for each in objects if each["kind"] == "Deployment"]
    return {each["spec"]["selector"]["matchLabels"]["app.kubernetes.io/component"]: each for each in found}


def test_the_chart_passes_the_strict_linter(offline: Helm) -> None:
    said = offline.run("lint", "--strict", str(CHART))
    assert "1 chart(s) linted, 0 chart(s) failed" in said


def test_what_is_installed_without_helm_is_what_the_chart_says() -> None:
    for name, text in manifests.rendered().items():
        assert (manifests.MANIFESTS / name).read_text() == text, "run `make manifests`"


@pytest.mark.parametrize("values", GOOD)
def test_what_it_takes_is_a_command_line_that_the_operator_takes(offline: Helm, values: dict[str, Any]) -> None:
    objects = offline.template(**values)
    deployment = deployments(objects)["operator"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    parser = argparse.ArgumentParser()
    add_run_options(parser)
    command, *options = container["args"]
    read = read_run_options(parser.parse_args(options))
    assert command == "run"
    assert read.lease_name == "moe-operator"
    assert read.lease_namespace == "moe-system"
    wanted = values.get("operator", {})
    assert [pattern.text for pattern in read.addresses.patterns] == wanted.get("allowedRayAddresses", [])
    assert read.whereabouts.kube_ray == tuple(wanted.get("kubeRayNamespaces", ()))
    assert read.namespaces == tuple(values.get("namespaces", ()))
    assert read.bind == (wanted.get("bindAddress", "0.0.0.0"), wanted.get("port", 8080))
    assert read.log_level == wanted.get("logLevel", "INFO")
    named = [(each["metadata"]["namespace"], each["metadata"]["name"]) for each in objects if each["kind"] == "Service"]
    service = (read.activator.namespace, read.activator.name) if read.activator else None
    assert service in named if values.get("activator") else service is None


def test_the_activator_takes_its_command_line_and_is_known_to_policies(offline: Helm) -> None:
    objects = offline.template(activator={"enabled": True}, namespaces=["a", "b"], crds={"enabled": False})
    deployment = deployments(objects)["activator"]
    pod = deployment["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert container["command"] == ["moe-activator"]
    read = arguments().parse_args(container["args"])
    assert (read.listen, read.bind, read.namespace) == (("0.0.0.0", 8000), ("0.0.0.0", 8081), ["a", "b"])
    assert ACTIVATOR["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert pod["spec"]["terminationGracePeriodSeconds"] >= LED_PAST_SECONDS + HOLD_SECONDS


def test_heads_on_kube_ray_know_the_operator_by_whatever_name(offline: Helm) -> None:
    objects = offline.template(nameOverride="mine", podLabels={"team": "a"})
    (deployment,) = (each for each in objects if each["kind"] == "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert OPERATOR["matchLabels"].items() <= labels.items()


def test_it_is_closed_but_to_whom_the_values_name(offline: Helm) -> None:
    def ingress(**values: Any) -> Any:
        policies = [each for each in offline.template(**values) if each["kind"] == "NetworkPolicy"]
        return [each["spec"].get("ingress") for each in policies]

    prometheus = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    named = [{"from": [prometheus], "ports": [{"protocol": "TCP", "port": 8080}]}]
    assert ingress() == [[]]
    assert ingress(networkPolicy={"metricsFrom": [prometheus]}) == [named]
    assert ingress(networkPolicy={"enabled": False}) == []


def test_every_alert_has_a_runbook(offline: Helm) -> None:
    (rule,) = (
        each
        for each in offline.template(monitoring={"prometheusRule": {"enabled": True}})
        if each["kind"] == "PrometheusRule"
    )
    documents = (CLONE / "docs/operations.md").read_text()
    alerts = [alert for group in rule["spec"]["groups"] for alert in group["rules"]]
    assert len(alerts) == 4
    for alert in alerts:
        assert alert["annotations"]["runbook"].endswith(f"#alert-{alert['alert'].lower()}")
        assert f"#### Alert {alert['alert']}\n" in documents


def test_grafana_finds_the_dashboard(offline: Helm) -> None:
    objects = offline.template(monitoring={"dashboard": {"enabled": True}})
    (made,) = (each for each in objects if each["metadata"]["name"] == "moe-operator-dashboard")
    assert made["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(made["data"]["moe-operator.json"]) == json.loads(DASHBOARD.read_text())


def test_prometheus_is_led_to_the_apis_of_deployments(offline: Helm) -> None:
    names = [{"name": "tiny", "namespace": "team"}, {"name": "big", "namespace": "team", "routePrefix": "/"}]
    objects = offline.template(monitoring={"deployments": {"names": names, "labels": {"release": "prometheus"}}})
    tiny, big = (each for each in objects if each["kind"] == "ServiceMonitor")
    moe = kube_ray_deployment()
    service = build_service(moe, None)
    assert tiny["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,), (other,) = tiny["spec"]["endpoints"], big["spec"]["endpoints"]
    assert (endpoint["path"], other["path"]) == (f"{moe.route_prefix}/metrics", "/metrics")
    assert endpoint["port"] == service["spec"]["ports"][0]["name"]
    assert tiny["metadata"]["namespace"] == "team"
    assert tiny["metadata"]["labels"]["release"] == "prometheus"


def test_prometheus_is_led_to_the_pods_of_the_operator(offline: Helm) -> None:
    for what in ("serviceMonitor", "podMonitor"):
        objects = {each["kind"]: each for each in offline.template(monitoring={what: {"enabled": True}})}
        labels = objects["Deployment"]["spec"]["template"]["metadata"]["labels"]
        ports = [port["name"] for port in objects["Deployment"]["spec"]["template"]["spec"]["containers"][0]["ports"]]
        if what == "podMonitor":
            monitor = objects["PodMonitor"]["spec"]
            assert monitor["selector"]["matchLabels"].items() <= labels.items()
            assert [each["port"] for each in monitor["podMetricsEndpoints"]] == ports
        else:
            service, monitor = objects["Service"], objects["ServiceMonitor"]["spec"]
            assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
            assert service["spec"]["selector"].items() <= labels.items()
            assert [(each["name"], each["targetPort"]) for each in service["spec"]["ports"]] == [("http", ports[0])]
            assert [each["port"] for each in monitor["endpoints"]] == ["http"]


def test_a_trial_is_over_before_helm_gives_up_on_it() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert values["test"]["timeoutSeconds"] + DELETION_SECONDS + START_SECONDS < HELM_TEST_SECONDS


@pytest.mark.parametrize(("values", "says"), BAD)
def test_what_it_does_not_take_is_named(offline: Helm, values: dict[str, Any], says: str) -> None:
    with pytest.raises(HelmError, match=says):
        offline.template(**values)
