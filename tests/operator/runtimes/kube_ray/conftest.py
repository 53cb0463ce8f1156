"""KubeRay's kinds on the session's API server, and the operator's client there."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from kube_ray_objects import install_kube_ray_kinds

from moe_dev.kube import Kubectl
from moe_dev.operator_process import service_account
from moe_operator.kube.client import KubeClient


@pytest.fixture(scope="package")
def kinds(installed: Kubectl) -> Kubectl:
    install_kube_ray_kinds(installed)
    return installed


@pytest.fixture
async def client(kinds: Kubectl, tmp_path: Path) -> AsyncIterator[KubeClient]:
    access = kinds.service_account_kubeconfig(*service_account(), tmp_path / "kubeconfig")
    async with await KubeClient.connect(access) as client:
        yield client
