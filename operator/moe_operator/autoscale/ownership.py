"""Who else writes the number of shards. Pure.

The API server notes for each field who wrote it last (``metadata.managedFields``), but not who scales an object in
which nobody ever named that number: then a number that is neither the one found nor the one decided on tells the same.
One number has one driver: where somebody else wrote it after the policy did, the policy steps back.
"""

from __future__ import annotations

from collections.abc import Sequence

from moe_operator.api.deployment import FieldOwner
from moe_operator.api.names import ACTIVATOR_FIELD_MANAGER, AUTOSCALER_FIELD_MANAGER, SLEEP_FIELD_MANAGER
from moe_operator.api.status import AutoscalingStatus
from moe_operator.text import on_one_line

OURS = frozenset({AUTOSCALER_FIELD_MANAGER, SLEEP_FIELD_MANAGER, ACTIVATOR_FIELD_MANAGER})
"""Names under which the operator and its activator write the number themselves."""
NOBODY_NAMED = "somebody whom the API server does not name"
_HPA = "kube-controller-manager"
_MOST_NAME = 128


def is_ours(owners: Sequence[FieldOwner]) -> bool:
    """Whether one of ``OURS`` wrote the number that stands."""
    return any(owner.manager in OURS for owner in owners)


def foreign(owners: Sequence[FieldOwner], shards: int, before: AutoscalingStatus | None) -> str | None:
    """Who drives the number in our place, if anybody.

    Args:
        owners: of the number that stands. Of an object that was never written but as a whole it is who made it: that
            number is where the policy begins.
        shards: the number.
        before: what was told of the policy; None before it was first seen. After 0 shards, whoever woke it said where
            the policy begins.
    """
    if before is None or shards == 0 or before.shards == 0 or is_ours(owners):
        return None
    if owners and before.wrote:
        return _told(owners[0])
    if is_expected(shards, before) or (owners and not any(owner.subresource == "scale" for owner in owners)):
        return None
    return _told(owners[0]) if owners else NOBODY_NAMED


def is_expected(shards: int, before: AutoscalingStatus) -> bool:
    """Whether the number is as it was found, or as the policy decided last."""
    return shards == before.shards or bool(before.decisions and shards == before.decisions[0].to_shards)


def _told(owner: FieldOwner) -> str:
    """The owner's name, and what it is where that is known."""
    name = on_one_line(owner.manager)[:_MOST_NAME]
    return f"{name} (a HorizontalPodAutoscaler)" if owner.manager == _HPA else name
