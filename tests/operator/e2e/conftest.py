"""What the operator's end-to-end tests share."""

from collections.abc import Iterator

import pytest
from fake_ray import FakeDirectory, FakeRay, running
from kube_rest import fresh_namespace
from moe_objects import Objects

from moe_contract.model import ModelFacts
from moe_dev.kube import Kubectl
from moe_dev.raylocal import LocalRay


@pytest.fixture
def objects(installed: Kubectl, namespace: str) -> Iterator[Objects]:
    made = Objects(installed, namespace)
    yield made
    made.let_go()


@pytest.fixture
def second_namespace(kube: Kubectl) -> Iterator[str]:
    with fresh_namespace(kube.kubeconfig) as name:
        yield name


@pytest.fixture
def directory() -> FakeDirectory:
    return FakeDirectory(
        ModelFacts(
            digest="sha256:1",
            architecture="Mixtral",
            layers=6,
            experts=16,
            top_k=2,
            bytes_per_expert=393216,
            dtype="float32",
            max_context=1024,
        )
    )


@pytest.fixture
def ray(directory: FakeDirectory) -> Iterator[FakeRay]:
    """A fake Ray on which somebody else's application runs too."""
    with running(FakeRay(report=directory, deleting_reads=2)) as fake:
        fake.configs["shop"] = fake.shop
        yield fake


@pytest.fixture
def on_ray(objects: Objects, ray_cluster: LocalRay) -> Iterator[Objects]:
    """Objects of a namespace that has Ray's token; what the test leaves on Ray is removed by the operator."""
    objects.ray_token("ray-token", ray_cluster.token, ray_cluster.dashboard_url)
    yield objects
    for name in objects.names():
        objects.patch(name, '{"spec": {"suspend": false, "deletionPolicy": "Delete"}}')
        objects.delete(name)
        objects.wait_gone(name, 180)
