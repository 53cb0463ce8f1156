"""Events on a real API server."""

import logging

import pytest

from moe_dev.controlplane import ControlPlane
from moe_dev.kube import Kubectl
from moe_operator.api import MoEDeployment, Reason
from moe_operator.kube.client import KubeClient
from moe_operator.kube.events import MAX_NOTE, EventNote, EventRecorder

pytestmark = pytest.mark.e2e

UNREACHABLE = EventNote("Warning", Reason.RAY_UNREACHABLE, "nothing answers at http://127.0.0.1:1")


async def test_the_same_told_again_is_counted(
    client: KubeClient, owner: MoEDeployment, kube: Kubectl, namespace: str
) -> None:
    for instance in ("operator-1", "operator-1", "operator-2"):  # a restarted operator goes on counting
        await EventRecorder(client, instance).record(owner, UNREACHABLE)
    await EventRecorder(client, "operator-2").record(owner, EventNote("Normal", Reason.AVAILABLE, "4 shards answer"))
    line = "{range .items[*]}{.type} {.reason} {.note} {.series.count}{'\\n'}{end}"
    told = kube.run("get", "events.v1.events.k8s.io", "-n", namespace, "-o", f"jsonpath={line}").splitlines()
    assert sorted(told) == [
        "Normal Available 4 shards answer ",
        "Warning RayUnreachable nothing answers at http://127.0.0.1:1 3",
    ]
    assert "nothing answers at" in kube.run("describe", "moe", "tiny", "-n", namespace)


async def test_a_note_longer_than_the_api_takes_is_cut(
    client: KubeClient, owner: MoEDeployment, kube: Kubectl, namespace: str
) -> None:
    await EventRecorder(client, "o").record(owner, EventNote("Warning", Reason.DEPLOY_FAILED, "ü" * MAX_NOTE))
    note = kube.run("get", "events.v1.events.k8s.io", "-n", namespace, "-o", "jsonpath={.items[0].note}")
    assert note == "ü" * (MAX_NOTE // 2)


async def test_an_event_that_cannot_be_written_is_logged_and_harms_nothing(
    controlplane: ControlPlane, owner: MoEDeployment, caplog: pytest.LogCaptureFixture
) -> None:
    async with await KubeClient.connect(controlplane.user("nobody").kubeconfig) as powerless:
        with caplog.at_level(logging.WARNING):
            await EventRecorder(powerless, "o").record(owner, UNREACHABLE)
    assert 'User "nobody" cannot create resource "events"' in caplog.text
