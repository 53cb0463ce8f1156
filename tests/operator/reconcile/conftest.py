"""What the tests of reconcile share."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from bench import Bench
from data_plane import DataPlane, deployment
from fake_ray import FakeRay

from moe_operator.runtimes.http.client import HttpClient
from moe_operator.runtimes.ray_cluster.serve_rest import cluster


@pytest.fixture
def plane() -> DataPlane:
    return DataPlane(deployment())


@pytest.fixture
def make_plane():
    def make(**experts: Any) -> DataPlane:
        return DataPlane(deployment(**experts))

    return make


@pytest.fixture
async def bench(http: HttpClient, fake_ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    for name in ("FRESH_SECONDS", "ABSENT_SECONDS", "GATHER_SECONDS"):
        monkeypatch.setattr(cluster, name, 0.0)
    yield Bench(http, fake_ray)
