"""Who reaches what: the Service of the API, NetworkPolicies."""

from kube_ray_objects import kube_ray_deployment, rendered

from moe_operator.kube.api import Json
from moe_operator.runtimes.kube_ray.manifests.network import Whereabouts, build_policies
from moe_operator.runtimes.kube_ray.manifests.service import build_service, selected_cluster


def test_clients_reach_pods_with_an_api_and_no_others() -> None:
    moe = kube_ray_deployment()
    service = build_service(moe, "tiny-abcde")
    assert service["spec"]["selector"] == {"ray.io/cluster": "tiny-abcde", "ray.io/group": "attention"}
    assert f"http://{service['metadata']['name']}.team.svc:8000/team/tiny/v1" == moe.url_at("/team/tiny")
    assert selected_cluster(service) == "tiny-abcde"
    assert selected_cluster(build_service(moe, None)) is None
    assert rendered()["excludeHeadPodFromServeSvc"] is True


def test_who_may_connect() -> None:
    among, head, api = [each["spec"] for each in build_policies(kube_ray_deployment(), Whereabouts())]
    assert among["ingress"] == [{"from": [{"podSelector": {"matchLabels": {"moe-operator.io/deployment": "tiny"}}}]}]
    assert [[port["port"] for port in rule["ports"]] for rule in head["ingress"]] == [[8265, 8000], [8000]]
    of_kube_ray, of_operator = [rule["from"][0]["podSelector"] for rule in head["ingress"]]
    (named,) = of_kube_ray["matchExpressions"]
    assert (named["operator"], named["values"]) == ("In", ["kuberay", "kuberay-operator"])
    assert of_operator == {"matchLabels": {"moe-operator.io/component": "operator"}}
    assert api["ingress"] == [{"ports": [{"protocol": "TCP", "port": 8000}]}]
    peers = [{"podLabels": {"app": "web"}}, {"namespaceLabels": {}, "podLabels": {}}]
    *_, api = [each["spec"] for each in build_policies(kube_ray_deployment({"apiFrom": peers}), Whereabouts())]
    assert api["ingress"][0]["from"] == [
        {"podSelector": {"matchLabels": {"app": "web"}}},
        {"podSelector": {}, "namespaceSelector": {}},
    ]


def test_heads_are_reached_from_the_namespaces_of_both_operators_alone() -> None:
    def namespaces(whereabouts: Whereabouts) -> list[Json]:
        _, head, _ = build_policies(kube_ray_deployment(), whereabouts)
        return [rule["from"][0]["namespaceSelector"] for rule in head["spec"]["ingress"]]

    def named(*names: str) -> Json:
        label = "kubernetes.io/metadata.name"
        return {"matchExpressions": [{"key": label, "operator": "In", "values": list(names)}]}

    assert namespaces(Whereabouts(("default", "ray"), ("moe-system",))) == [
        named("default", "ray"),
        named("moe-system"),
    ]
    assert namespaces(Whereabouts()) == [{}, {}]
