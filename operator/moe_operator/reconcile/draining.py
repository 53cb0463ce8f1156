"""Which shards shall hold nothing though they run: those that an annotation names, and those that the runtime moves off
their nodes. Pure.

A drain makes nothing impossible: where the other shards cannot hold the model, one that was asked for is not begun, and
the reason is told. Of shards that must leave their nodes as many are emptied at a time as the others have room for: the
next ones once those answer from other nodes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from moe_contract.model import ModelFacts
from moe_contract.report import DirectoryReport
from moe_operator.api import MoEDeployment, Reason
from moe_operator.api.annotations import LONGEST_WORD, drain_words, shard_indices
from moe_operator.api.names import ANNOTATION_DRAIN
from moe_operator.finding import Finding
from moe_operator.text import on_one_line, some

_SHOWN = 8
"""Entries that a message names."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What the copies of a model need: experts per layer, copies of each on distinct shards, and slots of a shard."""

    experts: int
    copies: int
    slots: int

    @classmethod
    def of(cls, moe: MoEDeployment, facts: ModelFacts, slots: int) -> Needs:
        return cls(facts.experts, moe.spec.experts.copies.min, max(1, min(slots, facts.experts)))

    @property
    def shards(self) -> int:
        """The fewest shards that can hold the copies."""
        return max(self.copies, -(-self.experts * self.copies // self.slots))


@dataclass(frozen=True, slots=True)
class Drain:
    """Attributes:
    asked: shards that the annotation names and that run, ascending.
    unknown: what else it names.
    moved: shards that the runtime moves off their nodes.
    refused: why the drain that was asked for is not begun.
    empty: those that shall hold nothing.
    """

    asked: tuple[int, ...] = ()
    unknown: tuple[str, ...] = ()
    moved: tuple[int, ...] = ()
    refused: Finding | None = None
    empty: frozenset[int] = frozenset()

    @property
    def is_wanted(self) -> bool:
        """Whether anybody asked for anything."""
        return bool(self.asked or self.unknown or self.moved)


def drain(moe: MoEDeployment, moved: Iterable[int], shards: int, needs: Needs) -> Drain:
    """What is drained of shards ``0 .. shards - 1``. ``moved``: those that the runtime moves, in the order in which
    they are emptied where not all can be."""
    asked, unknown = named(moe, shards)
    leaving = tuple(index for index in dict.fromkeys(moved) if index < shards)
    refused = None if _can_go(len(asked), shards, needs) else _refusal(asked, shards, needs)
    empty = frozenset() if refused else frozenset(asked)
    rest = [index for index in leaving if index not in empty]
    room = max(shards - needs.shards - len(empty), 0)
    return Drain(asked, unknown, leaving, refused, empty.union(rest[:room]))


def fewest_beside(moe: MoEDeployment, wanted: int, there: int, needs: Needs) -> int:
    """How many shards run: ``wanted``, or more where these could not hold the model without those that are drained.
    Only shards that are there, and would leave, come on top."""
    drained = sorted(set(shard_indices(_words(moe)).values()))
    enough = (n for n in range(wanted, there + 1) if _can_go(bisect_left(drained, n), n, needs))
    return next(enough, wanted)


def named(moe: MoEDeployment, shards: int) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """What the annotation names: the shards among ``0 .. shards - 1``, and the rest of its words."""
    words = _words(moe)
    numbers = shard_indices(words)
    found = {number for number in numbers.values() if number < shards}
    return tuple(sorted(found)), tuple(word for word in words if numbers.get(word, shards) >= shards)


def _words(moe: MoEDeployment) -> list[str]:
    return drain_words(moe.metadata.annotations.get(ANNOTATION_DRAIN, ""))


def _can_go(drained: int, shards: int, needs: Needs) -> bool:
    """Whether so many of the shards need not hold anything."""
    return not drained or shards - drained >= needs.shards


def _refusal(asked: Sequence[int], shards: int, needs: Needs) -> Finding:
    left, more = shards - len(asked), needs.shards + len(asked)
    enough = f"scale to {more} shards first" if more <= needs.experts else "set a larger slotsPerShard first"
    fewer = f", or name at most {shards - needs.shards}" if shards > needs.shards else ""
    return Finding(
        Reason.DRAIN_REFUSED,
        f"the annotation {ANNOTATION_DRAIN} names {_listed(asked)} of {shards}: the other {left} have {left} x "
        f"{needs.slots} = {left * needs.slots} slots per layer, and {needs.experts} experts x {needs.copies} "
        f"(copies.min) need {needs.experts * needs.copies}, on {needs.shards} shards at least; nothing is moved: "
        f"{enough}{fewer}",
    )


def drained(drain: Drain, shards: int, report: DirectoryReport, revision: int) -> tuple[bool, Finding]:
    """Whether what was asked for is done, and what to tell of it. ``revision``: the one that the directory was told
    last."""
    if drain.refused:
        return False, drain.refused
    if drain.unknown:
        there = f"shards 0 to {shards - 1} run" if shards > 1 else "shard 0 alone runs"
        done = f"; {_told_of(drain, report, revision)[1].message}" if drain.empty else ""
        words = some([on_one_line(word)[:LONGEST_WORD] or "nothing" for word in drain.unknown], _SHOWN)
        return False, Finding(
            Reason.NO_SUCH_SHARD,
            f"the annotation {ANNOTATION_DRAIN} names {words}, and {there}: write numbers of these, separated by commas"
            f"{done}",
        )
    return _told_of(drain, report, revision)


def _told_of(drain: Drain, report: DirectoryReport, revision: int) -> tuple[bool, Finding]:
    stay, first = sorted(set(drain.moved) - drain.empty), drain.empty.intersection(drain.moved)
    if stay and not first:
        return False, Finding(
            Reason.DRAIN_REFUSED,
            f"{_listed(stay)} must leave a node that goes away, and the other shards have too few slots for what "
            "is held there: it is loaded anew where Ray starts the process again; scale up, or set a larger "
            "slotsPerShard, to have it elsewhere first",
        )
    holding = [shard for shard in report.shards if shard.index in drain.empty and not report.is_emptied(shard)]
    if stay:
        return False, Finding(
            Reason.DRAINING,
            f"of those that must leave a node that goes away, {_listed(first)} first, for want of slots for more at "
            f"once; {_listed(stay)} once there is room, as when the first answer from other nodes",
        )
    if report.revision == revision and not holding:
        hold = "holds nothing and is sent nothing" if len(drain.empty) == 1 else "hold nothing and are sent nothing"
        return True, Finding(Reason.DRAINED, f"{_listed(drain.empty)} {hold}: its processes may be stopped")
    left = [f"shard {shard.index} holds {shard.held}" for shard in holding]
    return False, Finding(
        Reason.DRAINING, f"{some(left, _SHOWN) or _listed(drain.empty)}; copies are made on the other shards first"
    )


def _listed(indices: Iterable[int]) -> str:
    numbers = [str(index) for index in sorted(indices)]
    return f"shard {numbers[0]}" if len(numbers) == 1 else f"shards {some(numbers, _SHOWN)}"
