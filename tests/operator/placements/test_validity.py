"""Whether a placement may be migrated to, as it is told."""

from dataclasses import replace
from typing import Any

import pytest
from placement_objects import small

from moe_operator.api import PlacementReason
from moe_operator.placements.validity import Ground, Outlook, judge

GROUND = Ground(digest="sha256:0", layers=2, experts=4, shards=2, slots_per_shard=3, min_copies=1, revision=1)


def test_what_fits() -> None:
    judgement = judge(small(), GROUND)
    assert (judgement.outlook, judgement.reason) == (Outlook.FITS, PlacementReason.FITS)
    assert judgement.placement is not None
    assert judgement.placement.shard_slots == (3, 3)


UNFIT = [
    # what differs in the content, what in the deployment, what is told: field, value and cure
    ({"layers": ["0 1 - 2 2 0", "3 2 1 0 - -"]}, {}, Outlook.NEVER, "ExpertMissing", ["layer 0: expert 3", "write it"]),
    ({"layers": ["9 1 - 2 3 0", "3 2 1 0 - -"]}, {}, Outlook.NEVER, "InvalidEntry", ["[0], slot 0", "'9'", "0 to 3"]),
    # What costs nothing to see is told first.
    ({"layers": ["9 1 - 2 3 0", "3 2 1 0 - -"]}, {"revision": 3}, Outlook.NEVER, "StaleBase", ["baseRevision is 1"]),
    ({}, {"revision": 3}, Outlook.NEVER, "StaleBase", ["baseRevision is 1, but revision 3", "baseRevision 3"]),
    ({}, {"revision": 2}, Outlook.NEVER, "StaleBase", ["baseRevision is 1, but revision 2"]),
    ({"revision": 9, "baseRevision": 5}, {}, Outlook.WAITS, "BaseNotReached", ["baseRevision is 5", "waits for"]),
    ({"modelDigest": "sha256:1"}, {}, Outlook.UNFIT, "OtherModel", ["modelDigest is sha256:1", "has sha256:0"]),
    ({}, {"experts": 5}, Outlook.UNFIT, "OtherModel", ["spec.content.experts is 4", "has 5"]),
    ({}, {"layers": 3}, Outlook.UNFIT, "OtherModel", ["spec.content.layers are 2", "has 3"]),
    ({}, {"shards": 1}, Outlook.UNFIT, "OtherShape", ["shards is 2", "runs shard 0:", "for 1, or scale"]),
    ({}, {"shards": 3}, Outlook.UNFIT, "OtherShape", ["shards is 2", "runs shards 0 to 2", "for 3, or scale"]),
    ({}, {"slots_per_shard": 4}, Outlook.UNFIT, "OtherShape", ["slotsPerShard is 3", "4 slots per layer", "write one"]),
    ({}, {"min_copies": 2}, Outlook.UNFIT, "TooFewCopies", ["layers[0]: expert 1 is on 1 shards", "min of", "is 2 (7"]),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "ground", "outlook", "reason", "said"), UNFIT)
def test_what_is_in_the_way(
    fields: dict[str, Any], ground: dict[str, Any], outlook: Outlook, reason: str, said: list[str]
) -> None:
    judgement = judge(small(**fields), replace(GROUND, **ground))
    assert (judgement.outlook, judgement.reason) == (outlook, reason)
    assert [part for part in said if part not in judgement.message] == []
    assert judgement.placement is None


def test_copies_of_one_shard_count_once() -> None:
    twice = small(layers=["0 0 1 1 2 3", "0 0 1 1 2 3"])
    judgement = judge(twice, replace(GROUND, min_copies=2))
    assert "expert 0 is on 1 shards" in judgement.message


def test_while_nothing_runs_only_what_is_wrong_in_itself_is_told() -> None:
    assert judge(small(), None).reason is PlacementReason.NOT_JUDGED
    assert judge(small(), None).outlook is Outlook.WAITS
    assert judge(small(layers=["0 1 2 - - -"]), None).reason is PlacementReason.EXPERT_MISSING


def test_the_first_placement_may_be_written_by_hand() -> None:
    first = small(revision=1, baseRevision=0)
    assert judge(first, replace(GROUND, revision=0)).outlook is Outlook.FITS
