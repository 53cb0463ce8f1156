"""What the chart's tests share."""

import pytest

from moe_dev.controlplane import ControlPlane
from moe_dev.helm import Helm


@pytest.fixture(scope="session")
def helm(controlplane: ControlPlane) -> Helm:
    """helm as administrator of the session's control plane."""
    return Helm(controlplane.kubeconfig)
