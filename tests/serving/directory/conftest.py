"""A directory at rest, for every test of what it does next."""

import pytest
from scene import EXPERTS, LAYERS, Scene

from moe_placement import balanced_placement
from moe_serving.directory.leases import LEASE_SECONDS


@pytest.fixture
async def scene() -> Scene:
    """Two shards that hold two experts of each layer, in use; the directory's start is long ago."""
    scene = Scene(shards=3)
    await scene.directory.inspect_model()
    scene.place(balanced_placement(LAYERS, EXPERTS, [2, 2, 0], 1))
    scene.now += LEASE_SECONDS
    await scene.turns(4)
    assert scene.directory.report().progress.settled
    return scene
