"""What the chart asks of Prometheus' operator: a real API server with the kinds of that operator takes it."""

from typing import Any

import pytest
from foreign_kinds import install_kinds, taken

from moe_dev.binaries import MONITORING_MANIFESTS, binary
from moe_dev.helm import Helm
from moe_dev.kube import Kubectl, KubectlError

pytestmark = pytest.mark.e2e

LABELS = {"release": "prometheus"}
DEPLOYMENTS = [{"name": "tiny", "namespace": "team-a"}, {"name": "big", "namespace": "b", "routePrefix": "/big"}]


@pytest.fixture(scope="module")
def monitors(kube: Kubectl) -> Kubectl:
    """The kinds of Prometheus' operator on the session's API server."""
    names = (f"monitoring.coreos.com_{plural}.yaml" for plural in ("servicemonitors", "podmonitors", "prometheusrules"))
    install_kinds(kube, binary(MONITORING_MANIFESTS), *names)
    return kube


def made(**monitoring: Any) -> list[dict[str, Any]]:
    found = Helm().template(monitoring=monitoring)
    return [each for each in found if each["apiVersion"] == "monitoring.coreos.com/v1"]


@pytest.mark.parametrize("of_operator", ["serviceMonitor", "podMonitor"])
def test_monitors_and_rules_are_of_their_kinds(monitors: Kubectl, namespace: str, of_operator: str) -> None:
    on = {"enabled": True, "labels": LABELS}
    deployments = {"names": DEPLOYMENTS, "interval": "1m30s", "labels": LABELS}
    objects = made(deployments=deployments, prometheusRule=on, **{of_operator: on | {"interval": "5s"}})
    assert len(objects) == 4
    assert all(LABELS.items() <= each["metadata"]["labels"].items() for each in objects)
    assert taken(monitors, namespace, objects) == 4


def test_what_is_none_of_theirs_is_refused(monitors: Kubectl, namespace: str) -> None:
    (pods,) = made(podMonitor={"enabled": True})
    (endpoint,) = pods["spec"]["podMetricsEndpoints"]
    for wrong, says in (({"interval": "often"}, "interval"), ({"paths": "/metrics"}, "unknown field")):
        pods["spec"]["podMetricsEndpoints"] = [endpoint | wrong]
        with pytest.raises(KubectlError, match=says):
            taken(monitors, namespace, [pods])
