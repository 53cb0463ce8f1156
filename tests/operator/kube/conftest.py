"""The operator's client with its own rights on the session's API server, and an owner for children."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from moe_dev.kube import Kubectl
from moe_dev.operator_process import service_account
from moe_operator.api import MoEDeployment
from moe_operator.kube.client import KubeClient
from moe_operator.kube.resources import MOE_DEPLOYMENTS

OWNER = """
apiVersion: moe-operator.io/v1alpha1
kind: MoEDeployment
metadata: {name: NAME}
spec:
  model: {source: {path: models/tiny}}
  runtime: {rayCluster: {dashboardURL: "http://127.0.0.1:1", serveURL: "http://127.0.0.1:2"}}
"""


@pytest.fixture(scope="session")
def operator_kubeconfig(installed: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installed.service_account_kubeconfig(*service_account(), tmp_path_factory.mktemp("rights") / "kubeconfig")


@pytest.fixture
async def client(operator_kubeconfig: Path) -> AsyncIterator[KubeClient]:
    async with await KubeClient.connect(operator_kubeconfig) as client:
        yield client


@pytest.fixture
async def owner(installed: Kubectl, namespace: str, client: KubeClient) -> MoEDeployment:
    return await make_owner(installed, namespace, client, "tiny")


@pytest.fixture
async def other_owner(installed: Kubectl, namespace: str, client: KubeClient) -> MoEDeployment:
    return await make_owner(installed, namespace, client, "other")


async def make_owner(kube: Kubectl, namespace: str, client: KubeClient, name: str) -> MoEDeployment:
    kube.apply(OWNER.replace("NAME", name), namespace=namespace)
    return MoEDeployment.parse(await client.get(MOE_DEPLOYMENTS, namespace, name))
