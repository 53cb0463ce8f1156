"""Many requests on one engine: who asks for little does not wait for who asks for much, and no token changes."""

import pytest
from driver import Answer, ask, greedy, running_engine
from reference import prompts, reference_greedy

from moe_contract.applications import AttentionConfig
from moe_serving.engine.request import GenerationRequest, Origin


@pytest.fixture
def path(checkpoint_of):
    return checkpoint_of("mixtral")


@pytest.mark.parametrize("client", ["same", "other"])
def test_a_short_answer_does_not_wait_for_128_long_ones(tiny, client):
    """The answers of the first request take all places for as long as they run, and more of them wait."""
    with running_engine(tiny) as engine:
        many = [ask(engine, (5, 6, 7), greedy(900), origin=Origin("same", "many")) for _ in range(128)]
        many[11].wait(tokens=2)
        before = engine.stats()
        assert (before.running, before.waiting) == (12, 116)
        short = ask(engine, (8, 9, 10, 11, 12), greedy(5), origin=Origin(client, "short"))
        short.wait()
        assert engine.stats().steps - before.steps <= 12, "steps for five tokens, and those under way meanwhile"
        assert not any(answer.finish_reason for answer in many)


def test_tokens_are_those_of_the_reference_however_often_an_answer_goes_back(path):
    """Places for four; requests of many clients come all the time, so that answers lose and get them back."""
    asked, length = prompts(24, seed=11, longest=30), 24
    limits = AttentionConfig(max_running=4, max_batch_tokens=16, kv_cache_tokens=400, queue_requests=64)
    with running_engine(path, limits) as engine:
        answers = [ask(engine, prompt, greedy(length), origin=Origin("a", "many")) for prompt in asked[:12]]
        answers[3].wait(tokens=1)
        for number, prompt in enumerate(asked[12:]):
            answers.append(ask(engine, prompt, greedy(length), origin=Origin("ab"[number % 2], f"single {number}")))
            answers[3 + number // 3].wait(tokens=1 + number % 3)
        got = [answer.wait() for answer in answers]
        assert engine._queue.preempted > 5
    assert [answer.token_ids for answer in got] == reference_greedy(path, asked, length)
    assert all(len(event.token_ids) <= 1 for answer in got for event in answer.events), "no token is told twice"


def test_beyond_the_bounds_a_request_is_turned_away_with_a_time_to_come_again(path):
    with running_engine(path, AttentionConfig(max_running=1, queue_requests=2)) as engine:
        running = ask(engine, (5, 6), greedy(300))
        running.wait(tokens=1)
        waiting = [ask(engine, (5, 6), greedy(4)) for _ in range(2)]
        refused = ask(engine, (5, 6), greedy(4)).wait()
        assert [event.token_ids for event in refused.events] == [()]
        assert refused.events[0].retry_after_s >= 1
        assert refused.error == "more requests wait than the queue of a replica takes"
        resumed = Answer(GenerationRequest("resumed", (5, 6), greedy(4), (9,), resumed=True))
        engine.submit(resumed.request, resumed.take)
        for answer in (*waiting, resumed):
            assert answer.wait().finish_reason == "length"
