"""Which ExpertPlacement is migrated to next, and whether what runs has one that says so. Pure.

The truth of a placement is its object. Where objects and data plane disagree (an object deleted by hand, a backup of
etcd put back), the data plane keeps serving: what it runs gets an object anew, and a new revision if the object of its
own says something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from moe_operator.api import ExpertPlacement, PlacementContent, PlacementReason
from moe_operator.api.placement import MAX_STEP, Decision, Origin
from moe_operator.placements.book import MOST_AHEAD, Book, phase_of
from moe_operator.placements.content import content_of, describes, moves_between, read_placement
from moe_operator.placements.errors import InvalidContentError, NotExpressibleError
from moe_operator.placements.trial import Terms, goes_back, is_condemned
from moe_operator.placements.validity import Ground, Judgement, Outlook, judge
from moe_placement import Placement


class Standing(Enum):
    """What the objects say of what runs."""

    NOTHING_RUNS = auto()
    EXPRESSED = auto()
    ABSENT = auto()
    """There is no object of its revision."""
    CONTRADICTED = auto()
    """The object of its revision says something else, or what nobody can read, or is of another model, or says that it
    was not to run, or does no longer."""


@dataclass(frozen=True, slots=True)
class Next:
    """What to migrate to."""

    revision: int
    placement: Placement


@dataclass(frozen=True, slots=True)
class Record:
    """An object to be made, since what runs has none. ``moves``: copies that were loaded for it; None where nobody
    knows any more."""

    content: PlacementContent
    moves: int | None


@dataclass(frozen=True, slots=True)
class WayBack:
    """The way back from what runs and is to be rolled back. ``placement`` is None where there is none, and ``why`` says
    why."""

    placement: Placement | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """Attributes:
    next: None to stay.
    back: None where nothing is to be rolled back, or that cannot be judged now.
    record: None where nothing is to be made.
    judgements: by revision, of those that have not begun.
    moves: by revision, of those of them that fit: copies that shards would have to load.
    reverted: by revision, of those that were to be rolled back and do not run any more: whether what runs is what they
        were to be rolled back to, or something else came first. Empty where what runs is not known.
    """

    standing: Standing = Standing.NOTHING_RUNS
    next: Next | None = None
    back: WayBack | None = None
    record: Record | None = None
    judgements: Mapping[int, Judgement] = field(default_factory=dict)
    moves: Mapping[int, int] = field(default_factory=dict)
    reverted: Mapping[int, bool] = field(default_factory=dict)


def choose(book: Book, revision: int, running: Placement | None, ground: Ground | None, terms: Terms | None) -> Choice:
    """The choice. ``revision`` and ``running``: what the directory was told last; 0 and None before the first, or where
    that cannot be read. ``ground``: None where nothing can be judged now, and so nothing is begun. ``terms``: by which
    what runs is rolled back, if it is."""
    standing = _standing(book, revision, running, ground)
    judgements = {each.revision: _judged(book, each, ground) for each in book.ahead if each.revision != revision}
    own = book.at(revision)
    if standing is Standing.CONTRADICTED and own and phase_of(own).is_ahead:
        judgements[revision] = _taken(revision)
    fitting = {number: each.placement for number, each in judgements.items() if each.placement}
    return Choice(
        standing,
        _approved(book, fitting) if revision or not book.in_force else _restored(book, ground),
        _way_back(book, own, ground) if own and standing is Standing.EXPRESSED and goes_back(own, terms) else None,
        _record(book, revision, running, ground) if standing is Standing.ABSENT else None,
        judgements,
        {number: moves_between(running, placement) for number, placement in fitting.items()},
        _reverted(book, revision, running) if running else {},
    )


def unlooked_at(book: Book, revision: int) -> dict[int, Judgement]:
    """What is told of those that are beyond the ones looked at, by revision. ``revision``: what runs."""
    waits = Judgement(
        Outlook.WAITS,
        PlacementReason.TOO_MANY_WAIT,
        f"of the ExpertPlacements of this MoEDeployment that have not begun {MOST_AHEAD} are looked at, approved ones "
        "first, and this is not one of them: set spec.decision of others to Rejected, or delete them",
    )
    return {each.revision: waits for each in book.beyond if each.revision != revision}


def _standing(book: Book, revision: int, running: Placement | None, ground: Ground | None) -> Standing:
    if revision == 0 or running is None:
        return Standing.NOTHING_RUNS
    own = book.at(revision)
    if own is None:
        return Standing.CONTRADICTED if revision in book.taken else Standing.ABSENT
    over = own.spec.decision is Decision.REJECTED or phase_of(own).is_end
    # Another checkpoint may have come under the same path: of as many experts, and none of them the same.
    of_another = ground is not None and own.spec.content.model_digest != ground.digest
    is_it = not over and not of_another and describes(own.spec.content, running)
    return Standing.EXPRESSED if is_it else Standing.CONTRADICTED


def _approved(book: Book, fitting: Mapping[int, Placement]) -> Next | None:
    """The first of those that are approved: the others were written from a revision that is not in force any more
    then."""
    approved = [each.revision for each in book.ahead if each.spec.decision is Decision.APPROVED]
    return next((Next(number, fitting[number]) for number in approved if number in fitting), None)


def _restored(book: Book, ground: Ground | None) -> Next | None:
    """What was in force before everything was lost, or put to sleep, if it still fits."""
    if ground is None:
        return None
    last = book.in_force[-1]
    judgement = _judged_again(last, ground)
    return Next(last.revision, judgement.placement) if judgement.placement else None


def _way_back(book: Book, own: ExpertPlacement, ground: Ground | None) -> WayBack | None:
    """The way back to what ran before: its content under a revision of its own, since revisions only go up."""
    if ground is None:
        return None
    base = own.spec.content.base_revision
    before = book.at(base)
    if before is None:
        return WayBack(None, f"there is no ExpertPlacement of revision {base} any more, which ran before")
    judgement = _judged_again(before, ground)
    if judgement.placement is None:
        return WayBack(None, f"revision {base}, which ran before, does not fit any more: {judgement.message}")
    return WayBack(judgement.placement)


def _reverted(book: Book, revision: int, running: Placement) -> dict[int, bool]:
    over = [each for each in book.placements if each.revision < revision and is_condemned(each)]
    return {each.revision: _went_back(book, each, revision, running) for each in over}


def _went_back(book: Book, over: ExpertPlacement, revision: int, running: Placement) -> bool:
    """Whether what runs is what ``over`` was made from. Where the object of that is gone, this holds if the operator
    placed what runs by itself, and ``over`` has as many copies that are not in it as were loaded for ``over``."""
    base, own, price = book.at(over.spec.content.base_revision), book.at(revision), over.status.price
    if base is not None:
        return describes(base.spec.content, running)
    by_operator = own is None or (own.status.origin is not Origin.PERSON and own.status.predicted is None)
    return by_operator and price is not None and _moves(running, over) == price.moves


def _judged_again(placement: ExpertPlacement, ground: Ground) -> Judgement:
    """The judgement on a placement that ran once, as if its base were in force."""
    return judge(placement.spec.content, replace(ground, revision=placement.spec.content.base_revision))


def _judged(book: Book, placement: ExpertPlacement, ground: Ground | None) -> Judgement:
    """The judgement on a placement. Of the operator's proposals on which nobody has decided only the last one
    stands."""
    later = book.superseded_by(placement)
    return judge(placement.spec.content, ground) if later is None else _superseded(later)


def _superseded(by: int) -> Judgement:
    return Judgement(
        Outlook.NEVER,
        PlacementReason.SUPERSEDED,
        f"revision {by} was proposed since, from later traffic: decide on that one",
    )


def _record(book: Book, revision: int, running: Placement | None, ground: Ground | None) -> Record | None:
    if ground is None or running is None:
        return None
    before = book.before(revision)
    base = max(before.revision if before else 0, revision - MAX_STEP)
    try:
        content = content_of(running, revision, base, ground.digest)
    except NotExpressibleError:
        return None
    return Record(content, _moves_from(before, running))


def _moves_from(before: ExpertPlacement | None, after: Placement) -> int | None:
    """Copies to load to come from what an object says, which is not kept of one that is over; all copies where it is of
    another model."""
    if before is None:
        return moves_between(None, after)
    placement = _read(before)
    return moves_between(placement if _are_of_one_model(placement, after) else None, after) if placement else None


def _moves(before: Placement, after: ExpertPlacement) -> int | None:
    """Copies to load to come to what an object says; None where it is of other shards, or of another model."""
    placement = _read(after)
    if placement is None or not _are_of_one_model(placement, before) or placement.shard_slots != before.shard_slots:
        return None
    return moves_between(before, placement)


def _read(placement: ExpertPlacement) -> Placement | None:
    try:
        return read_placement(placement.spec.content)
    except InvalidContentError:
        return None


def _are_of_one_model(one: Placement, other: Placement) -> bool:
    return (one.layers, one.experts) == (other.layers, other.experts)


def _taken(revision: int) -> Judgement:
    return Judgement(
        Outlook.NEVER,
        PlacementReason.REVISION_TAKEN,
        f"spec.content.revision is {revision}, under which another placement runs: write one with a higher revision "
        f"and baseRevision {revision + 1} or whatever status.placement.revision of the MoEDeployment then is",
    )
