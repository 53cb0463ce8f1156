"""Tables for the step from Update to Apply."""

from typing import Any

import pytest

from moe_operator.kube.managed_fields import upgraded

ME = "moe-operator"


def entry(manager: str, operation: str, fields: dict[str, Any], subresource: str = "") -> dict[str, Any]:
    return {
        "manager": manager,
        "operation": operation,
        "fieldsV1": fields,
        **({"subresource": subresource} if subresource else {}),
    }


A: dict[str, Any] = {"f:data": {"f:a": {}}}
B: dict[str, Any] = {"f:data": {"f:b": {}}, "f:type": {}}
A_AND_B: dict[str, Any] = {"f:data": {"f:a": {}, "f:b": {}}, "f:type": {}}

TABLE: list[tuple[list[dict[str, Any]], list[dict[str, Any]] | None]] = [
    ([], None),
    ([entry("kubectl", "Update", A)], None),
    ([entry(ME, "Apply", A)], None),
    ([entry(ME, "Update", A, "status")], None),
    ([entry(ME, "Update", A)], [entry(ME, "Apply", A)]),
    ([entry(ME, "Update", A), entry(ME, "Apply", B)], [entry(ME, "Apply", A_AND_B)]),
    (
        [entry(ME, "Update", A), entry("kubectl", "Update", B), entry(ME, "Update", B, "status")],
        [entry("kubectl", "Update", B), entry(ME, "Update", B, "status"), entry(ME, "Apply", A)],
    ),
]


@pytest.mark.parametrize(("before", "after"), TABLE)
def test_upgraded(before: list[dict[str, Any]], after: list[dict[str, Any]] | None) -> None:
    assert upgraded(before, ME) == after
    if after is not None:
        assert upgraded(after, ME) is None
