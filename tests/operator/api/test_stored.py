"""What a real API server stores and shows: defaults, columns, the first status."""

import pytest
from applied import ABSENT, know_the_model, manifest, patch_status
from kstatus import kstatus

from moe_dev.kube import Kubectl

pytestmark = pytest.mark.e2e


def test_defaults_are_stored(installed: Kubectl, namespace: str) -> None:
    installed.apply(manifest(experts=ABSENT), namespace=namespace)
    stored = installed.get("moe", "tiny", namespace)
    assert stored is not None
    as_ever = {"weights": "Checkpoint", "wire": "Model"}
    assert stored["spec"]["experts"] == {"shards": 1, "copies": {"min": 1}} | as_ever
    assert stored["spec"]["api"] == {"minReplicas": 2, "maxReplicas": 4, "targetOngoingRequests": 64}
    limits = {"maxBatchTokens": 512, "kvCacheTokens": 65536}
    attention = {"minReplicas": 1, "maxReplicas": 1, "targetOngoingRequests": 8, "limits": limits}
    assert stored["spec"]["attention"] == attention
    assert stored["spec"]["serving"]["queue"] == {"maxRequests": 12, "maxTokens": 262144}
    assert (stored["spec"]["model"]["dtype"], stored["spec"]["suspend"]) == ("auto", False)
    assert stored["spec"]["deletionPolicy"] == "Delete"
    rebalance = {"mode": "Off", "interval": "5m", "minGainPercent": 3, "historyLimit": 10, "rollback": "Auto"}
    assert stored["spec"]["rebalance"] == rebalance | {"windows": [], "linkBytesPerSecond": "1250M"}


def test_columns_and_categories(installed: Kubectl, namespace: str) -> None:
    installed.apply(manifest(), namespace=namespace)
    know_the_model(installed, namespace, slots=8)
    ready = {"type": "Ready", "status": "True", "reason": "Available", "message": "", "observedGeneration": 1}
    patch_status(
        installed,
        namespace,
        readyShards=4,
        url="http://h/v1",
        placement={"revision": 1, "epoch": 1, "balance": "0.96"},
        conditions=[ready | {"lastTransitionTime": "2026-01-02T03:04:05Z"}],
    )
    head, row = installed.run("get", "moe", "--namespace", namespace, "-o", "wide").splitlines()
    always = ["NAME", "MODEL", "SHARDS", "READY-SHARDS", "BALANCE", "READY", "REASON"]
    assert head.split() == [*always, "URL", "TOKENS/S", "COST/M-TOKENS", "CURRENCY", "AGE"]
    assert row.split()[:-1] == ["tiny", "Mixtral", "4", "4", "0.96", "True", "Available", "http://h/v1"]
    installed.run("wait", "--for=condition=Ready", "moe/tiny", "--namespace", namespace, "--timeout=5s")
    for category in ("all", "moe-operator"):
        assert "moedeployment.moe-operator.io/tiny" in installed.run("get", category, "-n", namespace, "-o", "name")


def test_right_after_apply_kstatus_sees_that_nobody_has_looked_yet(installed: Kubectl, namespace: str) -> None:
    """By the default of the status, which is filled in although nobody may write there at creation."""
    installed.apply(manifest(), namespace=namespace)
    stored = installed.get("moe", "tiny", namespace)
    assert stored is not None
    assert stored["status"] == {"observedGeneration": -1}
    assert kstatus(stored) == "InProgress"
    patch_status(installed, namespace, observedGeneration=1)
    stored = installed.get("moe", "tiny", namespace)
    assert stored is not None
    assert (stored["status"], kstatus(stored)) == ({"observedGeneration": 1}, "Current")
