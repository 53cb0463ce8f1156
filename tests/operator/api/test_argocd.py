"""What Argo CD makes of a MoEDeployment by the script that docs/argocd ships: what kstatus makes of it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kstatus import kstatus
from lupa.lua51 import LuaRuntime

from moe_dev.paths import CLONE

SCRIPT = (CLONE / "docs" / "argocd" / "health.lua").read_text()
AGREES = {
    "Current": {"Healthy", "Suspended"},
    "InProgress": {"Progressing"},
    "Terminating": {"Progressing"},
    "Failed": {"Degraded"},
}


def health(moe: dict[str, Any]) -> tuple[str, str]:
    """As Argo CD asks it: ``obj`` is a global, and a table with status and message comes back. Its Lua is 5.1."""
    lua = LuaRuntime(unpack_returned_tuples=True, register_eval=False, register_builtins=False)
    lua.globals()["obj"] = lua.table_from(moe, recursive=True)
    answer = lua.execute(SCRIPT)
    return str(answer["status"]), str(answer["message"])


def deployment(*conditions: tuple[str, str, str], observed: int | None = 3, **metadata: Any) -> dict[str, Any]:
    """``conditions``: type, status and reason of each."""
    told = [{"type": kind, "status": status, "reason": why, "message": why} for kind, status, why in conditions]
    status = {"conditions": told} | ({} if observed is None else {"observedGeneration": observed})
    return {"metadata": {"name": "tiny", "generation": 3, **metadata}, "status": status}


READY = ("Ready", "True", "Available")
CASES: list[tuple[dict[str, Any], str]] = [
    ({"metadata": {"name": "tiny", "generation": 1}}, "Progressing"),
    (deployment(observed=-1), "Progressing"),
    (deployment(READY, observed=2), "Progressing"),
    (deployment(("Ready", "False", "DeployingCore"), ("Reconciling", "True", "DeployingCore")), "Progressing"),
    (deployment(READY, ("Reconciling", "False", "Settled"), ("Stalled", "False", "AsExpected")), "Healthy"),
    (deployment(READY, ("Reconciling", "True", "Scaling")), "Progressing"),
    (deployment(("Ready", "False", "PathNotFound"), ("Stalled", "True", "PathNotFound")), "Degraded"),
    (deployment(READY, ("Stalled", "True", "TooManyShards")), "Degraded"),
    (deployment(("Ready", "True", "Asleep")), "Healthy"),
    (deployment(("Ready", "True", "Suspended")), "Suspended"),
    (deployment(READY, deletionTimestamp="2026-01-02T03:04:05Z"), "Progressing"),
]


@pytest.mark.parametrize(("moe", "expected"), CASES)
def test_health(moe: dict[str, Any], expected: str) -> None:
    status, message = health(moe)
    assert status == expected
    assert message


STATUSES = st.sampled_from(["True", "False", "Unknown"])


@given(
    told=st.dictionaries(st.sampled_from(["Ready", "Reconciling", "Stalled", "Degraded"]), STATUSES),
    observed=st.sampled_from([None, -1, 2, 3]),
    deleting=st.booleans(),
)
def test_it_says_what_kstatus_says(told: dict[str, str], observed: int | None, deleting: bool) -> None:
    if "Ready" not in told:
        told["Ready"] = "Unknown"  # each status that the operator writes has one
    conditions = [(kind, status, "Available") for kind, status in told.items()]
    moe = deployment(*conditions, observed=observed, **({"deletionTimestamp": "now"} if deleting else {}))
    assert health(moe)[0] in AGREES[kstatus(moe)]
