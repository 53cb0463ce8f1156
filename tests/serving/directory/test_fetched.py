"""How much of a model's files is there, summed over what waits for them."""

import pytest

from moe_contract.report import Fetched
from moe_serving.directory.reporting import sum_fetched


@pytest.mark.parametrize(
    ("told", "sums"),
    [
        ([], None),
        ([("a", None), ("b", None)], None),
        ([("a", (1, 4)), ("b", None)], Fetched(done=1, total=4)),
        ([("a", (1, 4)), ("a", (3, 4)), ("a", None), ("b", (2, 10))], Fetched(done=5, total=14)),
    ],
)
def test_processes_of_a_node_count_once(told: list[tuple[str, tuple[int, int] | None]], sums: Fetched | None) -> None:
    assert sum_fetched(told) == sums
