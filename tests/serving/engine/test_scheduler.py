"""Exact steps of the scheduler, and what must hold for any requests and limits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_contract.applications import AttentionConfig
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
    had = [(chunk.sequence.request_id, chunk.count) for chunk in chunks]
    for done in take_tokens(chunks, [7] * sum(chunk.samples for chunk in chunks))[0]:
        if done.finish_reason(frozenset()):
            scheduler.discard(done)
    return had


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


def test_short_prompts_do_not_wait_for_a_long_one_nor_it_for_them():
    assert steps(Scheduler(limits(batch=8)), sequence("long", 20), sequence("short", 3), count=3) == [
        [("long", 5), ("short", 3)],
        [("short", 1), ("long", 7)],
        [("short", 1), ("long", 7)],
    ]
    scheduler = Scheduler(limits(batch=8, cache=1000))
    steps(scheduler, sequence("long", 20, 1), count=0)
    for number in range(5):  # half of each step is left to who came first
        (chunk,) = (chunk for chunk in steps(scheduler, sequence(str(number), 9, 1), count=1)[0] if chunk[0] == "long")
        assert chunk == ("long", 4)


def test_what_fits_is_bounded_by_places_and_by_the_cache():
    scheduler = Scheduler(limits(batch=2, running=9, cache=20))  # not more run than a step has tokens
    first, second, small = sequence("a", 9, 4), sequence("b", 9, 4), sequence("c", 2, 2)  # 12, 12 and 3 rows
    scheduler.add(first)
    assert not scheduler.fits(second) and scheduler.fits(small)
    assert scheduler.fits(second, without=[first])
    with pytest.raises(ValueError, match="b of 12 tokens does not fit"):
        scheduler.add(second)
    scheduler.add(small)
    assert not scheduler.fits(small), "both places are taken"
    assert scheduler.fits(small, without=[small])
    assert not scheduler.fits(second, without=[small])


def test_room_is_room_wherever_it_lies():
    scheduler = Scheduler(limits(cache=100))
    first, second, third = sequence("a", 37), sequence("b", 17), sequence("c", 37)  # 40, 20 and 40 rows
    steps(scheduler, first, second, third, count=1)
    scheduler.discard(first)
    scheduler.discard(third)
    large = sequence("d", 77)
    assert scheduler.fits(large) and not scheduler.fits(sequence("e", 78)), "80 are free, left and right of b"
    scheduler.add(large)
    assert not set(large.blocks.starts) & set(second.blocks.starts)


def test_sequences_take_turns_when_steps_got_smaller_than_the_batch():
    scheduler = Scheduler(limits(batch=3))
    steps(scheduler, *(sequence(name, 1, 9) for name in "abc"), count=1)
    scheduler.reconfigure(limits(batch=2))
    assert steps(scheduler, count=3) == [[("a", 1), ("b", 1)], [("c", 1), ("a", 1)], [("b", 1), ("c", 1)]]


def test_a_discarded_sequence_frees_its_blocks():
    scheduler = Scheduler(limits(cache=12))
    first, second = sequence("a", 9, 4), sequence("b", 9, 4)
    steps(scheduler, first, count=1)
    assert scheduler.blocks.used == 12
    scheduler.discard(first)
    scheduler.discard(first)
    scheduler.discard(second)
    assert scheduler.blocks.used == 0 and not scheduler.busy
    assert steps(scheduler, second, count=1) == [[("b", 8)]]


def test_a_lower_cache_limit_leaves_what_runs():
    scheduler = Scheduler(limits(running=1, cache=50))
    running = sequence("a", 37, 4)
    steps(scheduler, running, count=1)
    assert scheduler.blocks.end == 5 * 16, "of 50 tokens, and one block for each place"
    scheduler.reconfigure(limits(running=2, cache=5))
    assert scheduler.blocks.end == 3 * 16, "the running sequence keeps its blocks"
    assert not scheduler.fits(sequence("b", 2, 2))
    scheduler.discard(running)
    assert scheduler.blocks.end == 3 * 16, "one for its tokens, and for each of two places"
    assert scheduler.fits(sequence("b", 2, 2)) and not scheduler.fits(sequence("c", 9, 4))


@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 8), st.integers(0, 7)), min_size=1, max_size=12),
    st.integers(1, 10),
)
def test_steps_of_any_sequences(wanted, batch):
    scheduler = Scheduler(limits(batch, 12, 500))
    sequences = [sequence(str(i), p, m, min(e, m - 1)) for i, (p, m, e) in enumerate(wanted)]
    left = list(sequences)
    for _ in range(2000):
        while left and scheduler.fits(left[0]):
            scheduler.add(left.pop(0))
        chunks = scheduler.next_step()
        pending = sum(each.pending for each in scheduler.running)
        assert sum(chunk.count for chunk in chunks) == min(batch, pending), "a step is as full as it can be"
        names = [chunk.sequence.request_id for chunk in chunks]
        assert len(set(names)) == len(names)
        for chunk in chunks:
            assert 1 <= chunk.count <= chunk.sequence.pending
            assert chunk.sequence.computed + chunk.count <= len(chunk.sequence.blocks)
        for done in take_tokens(chunks, [7] * sum(chunk.samples for chunk in chunks))[0]:
            if done.finish_reason(frozenset()):
                scheduler.discard(done)
        if not (scheduler.busy or left):
            break
    assert not scheduler.busy
    assert scheduler.blocks.used == 0
    for each in sequences:
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
