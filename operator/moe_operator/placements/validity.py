"""Whether a placement may be migrated to, judged against its deployment as it is. Pure.

What is wrong in itself, or came too late, stays wrong for ever: a content never changes, and revisions only go up. All
else may fit later.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

import numpy as np

from moe_operator.api import PlacementContent, PlacementReason
from moe_operator.api.names import ANNOTATION_DRAIN
from moe_operator.placements.content import read_placement
from moe_operator.placements.errors import InvalidContentError
from moe_placement import Placement


class Outlook(Enum):
    """What a judgement means for the placement."""

    FITS = auto()
    """It may be migrated to now."""
    WAITS = auto()
    """Something that it was written for is not there yet."""
    UNFIT = auto()
    """It does not fit the deployment as it is now."""
    NEVER = auto()
    """It will never fit."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """Attributes:
    reason, message: as condition ``Valid`` tells.
    placement: where it fits.
    """

    outlook: Outlook
    reason: PlacementReason
    message: str
    placement: Placement | None = None


NOT_JUDGED = Judgement(
    Outlook.WAITS,
    PlacementReason.NOT_JUDGED,
    "the MoEDeployment tells nothing now that the content could be judged by (what it runs, of which model), or is "
    "suspended: it is judged once it does",
)


@dataclass(frozen=True, slots=True)
class Ground:
    """What a placement is judged against.

    Attributes:
        digest, layers, experts: of the model that is served.
        shards, slots_per_shard: those that shall run.
        min_copies: that every expert shall have.
        revision: that the directory was told last; 0 before the first.
        drained: shards that shall hold nothing.
    """

    digest: str
    layers: int
    experts: int
    shards: int
    slots_per_shard: int
    min_copies: int
    revision: int
    drained: frozenset[int] = frozenset()


def judge(content: PlacementContent, ground: Ground | None) -> Judgement:
    """The first thing that is in the way of a placement, or that nothing is. ``ground`` is None while it is unknown.

    What costs nothing to see comes first: a content may be large, and is read at each look.
    """
    wrong = (_of_base(content, ground) or _of_model(content, ground) or _of_shape(content, ground)) if ground else None
    if wrong:
        return wrong
    try:
        placement = read_placement(content)
    except InvalidContentError as error:
        return Judgement(Outlook.NEVER, error.reason, str(error))
    if ground is None:
        return NOT_JUDGED
    wrong = _of_copies(placement, ground) or _of_drained(placement, ground)
    if wrong:
        return wrong
    return Judgement(Outlook.FITS, PlacementReason.FITS, "the content can be migrated to", placement)


def _of_base(content: PlacementContent, ground: Ground) -> Judgement | None:
    base, now = content.base_revision, ground.revision
    if base > now:
        waiting = f"spec.content.baseRevision is {base}, and revision {now} is in force: it waits for that revision"
        return Judgement(Outlook.WAITS, PlacementReason.BASE_NOT_REACHED, waiting)
    if base == now:
        return None
    return Judgement(
        Outlook.NEVER,
        PlacementReason.STALE_BASE,
        f"spec.content.baseRevision is {base}, but revision {now} is in force by now: write an ExpertPlacement with "
        f"baseRevision {now} and a higher revision, from the placement that runs",
    )


def _of_model(content: PlacementContent, ground: Ground) -> Judgement | None:
    for field, said, is_ in (
        ("modelDigest", content.model_digest, ground.digest),
        ("experts", content.experts, ground.experts),
        ("layers", len(content.layers), ground.layers),
    ):
        if said != is_:
            many = "are" if field == "layers" else "is"
            message = (
                f"spec.content.{field} {many} {said}, but the model that is served has {is_} "
                f"(status.model of the MoEDeployment): write a placement of its experts"
            )
            return Judgement(Outlook.UNFIT, PlacementReason.OTHER_MODEL, message)
    return None


def _of_shape(content: PlacementContent, ground: Ground) -> Judgement | None:
    if content.shards != ground.shards:
        shards = "shard 0" if ground.shards == 1 else f"shards 0 to {ground.shards - 1}"
        message = (
            f"spec.content.shards is {content.shards}, but the MoEDeployment runs {shards}: write a placement for "
            f"{ground.shards}, or scale it first and write one from the revision that follows"
        )
        return Judgement(Outlook.UNFIT, PlacementReason.OTHER_SHAPE, message)
    if content.slots_per_shard != ground.slots_per_shard:
        message = (
            f"spec.content.slotsPerShard is {content.slots_per_shard}, but shards have {ground.slots_per_shard} slots "
            "per layer (status.slotsPerShard of the MoEDeployment): write one for as many, with - for empty slots"
        )
        return Judgement(Outlook.UNFIT, PlacementReason.OTHER_SHAPE, message)
    return None


def _of_copies(placement: Placement, ground: Ground) -> Judgement | None:
    few = np.argwhere(placement.copies < ground.min_copies)
    if not len(few):
        return None
    layer, expert = map(int, few[0])
    message = (
        f"spec.content.layers[{layer}]: expert {expert} is on {int(placement.copies[layer, expert])} shards, "
        f"spec.experts.copies.min of the MoEDeployment is {ground.min_copies} ({len(few)} such experts in all): put it "
        "on more, each on a shard of its own, or ask for fewer copies"
    )
    return Judgement(Outlook.UNFIT, PlacementReason.TOO_FEW_COPIES, message)


def _of_drained(placement: Placement, ground: Ground) -> Judgement | None:
    shard = next((index for index in sorted(ground.drained) if placement.holdings(index)), None)
    if shard is None:
        return None
    message = (
        f"spec.content places experts on shard {shard}, which is being drained (condition Drained of the "
        f"MoEDeployment): write - into all its slots, or end the drain first ({ANNOTATION_DRAIN})"
    )
    return Judgement(Outlook.UNFIT, PlacementReason.SHARD_DRAINED, message)
