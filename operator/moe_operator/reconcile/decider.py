"""Where an intent is computed: what is quickly done here, what takes long in the worker process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from moe_operator.api import Reason
from moe_operator.autoscale.decision import Foreseen
from moe_operator.finding import Finding
from moe_operator.offload.aside import Aside
from moe_operator.offload.errors import JobTooHeavyError
from moe_operator.offload.process import Bounds, WorkerProcess
from moe_operator.recent import Recent
from moe_operator.reconcile.foresight import foresee
from moe_operator.reconcile.intent import Intent, Step, next_intent
from moe_operator.reconcile.world import World
from moe_placement.encoding import unpacks_to_more

FEW_COPIES = 2048
"""So many copies, over all layers, are placed within a tenth of a second, on a busy machine too."""
SHORT_TEXT = 16384
"""Characters of placements and configurations that are read here; more are read in the worker process."""
SHORT_PLACEMENT = 65536
"""Bytes that a placement unpacks to, two per slot: with so many it is computed within a tenth of a second."""
DECIDING = Bounds(processor_seconds=20.0, seconds=26.0)
"""Bounds on computing an intent: 61 x 512 experts are placed on 512 shards within 3 s. They are below the bound of a
pass, which would be cut off without saying that this was too much."""
FORESEEING = Bounds(processor_seconds=5.0, seconds=6.0)
"""Bounds on all plans for other numbers of shards together, which are made after the intent, in the same pass."""


@dataclass(frozen=True, slots=True)
class Decider:
    """Computes in ``worker`` what takes long, and here what is quickly done; without a ``worker`` all of it here."""

    worker: WorkerProcess | None = None
    _aside: Recent[str, Aside] = field(default_factory=Recent)

    async def decide(self, world: World, owner: str) -> Intent:
        """The intent for this world. Where that takes too much to compute, the intent is to change nothing, and its
        problem says so.

        ``owner``: jobs of one owner take turns with those of others.

        Raises:
            JobDelayedError: others kept the worker process busy.
            JobLostError: the worker process ended under it.
        """
        if self.worker is None or not _is_of_size(world):
            return next_intent(world)
        aside = self._aside.get_or_make(world.moe.key, Aside)
        try:
            with aside.around(JobTooHeavyError):
                intent: Intent = await self.worker.run(owner, DECIDING, next_intent, world)
                return intent
        except JobTooHeavyError as error:
            return Intent(Step.NOTHING, target=world.target, problem=_too_heavy(world, str(error)))

    async def foresee(
        self, world: World, owner: str, numbers: Sequence[int], total: float | None, most_busy: float | None
    ) -> tuple[Foreseen, ...]:
        """What ``foresight.foresee`` says of other numbers of shards. Where that takes too much to compute, none of
        them fits.

        Raises:
            JobDelayedError, JobLostError: as ``decide``.
        """
        if self.worker is None or not _is_of_size(world):
            return foresee(world, numbers, total, most_busy)
        aside = self._aside.get_or_make(f"{world.moe.key} foreseen", Aside)
        try:
            with aside.around(JobTooHeavyError):
                found: tuple[Foreseen, ...] = await self.worker.run(
                    owner, FORESEEING, foresee, world, numbers, total, most_busy
                )
                return found
        except JobTooHeavyError as error:
            return tuple(Foreseen(number, f"planning for {number} shards {error}") for number in numbers)


def _is_of_size(world: World) -> bool:
    facts = [facts for facts in (world.facts, world.candidate.model if world.candidate else None) if facts]
    copies = world.moe.spec.experts.copies.min * max((each.layers * each.experts for each in facts), default=0)
    placements = [world.target.placement or "", (world.report.placement if world.report else None) or ""]
    read = sum(map(len, placements)) + sum(map(len, world.runtime.applications)) * 8 + world.book.characters
    return (
        copies > FEW_COPIES or read > SHORT_TEXT or any(unpacks_to_more(text, SHORT_PLACEMENT) for text in placements)
    )


def _too_heavy(world: World, why: str) -> Finding:
    size = f"{world.facts.layers} layers of {world.facts.experts} experts" if world.facts else "what runs"
    return Finding(
        Reason.PLACEMENT_TOO_LARGE,
        f"placing {size} on {world.moe.spec.experts.shards} shards {why}: use fewer shards or fewer copies; it is "
        "tried again after a while",
    )
