"""Who else writes the number of shards."""

import pytest

from moe_operator.api.deployment import FieldOwner
from moe_operator.api.status import AutoscalingDecision, AutoscalingStatus
from moe_operator.autoscale.ownership import NOBODY_NAMED, foreign, is_ours


def owner(manager: str, subresource: str = "") -> FieldOwner:
    return FieldOwner(manager=manager, subresource=subresource)


OURS = owner("moe-operator-autoscaler", "scale")
HPA = owner("kube-controller-manager", "scale")
FOUND = AutoscalingStatus(shards=2)
DECISION = AutoscalingDecision(
    time="2026-03-02T12:00:00Z", from_shards=2, to_shards=4, reason="UtilizationAboveTarget", message=""
)
DECIDED = FOUND.model_copy(update={"decisions": (DECISION,)})
SLEPT = AutoscalingStatus(shards=0, decisions=(DECISION,))
WROTE = AutoscalingStatus(shards=4, wrote=True, decisions=(DECISION,))
TABLE = [
    # owners, shards, what was told before, who is in the way
    ((HPA,), 2, None, None),
    ((OURS,), 4, WROTE, None),
    ((OURS, owner("kubectl")), 4, WROTE, None),  # one applies the same number
    ((owner("moe-operator-sleep", "scale"),), 0, WROTE, None),
    ((owner("moe-activator", "scale"),), 4, WROTE, None),
    ((owner("kubectl", "scale"),), 0, WROTE, None),  # asleep
    # Whoever wakes it says where the policy begins; who writes after that is in its way.
    ((owner("kubectl", "scale"),), 3, SLEPT, None),
    ((HPA,), 4, SLEPT, None),
    ((owner("kubectl", "scale"),), 5, SLEPT.model_copy(update={"shards": 3}), "kubectl"),
    # Whoever made the object, or scaled it before, is where the policy begins.
    ((owner("kubectl-client-side-apply"),), 2, FOUND, None),
    ((owner("kubectl-client-side-apply"),), 3, FOUND, None),
    ((owner("kubectl", "scale"),), 2, FOUND, None),
    ((owner("kubectl", "scale"),), 3, FOUND, "kubectl"),
    ((HPA,), 3, FOUND, "kube-controller-manager (a HorizontalPodAutoscaler)"),
    # Once it was ours, whoever writes it takes it away, whatever the number.
    ((HPA,), 5, WROTE, "kube-controller-manager (a HorizontalPodAutoscaler)"),
    ((HPA,), 4, WROTE, "kube-controller-manager (a HorizontalPodAutoscaler)"),
    ((owner("argocd-controller"),), 2, WROTE, "argocd-controller"),
    ((owner("keda", "scale"),), 1, WROTE, "keda"),
    # Where nobody ever named the number, the API server notes nobody who scales.
    ((), 2, FOUND, None),
    ((), 3, FOUND, NOBODY_NAMED),
    ((), 4, DECIDED, None),
    ((), 2, DECIDED, None),
    ((), 3, DECIDED, NOBODY_NAMED),
]


@pytest.mark.parametrize(("owners", "shards", "before", "who"), TABLE)
def test_who_is_in_the_way(
    owners: tuple[FieldOwner, ...], shards: int, before: AutoscalingStatus | None, who: str | None
) -> None:
    assert foreign(owners, shards, before) == who


def test_words() -> None:
    assert is_ours((HPA, OURS))
    assert not is_ours((HPA,))
    said = foreign((owner("a\nb" + "c" * 1000),), 3, WROTE)
    assert said and "\n" not in said and len(said) < 200
