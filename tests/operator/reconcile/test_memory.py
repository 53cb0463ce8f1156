"""What a process remembers between reconciles."""

from moe_operator.reconcile.memory import Memories, Memory


def test_terms_are_claimed_once_above_any_seen() -> None:
    memory = Memory("u")
    assert [memory.claim_term(seen) for seen in (0, 0, 1, 1)] == [1, 1, 1, 1]
    taken_over = Memory("u")
    assert [taken_over.claim_term(seen) for seen in (4, 5, 4)] == [5, 5, 5]
    # Somebody else wrote a higher one: this leader, if it is one, must be above it.
    assert taken_over.claim_term(9) == 10


def test_failures_are_timed_from_the_first() -> None:
    memory = Memory("u")
    assert [memory.runtime_failing(True, now) for now in (10.0, 12.0, 15.0)] == [0.0, 2.0, 5.0]
    assert memory.runtime_failing(False, 16.0) == 0.0
    assert memory.runtime_failing(True, 17.0) == 0.0
    assert memory.report_failing(True, 20.0) == 0.0


def test_what_was_given_up_is_timed_from_when_that_was_first_seen() -> None:
    memory = Memory("u")
    assert memory.failed(frozenset({"a"}), 10.0) == {"a": 0.0}
    assert memory.failed(frozenset({"a", "b"}), 15.0) == {"a": 5.0, "b": 0.0}
    assert memory.failed(frozenset({"b"}), 20.0) == {"b": 5.0}
    assert memory.failed(frozenset({"a", "b"}), 21.0) == {"a": 0.0, "b": 6.0}


def test_a_new_object_of_the_same_name_begins_anew() -> None:
    memories = Memories()
    memories.of("team/tiny", "u-1").claim_term(7)
    assert memories.of("team/tiny", "u-1").term == 8
    assert memories.of("team/tiny", "u-2").term == 0
    memories.forget("team/tiny")
    assert memories.of("team/tiny", "u-2").term == 0
