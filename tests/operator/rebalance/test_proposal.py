"""What is proposed of which traffic, and why nothing is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from gathered_traffic import EXPERTS, GROUND, LAYERS, SHARDS, TOP_K, Gathered, Ids, domains, question
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_operator.api import RebalanceReason as Reason
from moe_operator.placements.validity import Outlook, judge
from moe_operator.rebalance.proposal import (
    LEAST_SETS,
    Proposal,
    Question,
    _looked_at,
    _predicted,
    _Refused,
    _what_runs,
    propose,
)
from moe_placement import RoutingStatistics, balanced_placement
from moe_placement.encoding import encode_placement
from moe_placement.expected import figures_on
from moe_placement.simulation import simulate
from moe_placement.solver import candidates
from moe_placement.solver.solver import compile_kernels
from moe_placement.statistics import encode_statistics


@dataclass
class Operator:
    """One that looks again and again, and carries out what it accepts."""

    asked: Question = field(default_factory=question)
    gathered: Gathered = field(default_factory=Gathered)

    def look(self) -> Proposal:
        proposal = propose(self.gathered.told(), replace(self.asked, now=self.gathered.now))
        self.asked = replace(self.asked, marks=proposal.marks, first_layer=proposal.first_layer or 0)
        return proposal

    def looks(self, *windows: Ids) -> list[Proposal]:
        found = []
        for ids in windows:
            self.gathered.answer(ids)
            found.append(self.look())
        return found

    def carry_out(self, proposal: Proposal) -> None:
        assert proposal.content is not None
        judgement = judge(proposal.content, self.asked.ground)
        assert judgement.placement is not None
        ground = replace(self.asked.ground, revision=proposal.content.revision)
        running = encode_placement(judgement.placement)
        self.asked = replace(self.asked, ground=ground, revision=proposal.content.revision + 1, running=running)


def windows(number: int, domain: int = 0, rows: int = 600) -> list[Ids]:
    return np.split(domains(4000)[domain][: number * rows], number)


def test_traffic_is_followed_once_two_looks_agree() -> None:
    operator = Operator()
    first, second, third = operator.looks(*windows(3))
    assert [first.reason, second.reason] == [Reason.TOO_LITTLE_TRAFFIC] * 2
    assert third.accepted and third.reason is Reason.GAIN_PAYS
    assert third.content is not None and third.before is not None and third.after is not None
    assert (third.content.base_revision, third.content.revision) == (7, 8)
    assert third.gain >= 0.01
    assert third.after.node_fan_out < third.before.node_fan_out
    assert third.price is not None
    assert third.price.moves > 0 and third.price.bytes == third.price.moves * 393216 and third.price.seconds > 0
    assert f"pays for {third.price.moves} moves" in third.message


@pytest.mark.parametrize(
    ("nodes", "attention", "known"),
    [("aabb", ("b",), True), ("aabb", ("x",), True), ("aabb", (), False), ("aaaa", ("x",), True), ("aaaa", (), False)],
)
def test_nodes_are_foretold_as_the_data_plane_counts_them(nodes: str, attention: tuple[str, ...], known: bool) -> None:
    asked = question(nodes=tuple(nodes), attention=attention)
    running, topology = _what_runs(asked)
    found = figures_on(RoutingStatistics.of_ids(windows(1)[0], EXPERTS), running, topology)
    foretold = _predicted(found, topology).node_fan_out
    assert (foretold is not None) is known
    if known:
        assert foretold == (0 if nodes == "aaaa" else found.node_fan_out)
    if nodes == "aabb" and attention:
        assert 0 < found.node_fan_out < 1 if attention == ("b",) else found.node_fan_out > 1


def test_where_time_ends_the_next_look_begins_with_what_was_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the last layers would keep what they have for ever."""
    run = candidates.Job.run
    jobs: list[candidates.Job] = []

    def one_in_time(job: candidates.Job, layer: int) -> candidates.Result:
        late = any(each is job for each in jobs)
        jobs.append(job)
        return run(replace(job, deadline=0.0) if late else job, layer)

    compile_kernels()
    monkeypatch.setattr(candidates.Job, "run", one_in_time)
    operator = Operator(question(least_gain=0.9))
    first, second, *others = operator.looks(*windows(6))
    assert [first.first_layer, second.first_layer] == [None, None], "nothing was planned"
    begun = []
    for proposal in others:
        assert "1 of 2 layers were not searched to the end" in proposal.message
        begun.append(proposal.first_layer)
    assert begun == [1, 0, 1, 0]


@pytest.mark.slow
def test_nothing_moves_once_it_is_where_the_traffic_wants_it() -> None:
    operator = Operator()
    operator.carry_out(operator.looks(*windows(3))[-1])
    for proposal in operator.looks(*windows(6)[3:]):
        assert not proposal.accepted, proposal.message


@pytest.mark.slow
def test_another_domain_is_followed_although_statistics_are_full_of_the_first() -> None:
    operator = Operator()
    operator.carry_out(operator.looks(*windows(3))[-1])
    operator.looks(*windows(6)[3:])
    first, second = operator.looks(*windows(2, domain=1))
    assert not first.accepted, "one look is no evidence"
    assert second.accepted, second.message
    # What the old placement meets with the new traffic, and not with all that was counted of it.
    newest = simulate(windows(2, domain=1)[-1], *_what_runs(operator.asked))
    assert second.met is not None
    assert second.met.fan_out == pytest.approx(newest.fan_out, rel=0.01)
    assert second.rows == pytest.approx(600, rel=0.01)


def test_slow_links_are_planned_for_and_priced() -> None:
    fast, slow = (Operator(question(link=link)).looks(*windows(3))[-1] for link in (1.25e9, 1.25e7))
    assert fast.accepted and slow.accepted
    assert fast.after and slow.after and fast.price and slow.price
    assert slow.after.node_fan_out < fast.after.node_fan_out
    assert slow.gain > fast.gain
    assert slow.price.seconds / slow.price.bytes > 10 * fast.price.seconds / fast.price.bytes


def test_what_does_not_pay_is_told_with_its_price() -> None:
    operator = Operator(question(horizon=60.0, max_bytes_per_second=1e6))
    proposal = operator.looks(*windows(3))[-1]
    assert not proposal.accepted and proposal.reason is Reason.GAIN_BELOW_PRICE
    assert proposal.price is not None and proposal.content is not None
    assert f"does not pay for {proposal.price.moves} moves" in proposal.message and "of one link" in proposal.message


REFUSED: dict[str, tuple[Callable[[Question], Question], Reason, str]] = {
    "one shard": (lambda q: replace(q, ground=replace(GROUND, shards=1)), Reason.ONE_SHARD, "spec.experts.shards is 1"),
    "a shard more is wanted": (
        lambda q: replace(q, ground=replace(GROUND, shards=5)), Reason.SHARDS_CHANGE, "4 shards run and 5 are to"
    ),
    "a shard is drained": (
        lambda q: replace(q, ground=replace(GROUND, drained=frozenset({2, 3}))), Reason.SHARDS_CHANGE, "2 is being"
    ),
    "other slots": (lambda q: replace(q, ground=replace(GROUND, slots_per_shard=6)), Reason.SHARDS_CHANGE, "6 slots"),
    "a shard of which nothing is heard": (
        lambda q: replace(q, nodes=("a", "", "b", "b")), Reason.SHARDS_CHANGE, "on which node shard 1 runs"
    ),
    "nodes of another number": (lambda q: replace(q, nodes=("a", "b")), Reason.SHARDS_CHANGE, "of 2 it is known"),
    "another model runs": (
        lambda q: replace(q, ground=replace(GROUND, layers=3)), Reason.OTHER_MODEL, "what runs has 2 layers"
    ),
    "what runs is damaged": (lambda q: replace(q, running="p1.AAAA"), Reason.NOT_PLANNABLE, "damaged placement"),
    "copies that do not fit": (
        lambda q: replace(q, ground=replace(GROUND, min_copies=2)), Reason.NOT_PLANNABLE, "32 slots per layer"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_planned_from_is_a_reason(case: str) -> None:
    change, reason, words = REFUSED[case]
    operator = Operator(change(question()))
    proposal = operator.looks(*windows(3))[-1]
    assert (proposal.accepted, proposal.content) == (False, None)
    assert proposal.reason is reason and words in proposal.message, proposal.message


def test_statistics_of_another_model_are_a_reason() -> None:
    other = RoutingStatistics(LAYERS, EXPERTS + 1, TOP_K)
    proposal = propose(bytearray(encode_statistics(other)), question())
    assert proposal.reason is Reason.OTHER_MODEL and "of 2 layers of 17 experts" in proposal.message


def test_before_any_traffic() -> None:
    assert propose(bytearray(), question()).reason is Reason.NO_TRAFFIC


def test_a_trickle_into_a_full_sample_is_planned_from_again_and_again() -> None:
    """The older of it give way: when a part is complete, the one before it is not what it was."""
    gathered, asked, planned, lost = Gathered(), question(), 0, []
    ids = domains(20000)[0]
    gathered.answer(ids[:8000], 600.0)
    assert len(gathered.seen().sample) == 4096
    for start in range(8000, 12800, 60):
        gathered.answer(ids[start : start + 60])
        try:
            _, marks = _looked_at(gathered.seen(), replace(asked, now=gathered.now))
            planned += 1
        except _Refused as refused:
            marks = refused.marks
            lost += [refused.message] if "only" in refused.message else []
        asked = replace(asked, marks=marks)
    assert planned >= 3 and not lost, lost


def test_a_part_that_gave_way_goes_with_the_next_one() -> None:
    operator = Operator()
    ids = domains(20000)[0]
    operator.gathered.answer(ids[:8000], 600.0)
    first, few, after = operator.looks(ids[8000:8600], ids[8600:8640], ids[8640:9300])
    assert [first.reason, few.reason, after.reason] == [Reason.TOO_LITTLE_TRAFFIC] * 3
    # Hours later the part before is a handful.
    operator.gathered.wait(5 * 3600.0)
    late = operator.looks(ids[9300:12000])[-1]
    assert late.reason is Reason.TOO_LITTLE_TRAFFIC and "only" in late.message, late.message
    assert operator.looks(ids[12000:14000])[-1].reason is not Reason.TOO_LITTLE_TRAFFIC


def test_silence_and_a_trickle_lose_no_look() -> None:
    """Marks stay where they are until enough came."""
    operator = Operator()
    first, second, third = windows(3)
    operator.looks(first, second)
    marks = operator.asked.marks
    operator.gathered.wait(300.0)
    assert operator.look().reason is Reason.NO_TRAFFIC
    few = operator.looks(third[: LEAST_SETS // 2])[-1]
    assert few.reason is Reason.TOO_LITTLE_TRAFFIC and f"{LEAST_SETS // 2} are in the sample" in few.message
    assert operator.asked.marks is marks
    assert operator.looks(third[LEAST_SETS // 2 :])[-1].content is not None


def test_a_look_after_another_interval_compares_nothing() -> None:
    """One replica has heard of it, and the other has not: what both told then looks as if much had come."""
    operator = Operator()
    operator.looks(*windows(2))
    operator.asked = replace(operator.asked, other_interval=True)
    found = operator.looks(windows(3)[2])[-1]
    assert (found.reason, found.marks) == (Reason.TOO_LITTLE_TRAFFIC, ())
    assert "spec.rebalance.interval is another one" in found.message
    operator.asked = replace(operator.asked, other_interval=False)
    assert "first look" in operator.looks(windows(4)[3])[-1].message


def test_statistics_that_began_anew_count_as_first_look() -> None:
    operator = Operator()
    operator.looks(*windows(2))
    operator.gathered.statistics = RoutingStatistics(LAYERS, EXPERTS, TOP_K, seed=9, window_tokens=None)
    proposal = operator.looks(windows(3)[2])[-1]
    assert proposal.reason is Reason.TOO_LITTLE_TRAFFIC and "began anew" in proposal.message
    assert len(proposal.marks) == 1


@settings(max_examples=60)
@given(data=st.data())
def test_damaged_statistics_are_a_reason(data: st.DataObject) -> None:
    gathered = Gathered()
    gathered.answer(windows(1)[0])
    told = gathered.told()
    at = data.draw(st.integers(0, len(told) - 1))
    damaged = told[:at] if data.draw(st.booleans()) else told[:at] + bytes([told[at] ^ 255]) + told[at + 1 :]
    proposal = propose(damaged, question())
    assert not proposal.accepted and proposal.content is None and proposal.message


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 3), copies=st.sampled_from([1, 2]), slots=st.sampled_from([8, 9]),
    nodes=st.lists(st.sampled_from("abc"), min_size=SHARDS, max_size=SHARDS),
    bound=st.sampled_from([None, 1e5, 1e9]), horizon=st.sampled_from([60.0, 3600.0]),
)  # fmt: skip
def test_whatever_is_proposed_fits(
    seed: int, copies: int, slots: int, nodes: list[str], bound: float | None, horizon: float
) -> None:
    ground = replace(GROUND, min_copies=copies, slots_per_shard=slots, revision=3)
    running = balanced_placement(LAYERS, EXPERTS, (slots,) * SHARDS, copies)
    operator = Operator(
        question(running, ground=ground, revision=11, nodes=tuple(nodes), max_bytes_per_second=bound, horizon=horizon)
    )
    proposal = operator.looks(*np.split(domains(1200, seed % 2)[0][:900], 3))[-1]
    if proposal.content is None:
        assert proposal.reason is Reason.NOTHING_BETTER
        return
    judgement = judge(proposal.content, ground)
    assert judgement.outlook is Outlook.FITS, judgement.message
    assert judgement.placement is not None
    moved = judgement.placement.held & ~running.held
    assert proposal.price is not None and proposal.price.moves == moved.sum()
    assert (proposal.content.base_revision, proposal.content.revision) == (3, 11)
    if bound is not None:
        assert proposal.price.bytes <= bound * SHARDS * horizon
