"""Exact steps of the scheduler, and what must hold for any requests and limits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_placement.wire.applications import AttentionConfig
from moe_serving.engine.request import GenerationRequest, Sampling
from moe_serving.engine.scheduler import Scheduler, take_tokens
from moe_serving.engine.sequence import Sequence


def sequence(name: str, prompt: int, max_tokens: int = 4, emitted: int = 0) -> Sequence:
    return Sequence(
        GenerationRequest(name, tuple(range(1, prompt + 1)), Sampling(max_tokens=max_tokens), (9,) * emitted)
    )


def limits(batch: int = 8, running: int = 8, cache: int = 100) -> AttentionConfig:
    return AttentionConfig(max_batch_tokens=batch, max_running=running, kv_cache_tokens=cache)


def step(scheduler: Scheduler) -> list[tuple[str, int]]:
    """Do one step as the engine does; the chunks it had."""
    chunks = scheduler.next_step()
    plan = [(chunk.sequence.request_id, chunk.count) for chunk in chunks]
    for done in take_tokens(chunks, [7] * sum(chunk.samples for chunk in chunks))[0]:
        if done.finish_reason(frozenset()):
            scheduler.discard(done)
    return plan


def steps(scheduler: Scheduler, *sequences: Sequence, count: int) -> list[list[tuple[str, int]]]:
    for each in sequences:
        scheduler.add(each)
    return [step(scheduler) for _ in range(count)]


def test_a_prompt_then_one_token_a_step():
    assert steps(Scheduler(limits()), sequence("a", 3, max_tokens=3), count=4) == [
        [("a", 3)],
        [("a", 1)],
        [("a", 1)],
        [],
    ]


def test_a_long_prompt_is_computed_in_chunks_beside_decoding():
    scheduler = Scheduler(limits(batch=4))
    assert steps(scheduler, sequence("a", 2), count=1) == [[("a", 2)]]
    assert steps(scheduler, sequence("b", 7), count=4) == [
        [("a", 1), ("b", 3)],
        [("a", 1), ("b", 3)],
        [("a", 1), ("b", 1)],  # b's last prompt token: both decode from here on
        [("b", 1)],
    ]


def test_prompts_share_a_step_in_order_of_arrival():
    assert steps(Scheduler(limits(batch=8)), sequence("a", 5), sequence("b", 5), sequence("c", 5), count=3) == [
        [("a", 5), ("b", 3)],
        [("a", 1), ("b", 2), ("c", 5)],
        [("a", 1), ("b", 1), ("c", 1)],
    ]


def test_a_continued_answer_is_computed_like_a_prompt():
    assert steps(Scheduler(limits()), sequence("a", 2, max_tokens=4, emitted=3), count=2) == [[("a", 5)], []]


def test_later_requests_wait_for_cache_even_if_they_would_fit():
    scheduler = Scheduler(limits(cache=20))
    # Rows needed: prompt + max_tokens - 1.
    assert steps(scheduler, sequence("a", 9, 4), sequence("b", 9, 4), sequence("c", 1, 1), count=3) == [
        [("a", 8)],
        [("a", 1)],
        [("a", 1)],
    ]
    assert [s.request_id for s in scheduler.waiting] == ["b", "c"]
    # Both join when "a" has left. A prompt of one token is computed like an answer's next token: first.
    assert steps(scheduler, count=3) == [[("a", 1)], [("a", 1)], [("c", 1), ("b", 7)]]


def test_running_is_bounded():
    scheduler = Scheduler(limits(running=2))
    steps(scheduler, *(sequence(name, 1) for name in "abc"), count=1)
    assert [s.request_id for s in scheduler.running] == ["a", "b"]


def test_not_more_run_than_a_step_has_tokens():
    assert steps(Scheduler(limits(batch=2, running=9)), *(sequence(n, 1, 3) for n in "abc"), count=4) == [
        [("a", 1), ("b", 1)],
        [("a", 1), ("b", 1)],
        [("a", 1), ("b", 1)],
        [("c", 1)],
    ]


def test_sequences_take_turns_when_steps_got_smaller_than_the_batch():
    scheduler = Scheduler(limits(batch=3))
    steps(scheduler, *(sequence(name, 1, 9) for name in "abc"), count=1)
    scheduler.reconfigure(limits(batch=2))
    assert steps(scheduler, count=3) == [[("a", 1), ("b", 1)], [("c", 1), ("a", 1)], [("b", 1), ("c", 1)]]


def test_a_cancelled_sequence_frees_its_rows():
    scheduler = Scheduler(limits(cache=12))
    running, waiting = sequence("a", 9, 4), sequence("b", 9, 4)
    steps(scheduler, running, waiting, count=1)
    assert scheduler.rows.used == 12
    scheduler.discard(running)
    scheduler.discard(running)
    assert scheduler.rows.used == 0
    assert step(scheduler) == [("b", 8)]
    scheduler.discard(waiting)
    assert not scheduler.busy


def test_a_lower_cache_limit_refuses_those_that_cannot_fit_any_more():
    scheduler = Scheduler(limits(cache=12))
    running, large, small = sequence("a", 9, 4), sequence("b", 9, 4), sequence("c", 2, 2)
    steps(scheduler, running, large, small, count=1)
    assert scheduler.reconfigure(limits(cache=5)) == [large]
    assert scheduler.rows.end == 12, "the running sequence keeps its rows"
    scheduler.discard(running)
    assert scheduler.rows.end == 5
    assert step(scheduler) == [("c", 2)]


@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 8), st.integers(0, 7)), min_size=1, max_size=12),
    st.integers(1, 10),
    st.integers(1, 6),
    st.integers(37, 80),
    st.lists(st.integers(0, 11), max_size=5),
)
def test_any_requests_within_any_limits(wanted, batch, running, cache, cancelled):
    scheduler = Scheduler(limits(batch, running, cache))
    sequences = [sequence(str(i), p, m, min(e, m - 1)) for i, (p, m, e) in enumerate(wanted)]
    started: list[str] = []
    for each in sequences:
        scheduler.add(each)
    for number in range(2000):
        if number in cancelled and number < len(sequences):
            scheduler.discard(sequences[number])
        before = {s.request_id for s in scheduler.running}
        chunks = scheduler.next_step()
        started += [s.request_id for s in scheduler.running if s.request_id not in before]
        assert sum(chunk.count for chunk in chunks) <= batch
        assert len(scheduler.running) <= running
        assert scheduler.rows.used <= cache
        names = [chunk.sequence.request_id for chunk in chunks]
        assert len(set(names)) == len(names)
        for chunk in chunks:
            assert 1 <= chunk.count <= chunk.sequence.pending
            assert chunk.sequence.computed + chunk.count <= len(chunk.sequence.rows)
        for done in take_tokens(chunks, [7] * sum(chunk.samples for chunk in chunks))[0]:
            if done.finish_reason(frozenset()):
                scheduler.discard(done)
        if not scheduler.busy:
            break
        assert chunks, "requests wait and nothing runs"
    assert not scheduler.busy
    assert scheduler.rows.used == 0
    assert started == sorted(started, key=int), "admitted in order of arrival"
    for number, each in enumerate(sequences):
        if number not in cancelled:
            assert each.answered == each.request.sampling.max_tokens


@pytest.mark.parametrize(
    ("tokens", "ends", "ignore_eos", "stops", "reason"),
    [
        ([5], {2}, False, set(), None),
        ([5, 2], {2}, False, set(), "stop"),
        ([5, 2], {2}, True, set(), None),
        ([5, 6], {2}, True, {6}, "stop"),
        ([5, 6, 7, 8], {2}, False, set(), "length"),
        ([5, 6, 7, 2], {2}, False, set(), "stop"),
        ([], {3}, False, set(), None),  # the prompt's own last token ends nothing
    ],
)
def test_when_an_answer_is_complete(tokens, ends, ignore_eos, stops, reason):
    sampling = Sampling(max_tokens=4, ignore_eos=ignore_eos, stop_token_ids=frozenset(stops))
    asked = Sequence(GenerationRequest("a", (1, 3), sampling, tuple(tokens)))
    assert asked.finish_reason(frozenset(ends)) == reason
