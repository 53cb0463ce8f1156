"""From observed traffic to a placement that is worth its price, or why there is none: the job of the worker process.

The plan is made from what came since the last look, and judged on what came between that and the look before: traffic
that it was not made from, other prompts at another time. Pure; whatever is wrong with what others say is a reason, and
no error.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from moe_operator.api import PlacementContent, RebalanceReason
from moe_operator.placements.content import content_of
from moe_operator.placements.errors import NotExpressibleError
from moe_operator.placements.validity import Ground, judge
from moe_operator.rebalance.modelled import straight_to, topology_of
from moe_operator.rebalance.recent import Mark, Part, since, to_plan_from
from moe_operator.rebalance.words import amount, duration
from moe_placement.decision import Decision, Policy, decide
from moe_placement.encoding import decode_placement
from moe_placement.errors import InvalidPlacementError, InvalidStatisticsError, PlacementError
from moe_placement.expected import figures_on
from moe_placement.migration.schedule import Migration
from moe_placement.placement import Placement
from moe_placement.simulation import Figures
from moe_placement.solver import Limits, Plan, solve
from moe_placement.statistics import RoutingStatistics, decode_statistics
from moe_placement.topology import Topology

LEAST_SETS = 200
"""Sampled tokens that a plan is judged on, at least."""
PART_SETS = 260
"""Sampled tokens that a part of the traffic has, at least, before the next one begins. In a full sample older ones give
way to newer ones: ``LEAST_SETS`` of so many are left, mostly, once the next part has as many."""
MARKS = 3
"""Marks of so many last looks are kept: when a change is two looks old, three parts of the traffic are told apart from
what came before; one is evidence, two are planned from."""
SOLVE_SECONDS = 40.0
"""After so long no further layer is searched, all attempts together. The next look begins with the first of those that
are left."""
_FEWER_MOVES = (1.0, 0.25, 0.0625)
"""Parts of the moves that the best plan needs: what does not pay with all of its moves may pay with the best of
them."""
STALL_SECONDS = 0.05
"""What a switch costs of service, at most: nobody waits for copies, and a new table takes a few milliseconds."""
_MOVING_PART = 0.1
"""The part of the horizon that a move may take: what takes longer is not looked at."""


@dataclass(frozen=True, slots=True)
class Question:
    """All that a proposal depends on beside the statistics.

    Attributes:
        now: seconds of a clock that nobody sets, when the statistics were read.
        ground: what a placement is judged against; its revision is the proposal's base.
        revision: that the proposal shall have.
        running: ``encode_placement`` of what runs.
        nodes: of each shard, by name, by its index; empty where it is not known.
        bytes_per_expert, dtype: of the model.
        rows_per_step: tokens that go through a layer together: about the requests that run.
        link: bytes a second of a node's link to others, each way.
        least_gain: part of the modelled time that a move must save.
        horizon: seconds for which a placement is expected to serve.
        max_bytes_per_second: that a shard may load; None for no bound.
        marks: of earlier looks, as the last proposal returned them.
        attention: the node of each attention replica, by name; empty where that is not known.
        first_layer: that is searched first, as the last proposal returned it.
        other_interval: whether looks were not as far apart as they are now when the marks were made: statistics fade by
            that, and each replica hears of another one at a time of its own.
    """

    now: float
    ground: Ground
    revision: int
    running: str
    nodes: tuple[str, ...]
    bytes_per_expert: int
    dtype: str
    rows_per_step: float
    link: float
    least_gain: float
    horizon: float
    max_bytes_per_second: float | None = None
    marks: tuple[Mark, ...] = ()
    attention: tuple[str, ...] = ()
    first_layer: int = 0
    other_interval: bool = False


@dataclass(frozen=True, slots=True)
class Predicted:
    """Figures of a placement on the traffic that the plan was judged on, per token and layer, as the data plane counts
    them. ``node_fan_out`` is None where it is not known where attention runs."""

    balance: float
    fan_out: float
    node_fan_out: float | None


@dataclass(frozen=True, slots=True)
class Price:
    """Copies that shards must load, their size, and seconds for which the busiest link carries them."""

    moves: int
    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Proposal:
    """Attributes:
    accepted: whether ``content`` is worth its price.
    reason, message: in one word, and in words and figures.
    marks: to be handed over with the next question.
    content: that of an ExpertPlacement; None where nothing better was found or could be looked for.
    before, after: predicted of what runs and of ``content``; None where nothing was planned.
    met: of what runs with the newest traffic, and ``rows``, the tokens of that: what the measured figures of
        ``content`` are to be compared with. What was counted follows minutes of traffic, which was another's lately.
    gain: part of the modelled time that ``content`` saves.
    price: of going there.
    first_layer: that the next look is to search first: the first one that time did not suffice for; None where nothing
        was planned.
    """

    accepted: bool
    reason: RebalanceReason
    message: str
    marks: tuple[Mark, ...] = field(default=(), repr=False)
    content: PlacementContent | None = field(default=None, repr=False)
    before: Predicted | None = None
    after: Predicted | None = None
    met: Predicted | None = None
    rows: float = 0.0
    gain: float = 0.0
    price: Price | None = None
    first_layer: int | None = None


def propose(statistics: bytearray, question: Question) -> Proposal:
    """Look for a better placement than what runs.

    Args:
        statistics: as the directory tells them, ``encode_statistics``; empty before there are any.
        question: all else.
    """
    try:
        return _propose(statistics, question)
    except _Refused as refused:
        return Proposal(False, refused.reason, refused.message, refused.marks)
    except PlacementError as error:
        return Proposal(False, RebalanceReason.NOT_PLANNABLE, f"no placement was looked for: {error}", question.marks)


class _Refused(Exception):
    def __init__(self, reason: RebalanceReason, message: str, marks: tuple[Mark, ...] = ()) -> None:
        super().__init__(message)
        self.reason, self.message, self.marks = reason, message, marks


def _propose(packed: bytearray, question: Question) -> Proposal:
    running, topology = _what_runs(question)
    if not packed:
        raise _Refused(RebalanceReason.NO_TRAFFIC, "there are no statistics yet: no request was answered")
    statistics = _read(packed, question)
    parts, marks = _looked_at(statistics, question)
    best: Proposal | None = None
    next_first = question.first_layer
    evidence, lately = parts[-2], to_plan_from(parts, statistics)
    for plan in _plans(lately, running, topology, question):
        if next_first == question.first_layer:
            next_first = _first_left_out(plan, next_first)
        proposal = replace(_judged(plan, evidence, parts[-1], question), marks=marks, first_layer=next_first)
        best = best or proposal
        if proposal.accepted:
            return proposal
        if proposal.reason is not RebalanceReason.GAIN_BELOW_PRICE:
            break
    if best is None:
        raise PlacementError("no plan was made")
    return replace(best, first_layer=next_first)


def _first_left_out(plan: Plan, first: int) -> int:
    """In the order of the search, which began with ``first``; that one where none is."""
    return min(plan.left_out, key=lambda layer: (layer - first) % plan.placement.layers, default=first)


def _what_runs(question: Question) -> tuple[Placement, Topology]:
    ground = question.ground
    if ground.shards < 2:
        raise _Refused(
            RebalanceReason.ONE_SHARD,
            f"spec.experts.shards is {ground.shards}: with fewer than 2 there is nowhere to move experts to",
            question.marks,
        )
    try:
        running = decode_placement(question.running)
    except InvalidPlacementError as error:
        text = f"what runs cannot be read: {error}"
        raise _Refused(RebalanceReason.NOT_PLANNABLE, text, question.marks) from error
    wanted = (ground.slots_per_shard,) * ground.shards
    if running.shard_slots != wanted or len(question.nodes) != running.shards:
        raise _Refused(
            RebalanceReason.SHARDS_CHANGE,
            f"{running.shards} shards run and {ground.shards} are to, of {ground.slots_per_shard} slots per layer, and "
            f"of {len(question.nodes)} it is known on which nodes: it waits until these agree",
            question.marks,
        )
    if ground.drained:
        raise _Refused(
            RebalanceReason.SHARDS_CHANGE,
            f"shard {min(ground.drained)} is being drained ({len(ground.drained)} such shards, condition Drained): it "
            "waits until all may hold experts again",
            question.marks,
        )
    if (running.layers, running.experts) != (ground.layers, ground.experts):
        raise _other_model(f"what runs has {running.layers} layers of {running.experts} experts", question)
    if not all(question.nodes):
        unknown = [index for index, node in enumerate(question.nodes) if not node]
        raise _Refused(
            RebalanceReason.SHARDS_CHANGE,
            f"the directory does not say on which node shard {unknown[0]} runs ({len(unknown)} such shards): it waits "
            "until that is known",
            question.marks,
        )
    topology = topology_of(
        question.nodes, running.shard_slots, question.bytes_per_expert, question.dtype, question.rows_per_step,
        question.link, question.attention,
    )  # fmt: skip
    return running, topology


def _read(packed: bytearray, question: Question) -> RoutingStatistics:
    try:
        statistics = decode_statistics(bytes(packed))
    except InvalidStatisticsError as error:
        raise _Refused(RebalanceReason.STATISTICS_DAMAGED, f"{error}; they are asked for again") from error
    shape = statistics.shape
    if (shape.layers, shape.experts) != (question.ground.layers, question.ground.experts):
        raise _other_model(f"the statistics are of {shape.layers} layers of {shape.experts} experts", question)
    return statistics


def _other_model(what: str, question: Question) -> _Refused:
    ground = question.ground
    text = f"{what}, and the model that is served has {ground.layers} of {ground.experts}: it waits until these agree"
    return _Refused(RebalanceReason.OTHER_MODEL, text)


def _looked_at(statistics: RoutingStatistics, question: Question) -> tuple[tuple[Part, ...], tuple[Mark, ...]]:
    """Two parts of the traffic, the one to judge on and the one to plan from, and the marks to keep."""
    if question.other_interval:
        text = (
            "spec.rebalance.interval is another one since the last look, and with it how fast older traffic fades: "
            "what came since cannot be told apart, and the next look counts as the first one"
        )
        raise _Refused(RebalanceReason.TOO_LITTLE_TRAFFIC, text)
    now = Mark.of(statistics, question.now)
    if not question.marks:
        text = "the first look at the traffic: two more, and it is known what came between them"
        raise _Refused(RebalanceReason.TOO_LITTLE_TRAFFIC, text, (now,))
    parts = since(statistics, question.marks, question.now)
    if parts is None:
        text = "the statistics began anew since the last look, or lost a part: this counts as the first one"
        raise _Refused(RebalanceReason.TOO_LITTLE_TRAFFIC, text, (now,))
    last = parts[-1]
    if last.rows < 1 or last.seconds <= 0:
        text = f"no request was answered within {duration(last.seconds)}"
        raise _Refused(RebalanceReason.NO_TRAFFIC, text, question.marks)
    if last.sampled < PART_SETS:
        text = (
            f"{last.rows:.0f} tokens came within {duration(last.seconds)}, of which {last.sampled} are in the sample: "
            f"it is planned from {PART_SETS} at least"
        )
        raise _Refused(RebalanceReason.TOO_LITTLE_TRAFFIC, text, question.marks)
    marks = (*question.marks, now)[-MARKS:]
    if len(parts) < 3:
        text = f"{last.rows:.0f} tokens came within {duration(last.seconds)}: those that come next are planned from"
        raise _Refused(RebalanceReason.TOO_LITTLE_TRAFFIC, text, marks)
    if parts[-2].sampled < LEAST_SETS:
        text = f"of {duration(parts[-2].seconds)} before the last look only {parts[-2].sampled} tokens are known"
        # What came since goes with them, or the same would be found of the next part, and of each after it.
        raise _Refused(RebalanceReason.TOO_LITTLE_TRAFFIC, text, (question.marks[-2], now))
    return parts, marks


def _plans(lately: RoutingStatistics, running: Placement, topology: Topology, question: Question) -> Iterator[Plan]:
    """The best plan, then plans with fewer moves."""
    left, moves = SOLVE_SECONDS, math.inf
    room = (question.max_bytes_per_second or math.inf) * topology.shards * question.horizon * _MOVING_PART
    for part in _FEWER_MOVES:
        limits = Limits(
            min_copies=question.ground.min_copies,
            max_moved_slots=None if math.isinf(moves) else int(part * moves),
            max_moved_bytes=None if math.isinf(room) else room,
            time_limit=max(left, 0.1),
            first_layer=question.first_layer,
            workers=1,
        )
        plan = solve(lately, topology, running, limits)
        left -= plan.seconds
        moves = min(moves, plan.moved_slots)
        yield plan
        if plan.moved_slots < 2:
            return


def _judged(plan: Plan, evidence: Part, lately: Part, question: Question) -> Proposal:
    topology = plan.topology
    if plan.current is None:
        raise PlacementError("a plan without what runs")
    migration = straight_to(plan, question.link)
    price = _price(migration, question)
    # It brings nothing before it is there, at the speed allowed; what it takes from requests is time of the links.
    rows = max(question.horizon - price.seconds, 0.0) * lately.rows / lately.seconds
    policy = Policy(least_gain=question.least_gain, stall=STALL_SECONDS)
    steps = rows / topology.costs.tokens_per_step
    decision = decide(plan, migration, [evidence.statistics], steps, policy=policy)
    before, after, met = (
        _predicted(figures_on(part.statistics, each, topology), topology)
        for part, each in ((evidence, plan.current), (evidence, plan.placement), (lately, plan.current))
    )
    reason, message = _told(plan, price, decision, policy, question)
    try:
        ground = question.ground
        content = content_of(plan.placement, question.revision, ground.revision, ground.digest)
    except NotExpressibleError as error:
        raise _Refused(RebalanceReason.NOT_PLANNABLE, str(error), question.marks) from error
    judgement = judge(content, ground)
    if judgement.placement is None:
        raise _Refused(RebalanceReason.NOT_PLANNABLE, judgement.message, question.marks)
    return Proposal(
        accepted=decision.accepted,
        reason=reason,
        message=message,
        content=content if plan.moved_slots else None,
        before=before,
        after=after,
        met=met,
        rows=lately.rows,
        gain=0.0 if math.isnan(decision.gain) else decision.gain,
        price=price,
    )


def _price(migration: Migration, question: Question) -> Price:
    size = question.bytes_per_expert
    bounded = float(migration.bytes_in.max(initial=0)) / (question.max_bytes_per_second or math.inf)
    return Price(migration.transfers, migration.transfers * size, max(migration.seconds, bounded))


def _predicted(figures: Figures, topology: Topology) -> Predicted:
    elsewhere = figures.node_fan_out if topology.nodes > 1 else 0.0
    return Predicted(figures.shard_balance, figures.fan_out, elsewhere if topology.token_nodes else None)


def _told(
    plan: Plan, price: Price, decision: Decision, policy: Policy, question: Question
) -> tuple[RebalanceReason, str]:
    """Why it was decided so, in one word and in words."""
    cut = ""
    if plan.left_out:
        cut = (
            f"; {len(plan.left_out)} of {plan.placement.layers} layers were not searched to the end within "
            f"{SOLVE_SECONDS:.0f} s"
        )
    moves = f"{price.moves} moves ({amount(price.bytes)}, {price.seconds:.3g} s of one link)"
    gain = f"gain {decision.gain:.1%} over {duration(question.horizon)}"
    if not plan.moved_slots:
        return RebalanceReason.NOTHING_BETTER, f"nothing better was found than what runs{cut}"
    if plan.repairs and decision.accepted:
        return RebalanceReason.REPAIR, f"{plan.repairs} changes are due whatever they gain; {moves}{cut}"
    if decision.accepted:
        return (
            RebalanceReason.GAIN_PAYS,
            f"{gain} saves {decision.saved:.3g} s and pays for {moves}; noise {decision.noise:.1%}{cut}",
        )
    if decision.gain < policy.least_gain:
        return (
            RebalanceReason.GAIN_TOO_SMALL,
            f"gain {decision.gain:.1%} is below minGainPercent, {policy.least_gain:.1%}{cut}",
        )
    if math.isnan(decision.noise):
        return (
            RebalanceReason.GAIN_BELOW_PRICE,
            f"{gain} saves {decision.saved:.3g} s and does not pay for {moves}: with a switch's stall and a margin "
            f"{(1 + policy.margin) * decision.price:.3g} s{cut}",
        )
    return RebalanceReason.GAIN_IS_NOISE, f"{decision.reasons[0]}{cut}"
