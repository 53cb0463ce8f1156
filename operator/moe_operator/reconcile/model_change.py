"""Whether what runs may give way to the model that the spec names now. Pure.

Shards of two models must never answer one request, so everything goes before anything new comes. The directory that
runs looks at the new model first: a mistake in a path takes nothing down.
"""

from __future__ import annotations

from dataclasses import dataclass

from moe_operator.api.reasons import Reason
from moe_operator.finding import Finding
from moe_operator.reconcile.placing import impossible, lacks_memory, slots_per_shard
from moe_operator.reconcile.world import World

SERVING_GRACE_SECONDS = 30.0
"""How long a directory may be away before it counts as gone: tokens flow without it."""


@dataclass(frozen=True, slots=True)
class ModelChange:
    """A change of the model that waits.

    Attributes:
        problem: why it cannot be made; None while the directory looks at the new model.
    """

    problem: Finding | None = None


def waiting_change(world: World) -> ModelChange | None:
    """What a change of the model waits for; None where it may be made, and everything that runs may go."""
    if not (world.report or believed_to_serve(world)):
        return None
    unknown = world.model.withheld(world.contract)
    if unknown:  # the directory that runs would look at another model than is asked for
        why = f"what runs is of an older release, which does not know {', '.join(unknown)} of the model"
        return ModelChange(Finding(Reason.OLDER_RELEASE, f"{why}: install this release on Ray's nodes, and restart it"))
    candidate = world.candidate
    if candidate is None or not (candidate.model or candidate.model_problem):
        return ModelChange()
    if candidate.model_problem:
        return ModelChange(Finding.of(candidate.model_problem))
    if candidate.model:
        slots = slots_per_shard(world, candidate.model)
        problem = impossible(world.moe, candidate.model, slots) or lacks_memory(world, candidate.model, slots)
        return ModelChange(problem) if problem else None
    return ModelChange()


def believed_to_serve(world: World) -> bool:
    """Whether a directory that does not report now is to be taken for one that is away for a moment."""
    runs = not world.runtime.is_known or world.core is not None
    return world.moe.status.serves and runs and world.report_failing_seconds < SERVING_GRACE_SECONDS
