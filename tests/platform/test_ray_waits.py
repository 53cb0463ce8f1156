"""A Ray that gave up waiting for its own node is started again, once, and nothing else is."""

import pytest

from moe_dev.processes import ProcessError
from moe_dev.raylocal import LocalRay

GAVE_UP = "ray ended with 1; the end of ray.log:\nRuntimeError: Timed out waiting for node info for node_id=993e."


@pytest.mark.parametrize(
    ("failures", "started"),
    [([], 1), ([GAVE_UP], 2), ([GAVE_UP, GAVE_UP], 2), (["ray ended with 1; no space left on device"], 1)],
)
def test_it_is_started_again_once(monkeypatch: pytest.MonkeyPatch, failures: list[str], started: int) -> None:
    begun: list[LocalRay] = []
    left = list(failures)

    def up(ray: LocalRay) -> None:
        begun.append(ray)
        if left:
            raise ProcessError(left.pop(0))

    monkeypatch.setattr(LocalRay, "up", up)
    if len(failures) == started:
        with pytest.raises(ProcessError, match="ray ended with 1"):
            LocalRay.start()
    else:
        LocalRay.start().stop()
    assert len(begun) == started
    assert not any(ray.directory.exists() for ray in begun)
