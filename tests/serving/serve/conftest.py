"""One data plane for the tests that only use it; tests that break something wait until it is whole again."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from openai import OpenAI
from plane import Plane

from moe_dev.raylocal import LocalRay


@pytest.fixture(scope="session")
def plane(ray_cluster: LocalRay, tiny: Path) -> Iterator[Plane]:
    """Two shards with two copies of every expert, two api and two attention replicas, unix sockets."""
    plane = Plane(ray_cluster, "serving", tiny, copies=2, apis=2, attention=2)
    plane.scale(2)
    plane.wait(lambda report: sum(replica.ready for replica in report.attention) == 2, "two attention replicas")
    plane.wait_ready()
    yield plane
    plane.remove()


@pytest.fixture
def another_plane(ray_cluster: LocalRay) -> Iterator[Callable[..., Plane]]:
    """Makes planes of the test's own; takes the arguments of ``Plane`` but the first."""
    made: list[Plane] = []

    def make(*args: object, **kwargs: object) -> Plane:
        made.append(Plane(ray_cluster, *args, **kwargs))
        return made[-1]

    yield make
    for plane in made:
        plane.remove()


@pytest.fixture
def openai(plane: Plane) -> Iterator[OpenAI]:
    """The official client, which tries nothing twice."""
    with OpenAI(base_url=f"{plane.url}/v1", api_key=plane.api_key, max_retries=0, timeout=180) as client:
        yield client
