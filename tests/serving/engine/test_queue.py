"""Whose turn it is: exact orders, and what must hold for any requests of any clients."""

from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from moe_contract.applications import AttentionConfig
from moe_serving.engine.queue import FairQueue
from moe_serving.engine.request import GenerationRequest, Origin, Sampling
from moe_serving.engine.scheduler import Scheduler, take_tokens
from moe_serving.engine.sequence import Sequence


def answer(request: str, client: str = "", prompt: int = 2, tokens: int = 4, number: int = 0, **fields) -> Sequence:
    """One of a request's; its id is ``<request>`` or ``<request>.<number>``."""
    name = f"{request}.{number}" if number else request
    origin = Origin(client, request)
    return Sequence(
        GenerationRequest(name, tuple(range(1, prompt + 1)), Sampling(max_tokens=tokens), origin=origin, **fields)
    )


def answers(request: str, count: int, **fields) -> list[Sequence]:
    return [answer(request, number=number, **fields) for number in range(count)]


class Batch(Scheduler):
    """Remembers whose answers were ever in it."""

    def __init__(self, limits: AttentionConfig) -> None:
        super().__init__(limits)
        self.begun: set[Origin] = set()

    def add(self, sequence: Sequence) -> None:
        super().add(sequence)
        self.begun.add(sequence.origin)


class Desk:
    """Queue and batch as an engine uses them."""

    def __init__(self, places: int = 4, cache: int = 1000, requests: int = 100, tokens: int = 100_000) -> None:
        self.limits = AttentionConfig(
            max_running=places, kv_cache_tokens=cache, queue_requests=requests, queue_tokens=tokens
        )
        self.queue = FairQueue(self.limits)
        self.batch = Batch(self.limits)

    def offer(self, *sequences: Sequence) -> list[bool]:
        taken = []
        for sequence in sequences:
            taken.append(self.queue.offer(sequence))
            self.queue.admit(self.batch)
        return taken

    def reconfigure(self, places: int, cache: int) -> list[Sequence]:
        """Returns those that are refused."""
        self.limits = self.limits.model_copy(update={"max_running": places, "kv_cache_tokens": cache})
        self.batch.reconfigure(self.limits)
        refused = self.queue.reconfigure(self.limits)
        self.queue.admit(self.batch)
        return refused

    def end(self, *sequences: Sequence) -> None:
        for sequence in sequences:
            self.queue.discard(sequence)
            self.batch.discard(sequence)
        self.queue.admit(self.batch)

    @property
    def running(self) -> list[str]:
        return sorted(sequence.request_id for sequence in self.batch.running)


def test_equals_in_order_of_arrival():
    desk = Desk(places=2)
    first, *rest = [answer(name) for name in "abcd"]
    desk.offer(first, *rest)
    assert desk.running == ["a", "b"]
    assert (desk.queue.waiting, desk.queue.waiting_tokens) == (2, 12)
    desk.end(first)
    assert desk.running == ["b", "c"]


def test_a_request_for_many_answers_makes_room_for_one_for_a_single_answer():
    desk = Desk(places=4)
    desk.offer(*answers("many", 9))
    assert desk.running == ["many", "many.1", "many.2", "many.3"]
    single = answer("single")
    desk.offer(single)
    assert desk.running == ["many", "many.1", "many.2", "single"], "the one that came last went back"
    desk.end(single)
    assert desk.running == ["many", "many.1", "many.2", "many.3"], "and came again before those behind it"


def test_places_are_shared_evenly_between_requests_and_no_further():
    desk = Desk(places=4)
    desk.offer(*answers("a", 9), *answers("b", 9), *answers("c", 9))
    assert desk.running == ["a", "a.1", "b", "c"]
    desk.offer(*answers("d", 2), answer("e"))
    assert desk.running == ["a", "b", "c", "d"], "nobody loses its last answer"


def test_clients_come_before_requests():
    desk = Desk(places=4)
    desk.offer(*(answer(f"a{number}", "first") for number in range(9)))
    desk.offer(*(answer(f"b{number}", "second") for number in range(2)))
    assert desk.running == ["a0", "a1", "b0", "b1"], "what came last of the first client went back"


def test_cache_counts_as_places_do():
    desk = Desk(places=10, cache=100)
    desk.offer(*answers("long", 4, prompt=5, tokens=20))  # 24 rows of cache each
    assert desk.running == ["long", "long.1", "long.2", "long.3"]
    desk.offer(answer("short", tokens=8))
    assert desk.running == ["long", "long.1", "long.2", "short"]


def test_what_has_tokens_already_keeps_them_and_is_computed_anew():
    desk = Desk(places=2)
    desk.offer(*answers("many", 2))
    for _ in range(2):
        take_tokens(desk.batch.next_step(), [7, 8])
    gone = desk.batch.running[1]
    assert (gone.answered, gone.computed) == (2, 3)
    desk.offer(answer("single"))
    assert desk.running == ["many", "single"]
    assert (gone.answered, gone.computed) == (2, 0)


def test_one_that_does_not_fit_is_passed_by_small_ones_but_not_for_ever():
    desk = Desk(places=10, cache=40)
    running = answer("running", tokens=20)  # 21 rows
    desk.offer(running, answer("large", tokens=34))
    small = [answer(f"small{number}", tokens=8) for number in range(6)]  # 10 tokens each, of the large one's 36
    for each in small:
        desk.offer(each)
        if f"{each.request_id}" in desk.running:
            desk.end(each)
    assert desk.queue.waiting == 4, "three have passed"
    desk.end(running)
    assert desk.running == ["large"]


def test_nobody_passes_to_have_more_than_the_first_asks_for():
    desk = Desk(places=10, cache=40)
    desk.offer(answer("running", "a", tokens=20), answer("first", "b", tokens=20), answer("more", "a", tokens=4))
    assert desk.running == ["running"]


def test_the_number_of_waiting_requests_is_bounded():
    desk = Desk(places=2, requests=3)
    assert desk.offer(*(answer(str(number)) for number in range(7))) == [True] * 5 + [False] * 2
    assert desk.queue.waiting == 3


def test_their_tokens_are_bounded_too():
    desk = Desk(places=1, tokens=20)
    assert desk.offer(*(answer(str(number)) for number in range(6))) == [True] * 4 + [False] * 2  # 6 tokens each


def test_answers_of_a_request_that_has_begun_are_always_taken():
    desk = Desk(places=1, requests=1, tokens=12)
    assert all(desk.offer(*answers("many", 9)))
    assert desk.offer(answer("next"), answer("last")) == [True, False]
    assert (desk.queue.waiting_tokens, desk.queue.tokens_before_begin) == (54, 6)
    assert desk.offer(answer("next", number=1), answer("next", number=2)) == [True, False], "12 tokens"


def test_a_resumed_answer_is_always_taken():
    desk = Desk(places=1, requests=1)
    assert desk.offer(answer("a"), answer("b"), answer("c")) == [True, True, False]
    assert desk.offer(answer("c", resumed=True)) == [True]


def test_a_quarter_of_the_queue_is_kept_for_clients_that_have_nothing_waiting():
    desk = Desk(places=1, requests=8)
    assert desk.offer(*(answer(f"a{number}", "greedy") for number in range(9))) == [True] * 7 + [False] * 2
    assert desk.offer(answer("b0", "modest"), answer("b1", "modest")) == [True, False]
    assert desk.offer(answer("c0", "third"), answer("d0", "fourth")) == [True, False], "eight wait"


def test_lower_limits_return_what_can_never_fit():
    desk = Desk(places=1)
    large, small = answer("large", tokens=30), answer("small")
    desk.offer(answer("running"), large, small)
    assert desk.reconfigure(places=1, cache=20) == [large]
    assert desk.queue.waiting == 1


def test_what_runs_and_a_smaller_cache_could_not_take_again_does_not_go_back():
    desk = Desk(places=4, cache=1000)
    old, large, other = answer("old", "a"), answer("large", "a", 300, 300), answer("other", "b", 100, 150)
    desk.offer(old, large)
    assert desk.reconfigure(places=4, cache=300) == []
    desk.offer(other)
    assert (desk.running, desk.queue.preempted) == (["large", "old"], 0)
    desk.end(old, large)
    desk.offer(*(answer(name, "c", tokens=198) for name in "xyz"))
    assert desk.running == ["other"], "and nothing that never fits keeps the others out"
    desk.end(other)
    assert desk.running == ["x"]


CLIENTS = st.sampled_from(["", "a", "b", "c"])
REQUESTS = st.lists(
    st.tuples(CLIENTS, st.integers(1, 6), st.integers(1, 25), st.integers(1, 9), st.integers(0, 12)),
    min_size=1,
    max_size=12,
)
"""Client, answers, prompt, tokens of an answer, and the step before which it comes."""


@given(
    REQUESTS,
    st.integers(1, 6),
    st.integers(33, 80),
    st.integers(1, 6),
    st.integers(34, 300),
    st.lists(st.integers(0, 40), max_size=6),
)
def test_any_requests_of_any_clients(wanted, places, cache, requests, tokens, cancelled):
    desk = Desk(places, cache, requests, tokens)

    def between_steps(number: int, under_way: list[Sequence]) -> None:
        if number in cancelled and under_way:
            desk.end(under_way.pop(number % len(under_way)))
        check(desk, under_way)

    run_to_the_end(desk, wanted, between_steps)


CHANGES = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 6), st.integers(2, 80)), max_size=4)
"""The step before which the limits change, to so many places and so much cache."""


@settings(max_examples=40)
@given(REQUESTS, CHANGES)
@example([("a", 1, 2, 3, 0), ("a", 1, 20, 9, 0), ("b", 1, 2, 9, 2)], [(1, 2, 20)])
def test_whatever_the_limits_change_to_every_request_ends_or_is_refused(wanted, changes):
    desk = Desk(places=6, cache=80)

    def between_steps(number: int, under_way: list[Sequence]) -> None:
        for _, places, cache in (change for change in changes if change[0] == number):
            for refused in desk.reconfigure(places, cache):
                under_way.remove(refused)

    run_to_the_end(desk, wanted, between_steps)


def run_to_the_end(desk: Desk, wanted, between_steps: Callable[[int, list[Sequence]], None]) -> None:
    """As an engine does; it refuses at once what can never fit."""
    to_come: dict[int, list[Sequence]] = {}
    for number, (client, count, prompt, length, when) in enumerate(wanted):
        to_come.setdefault(when, []).extend(answers(f"r{number}", count, client=client, prompt=prompt, tokens=length))
    under_way: list[Sequence] = []
    for number in range(3000):
        for each in to_come.pop(number, []):
            if each.reservation <= desk.limits.kv_cache_tokens and desk.offer(each)[0]:
                under_way.append(each)
        between_steps(number, under_way)
        chunks = desk.batch.next_step()
        for done in take_tokens(chunks, [7] * sum(chunk.samples for chunk in chunks))[0]:
            if done.finish_reason(frozenset()):
                under_way.remove(done)
                desk.end(done)
        if not (to_come or under_way):
            break
    assert not under_way, "somebody's turn never came"
    assert not desk.batch.busy and not desk.queue.waiting


def check(desk: Desk, under_way: list[Sequence]) -> None:
    """What holds between any two steps."""
    waiting = [each for each in under_way if each not in desk.batch.running]
    assert len(waiting) + len(desk.batch.running) == len(under_way)
    assert desk.batch.running or not waiting, "answers wait and nothing runs"
    assert (desk.queue.waiting, desk.queue.waiting_tokens) == (len(waiting), sum(each.size for each in waiting))
    assert len(desk.batch.running) <= desk.limits.max_running
    assert desk.batch.blocks.used <= desk.limits.kv_cache_tokens
    outside = [each for each in waiting if each.origin not in desk.batch.begun]
    assert len({each.origin for each in outside}) <= desk.limits.queue_requests
    assert sum(each.size for each in outside) <= desk.limits.queue_tokens


@pytest.mark.parametrize("flood", ["other", "same"], ids=["of another client", "of the same client"])
def test_a_large_answer_comes_through_a_flood_of_small_ones(flood):
    desk = Desk(places=4, cache=40, requests=4)
    large = answer("large", "one", prompt=30, tokens=9)
    taken = False
    for number in range(500):
        taken = taken or (number > 5 and desk.offer(large)[0])
        desk.offer(*(answer(f"{number}-{i}", "one" if flood == "same" else "two") for i in range(3)))
        chunks = desk.batch.next_step()
        for done in take_tokens(chunks, [7] * sum(chunk.samples for chunk in chunks))[0]:
            if done.finish_reason(frozenset()):
                desk.end(done)
        if large.finish_reason(frozenset()):
            return
    pytest.fail(f"its turn never came: {large.answered} tokens")
