"""What is found on Ray of objects that are gone; whole passes over it are in ``reconcile/test_left_behind``."""

import pytest

from moe_contract.serve.state import Application, ServeState
from moe_operator.runtimes.ray_cluster.names import owner_of
from moe_operator.runtimes.ray_cluster.orphans import Orphans


def test_a_ray_that_gives_the_controller_id_of_another_hides_nothing_of_it() -> None:
    orphans = Orphans()
    gone = Application("moe.team.gone.0123abcd", "RUNNING", config={"name": "moe.team.gone.0123abcd"})
    for url in ("http://ray:8265", "http://ray.team:8265"):
        orphans.note(url, ServeState("controller-1", applications={gone.name: gone}))
    orphans.note("http://liar:8265", ServeState("controller-1"))
    assert orphans.count(lambda key: ()) == 1


@pytest.mark.parametrize(
    "name", ["moe.team\n.tiny.0123abcd", "moe.team.\x1b[2J.0123abcd", f"moe.{'n' * 64}.tiny.0123abcd"]
)
def test_names_that_no_object_can_have_are_nobodys(name: str) -> None:
    assert owner_of(name) is None
