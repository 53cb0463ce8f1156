"""Every phase of a placement and every event."""

import itertools

import pytest

from moe_operator.api.phase import Event, IllegalTransitionError, Phase

WAYS = {
    (Phase.PROPOSED, Event.REJECTED): Phase.REJECTED,
    (Phase.PROPOSED, Event.FAULTED): Phase.FAILED,
    (Phase.PROPOSED, Event.APPROVED): Phase.APPROVED,
    (Phase.APPROVED, Event.FAULTED): Phase.FAILED,
    (Phase.APPROVED, Event.STARTED): Phase.MIGRATING,
    (Phase.MIGRATING, Event.ARRIVED): Phase.VERIFYING,
    (Phase.MIGRATING, Event.OVERTAKEN): Phase.SUPERSEDED,
    (Phase.VERIFYING, Event.KEPT): Phase.ACTIVE,
    (Phase.VERIFYING, Event.REVERTED): Phase.ROLLED_BACK,
    (Phase.VERIFYING, Event.OVERTAKEN): Phase.SUPERSEDED,
    (Phase.ACTIVE, Event.OVERTAKEN): Phase.SUPERSEDED,
}


@pytest.mark.parametrize(("phase", "event"), list(itertools.product(Phase, Event)))
def test_every_phase_and_every_event(phase: Phase, event: Event) -> None:
    wanted = WAYS.get((phase, event))
    assert phase.permits(event) is (wanted is not None)
    if wanted is None:
        with pytest.raises(IllegalTransitionError, match=f"{event.name} cannot happen to a placement that is {phase}"):
            phase.after(event)
    else:
        assert phase.after(event) is wanted
    assert phase.advanced([event]) is (wanted or phase)


@pytest.mark.parametrize("phase", Phase)
def test_ends_are_those_that_nothing_leads_out_of(phase: Phase) -> None:
    assert phase.is_end is all(left is not phase for left, _ in WAYS)


def test_every_phase_is_reached_from_the_first_and_every_way_ends() -> None:
    reached, now = {Phase.PROPOSED}, {Phase.PROPOSED}
    for _ in Phase:
        now = {WAYS[phase, event] for phase, event in WAYS if phase in now}
        reached |= now
    assert reached == {*Phase}
    assert not now, "a way goes round"


STARTED = [Event.APPROVED, Event.STARTED]
ARRIVED = [*STARTED, Event.ARRIVED, Event.KEPT]


@pytest.mark.parametrize(
    ("phase", "events", "then"),
    [
        (Phase.PROPOSED, [], Phase.PROPOSED),
        (Phase.PROPOSED, STARTED, Phase.MIGRATING),
        # A pass that finds all of it done, as after a restart of the operator.
        (Phase.PROPOSED, ARRIVED, Phase.ACTIVE),
        (Phase.MIGRATING, ARRIVED, Phase.ACTIVE),
        # What has arrived stays so while the directory is under way again, as after the loss of a shard.
        (Phase.ACTIVE, STARTED, Phase.ACTIVE),
        (Phase.ACTIVE, ARRIVED, Phase.ACTIVE),
        (Phase.SUPERSEDED, ARRIVED, Phase.SUPERSEDED),
        (Phase.FAILED, [Event.APPROVED], Phase.FAILED),
        (Phase.REJECTED, [Event.APPROVED], Phase.REJECTED),
    ],
)
def test_a_pass_tells_all_that_has_happened(phase: Phase, events: list[Event], then: Phase) -> None:
    assert phase.advanced(events) is then
