"""KEDA: the ScaledObject of the documents is one to KEDA's own CRD. What KEDA does with it is in test_hpa.py."""

import json
import re
from typing import Any

import pytest
import yaml
from expressions import missing
from foreign_kinds import install_kinds, taken
from prometheus_client import generate_latest

from moe_dev.binaries import KEDA_MANIFESTS, binary
from moe_dev.kube import Kubectl, KubectlError
from moe_dev.paths import CLONE
from moe_serving.api.metrics import ServingMetrics

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def keda(installed: Kubectl) -> Kubectl:
    """The kind ScaledObject on the session's API server."""
    install_kinds(installed, binary(KEDA_MANIFESTS) / "crd" / "bases", "keda.sh_scaledobjects.yaml")
    return installed


def documented() -> dict[str, Any]:
    blocks = re.findall(
        r"^```yaml\n(.*?)^```$", (CLONE / "docs" / "operations.md").read_text(), re.MULTILINE | re.DOTALL
    )
    (found,) = (yaml.safe_load(block) for block in blocks if "kind: ScaledObject" in block)
    return dict(found)


def test_the_scaled_object_of_the_documents_is_one_of_kedas(keda: Kubectl, namespace: str) -> None:
    assert taken(keda, namespace, [documented()]) == 1
    wrong = documented()
    wrong["spec"]["scaleTargetRef"]["replicas"] = 2
    with pytest.raises(KubectlError, match="unknown field"):
        taken(keda, namespace, [wrong])
    del (lacking := documented())["spec"]["triggers"]
    with pytest.raises(KubectlError, match="triggers"):
        taken(keda, namespace, [lacking])


def test_it_names_a_kind_with_a_scale_and_asks_for_metrics_that_there_are(keda: Kubectl) -> None:
    target = documented()["spec"]["scaleTargetRef"]
    group, _, version = target["apiVersion"].partition("/")
    (crd,) = (
        each
        for each in json.loads(keda.run("get", "crd", "-o", "json"))["items"]
        if (each["spec"]["group"], each["spec"]["names"]["kind"]) == (group, target["kind"])
    )
    (served,) = (each for each in crd["spec"]["versions"] if each["name"] == version)
    assert served["subresources"]["scale"]["specReplicasPath"] == ".spec.experts.shards"
    (trigger,) = documented()["spec"]["triggers"]
    told = generate_latest(ServingMetrics().registry).decode()
    assert missing([trigger["metadata"]["query"]], told, of_operator=False) == []
