"""APIs that are reached from outside: what the chart makes leads to what the operator makes, and a real API server with
the kinds of the Gateway API takes it."""

from typing import Any

import pytest
from foreign_kinds import install_kinds, taken
from kube_ray_objects import kube_ray_deployment

from moe_dev.binaries import GATEWAY_API_MANIFESTS, binary
from moe_dev.helm import Helm, HelmError
from moe_dev.kube import Kubectl
from moe_operator.api.names import API_PORT, api_service_name
from moe_operator.runtimes.kube_ray.manifests.service import build_service

pytestmark = pytest.mark.e2e

TINY = {"name": "tiny", "namespace": "team", "host": "models.example.org", "tlsSecretName": "models-tls"}
BIG = {"name": "big", "namespace": "team-b", "host": "*.example.org", "routePrefix": "/big/"}
OWN_GATEWAY = {"create": True, "className": "envoy", "tlsSecretName": "gateway-tls"}
SECONDS = 1200


@pytest.fixture(scope="module")
def offline() -> Helm:
    return Helm()


@pytest.fixture(scope="module")
def gateways(kube: Kubectl) -> Kubectl:
    """The kinds of the Gateway API on the session's API server."""
    names = (f"gateway.networking.k8s.io_{plural}.yaml" for plural in ("gateways", "httproutes"))
    install_kinds(kube, binary(GATEWAY_API_MANIFESTS) / "crd" / "standard", *names)
    return kube


def made(helm: Helm, **exposed: Any) -> list[dict[str, Any]]:
    found = helm.template(exposed={"deployments": [TINY, BIG], **exposed})
    return [each for each in found if each["kind"] in ("Ingress", "HTTPRoute", "Gateway")]


def test_nothing_is_exposed_that_nobody_named(offline: Helm) -> None:
    assert made(offline) == []


def test_an_ingress_ends_tls_and_keeps_streams(offline: Helm, kube: Kubectl, namespace: str) -> None:
    tiny, big = made(offline, ingress={"enabled": True, "className": "nginx"})
    assert [(each["metadata"]["namespace"], each["spec"].get("tls")) for each in (tiny, big)] == [
        ("team", [{"hosts": ["models.example.org"], "secretName": "models-tls"}]),
        ("team-b", None),
    ]
    moe = kube_ray_deployment()
    service = build_service(moe, None)
    (path,) = tiny["spec"]["rules"][0]["http"]["paths"]
    assert path["path"] == f"{moe.route_prefix}/v1"
    assert path["backend"]["service"] == {
        "name": service["metadata"]["name"],
        "port": {"name": service["spec"]["ports"][0]["name"]},
    }
    assert big["spec"]["rules"][0]["http"]["paths"][0]["path"] == "/big/v1"
    annotations = tiny["metadata"]["annotations"]
    assert annotations["nginx.ingress.kubernetes.io/proxy-buffering"] == "off"
    assert annotations["nginx.ingress.kubernetes.io/proxy-read-timeout"] == str(SECONDS)
    assert taken(kube, namespace, [tiny, big]) == 2


def test_own_annotations_stand_above_the_charts(offline: Helm) -> None:
    mine = {"nginx.ingress.kubernetes.io/proxy-read-timeout": "60", "team": "a"}
    tiny, _ = made(offline, ingress={"enabled": True, "annotations": mine})
    assert mine.items() <= tiny["metadata"]["annotations"].items()
    assert tiny["metadata"]["annotations"]["nginx.ingress.kubernetes.io/proxy-buffering"] == "off"


def test_a_route_of_the_releases_own_gateway(offline: Helm, gateways: Kubectl, namespace: str) -> None:
    gateway, tiny, big = made(offline, streamSeconds=60, httpRoute={"enabled": True, "gateway": OWN_GATEWAY})
    (listener,) = gateway["spec"]["listeners"]
    assert listener["tls"] == {"mode": "Terminate", "certificateRefs": [{"name": "gateway-tls"}]}
    (chosen,) = listener["allowedRoutes"]["namespaces"]["selector"]["matchExpressions"]
    assert chosen["values"] == ["team", "team-b"]
    (rule,) = tiny["spec"]["rules"]
    assert tiny["spec"]["parentRefs"] == [{"name": "moe-operator", "namespace": "moe-system", "sectionName": "https"}]
    assert rule["backendRefs"] == [{"name": api_service_name("tiny"), "port": API_PORT}]
    assert rule["timeouts"] == {"request": "60s", "backendRequest": "60s"}
    assert rule["matches"] == [{"path": {"type": "PathPrefix", "value": "/team/tiny/v1"}}]
    assert taken(gateways, namespace, [gateway, tiny, big]) == 3


def test_a_route_of_a_gateway_that_is_there(offline: Helm, gateways: Kubectl, namespace: str) -> None:
    parent = {"name": "public", "namespace": "gateways", "sectionName": "https"}
    tiny, big = made(offline, httpRoute={"enabled": True, "parentRefs": [parent]})
    assert tiny["spec"]["parentRefs"] == big["spec"]["parentRefs"] == [parent]
    assert taken(gateways, namespace, [tiny, big]) == 2


BAD: list[tuple[dict[str, Any], str]] = [
    ({"deployments": [], "ingress": {"enabled": True}}, "exposed.deployments is empty"),
    ({"deployments": [{"name": "tiny", "namespace": "team"}]}, "host"),
    ({"deployments": [{**TINY, "host": "https://models.example.org"}]}, "host"),
    ({"deployments": [{**TINY, "routePrefix": "tiny"}]}, "routePrefix"),
    ({"deployments": [{**TINY, "port": 80}]}, "port"),
    ({"streamSeconds": "20m"}, "streamSeconds"),
    ({"ingress": {"enabled": True, "annotations": {"a": 1}}}, "annotations"),
    ({"httpRoute": {"enabled": True}}, "exposed.httpRoute.parentRefs is empty"),
    ({"httpRoute": {"enabled": True, "parentRefs": [{"namespace": "gateways"}]}}, "name"),
    ({"httpRoute": {"enabled": True, "gateway": {"create": True}}}, "gateway needs className"),
    (
        {"httpRoute": {"enabled": True, "parentRefs": [{"name": "public"}], "gateway": OWN_GATEWAY}},
        "exclude each other",
    ),
]


@pytest.mark.parametrize(("exposed", "says"), BAD)
def test_what_cannot_be_is_named(offline: Helm, exposed: dict[str, Any], says: str) -> None:
    with pytest.raises(HelmError, match=says):
        made(offline, **exposed)
