"""The life of requests in an engine: joining, leaving, failing, moving on to another replica."""

import threading
import time

import pytest
import torch
from driver import WAIT_S, Answer, ask, complete, greedy, running_engine
from reference import END, prompts, reference_greedy

from moe_contract.applications import AttentionConfig
from moe_serving.engine.cache import KeyValueCache
from moe_serving.engine.engine import Engine
from moe_serving.engine.errors import EngineStoppedError, ExpertsUnavailableError, RequestRefusedError
from moe_serving.engine.local_experts import LocalExperts
from moe_serving.engine.request import GenerationRequest, Sampling

PROMPT = (5, 6, 7)
WARM = Sampling(max_tokens=24, temperature=0.9, top_p=0.95, seed=7, ignore_eos=True)
"""An answer on whose way no two gates of the model are next to equal: in another batch they would change places."""


class Gate(LocalExperts):
    """Experts that wait at layer 0 while the gate is shut, and fail there while told to."""

    def __init__(self, path):
        super().__init__(path, "float32", "cpu")
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Semaphore(0)
        self.error: Exception | None = None
        self.spoils_first_of_two = False

    def submit(self, layer, hidden, expert_ids, weights):
        if layer == 0:
            self.entered.release()
            assert self.open.wait(WAIT_S)
            if self.error is not None:
                raise self.error
        pending = super().submit(layer, hidden, expert_ids, weights)
        if self.spoils_first_of_two and len(hidden) == 2:
            pending.collect()[0] = float("nan")
        return pending


@pytest.fixture
def path(checkpoint_of):
    return checkpoint_of("mixtral")


@pytest.fixture
def experts(path):
    gate = Gate(path)
    yield gate
    gate.open.set()


@pytest.fixture
def engine(path, experts):
    with running_engine(path, AttentionConfig(kv_cache_tokens=128), experts) as engine:
        yield engine


def settled(engine):
    """The stats once the engine has nothing more to do."""
    deadline = time.monotonic() + WAIT_S
    while (stats := engine.stats()).running or stats.waiting:
        assert time.monotonic() < deadline, f"waited {WAIT_S} s for the engine to be idle: {stats}"
        time.sleep(0.01)
    return stats


def test_tokens_come_one_event_each_and_the_last_has_the_reason(engine):
    answer = ask(engine, PROMPT, greedy(5)).wait()
    assert [len(event.token_ids) for event in answer.events] == [0] + [1] * 5, "the first says that it was taken on"
    assert [event.finish_reason for event in answer.events] == [None] * 5 + ["length"]


def test_a_stop_token_ends_the_answer_and_is_its_last_token(engine):
    whole = ask(engine, PROMPT, greedy(24)).wait().token_ids
    stop = whole[6]
    sampling = Sampling(max_tokens=24, ignore_eos=True, stop_token_ids=frozenset({stop}))
    answer = ask(engine, PROMPT, sampling).wait()
    assert answer.finish_reason == "stop"
    assert answer.token_ids == whole[: whole.index(stop) + 1]


def test_the_models_own_end_token_ends_the_answer(path, engine):
    assert engine.model.end_token_ids == {END}
    # Sampled, so that one of them does meet the end token (the seeds are fixed).
    ends = [ask(engine, PROMPT, Sampling(max_tokens=100, temperature=3.0, seed=seed)).wait() for seed in range(12)]
    stopped = [answer.token_ids for answer in ends if answer.finish_reason == "stop"]
    assert stopped
    assert all(tokens.index(END) == len(tokens) - 1 for tokens in stopped)


def test_a_seed_decides_alone(path, engine):
    alone = ask(engine, PROMPT, WARM).wait().token_ids
    assert ask(engine, PROMPT, WARM).wait().token_ids == alone
    others = [ask(engine, prompt, greedy(30)) for prompt in prompts(2, seed=3, longest=20)]
    beside = ask(engine, PROMPT, WARM).wait().token_ids
    assert beside == alone
    assert ask(engine, PROMPT, Sampling(**{**fields(WARM), "seed": 43})).wait().token_ids != alone
    for other in others:
        other.wait()


def fields(sampling):
    return {name: getattr(sampling, name) for name in sampling.__slots__}


@pytest.mark.parametrize("sampling", [greedy(24), WARM], ids=["greedy", "sampled"])
@pytest.mark.parametrize("emitted", [1, 10, 23])
def test_another_replica_continues_the_same_answer(path, engine, sampling, emitted):
    whole = ask(engine, PROMPT, sampling).wait().token_ids
    with running_engine(path) as other:
        answer = ask(other, PROMPT, sampling, whole[:emitted]).wait()
    assert whole[:emitted] + answer.token_ids == whole
    assert answer.finish_reason == "length"


@pytest.mark.parametrize(("emitted", "reason"), [((9, 9, 9, 9), "length"), ((9, END), "stop")])
def test_an_answer_that_was_complete_already_says_so(engine, emitted, reason):
    answer = ask(engine, PROMPT, Sampling(max_tokens=4), emitted).wait()
    assert (answer.token_ids, answer.finish_reason) == ((), reason)


def test_a_cancelled_request_leaves_the_batch_and_frees_its_cache(engine, experts):
    leaving = ask(engine, PROMPT, greedy(100))
    staying = ask(engine, PROMPT, greedy(20))
    waiting = ask(engine, PROMPT, greedy(100))  # the cache of 128 tokens has no room for both long ones
    leaving.wait(tokens=2)
    engine.cancel(leaving.request.request_id)
    waiting.wait(tokens=1)
    engine.cancel(waiting.request.request_id)
    engine.cancel("never heard of")
    assert staying.wait().finish_reason == "length"
    assert settled(engine).kv_tokens_used == 0
    assert leaving.finish_reason is None and waiting.finish_reason is None


def test_an_id_may_be_used_again_at_once(engine, experts):
    first = ask(engine, PROMPT, greedy(50), name="same")
    first.wait(tokens=1)
    experts.open.clear()
    assert experts.entered.acquire(timeout=WAIT_S)
    engine.cancel("same")
    second = ask(engine, (8, 9), greedy(4), name="same")
    seen = len(first.token_ids)
    experts.open.set()
    assert second.wait().token_ids == ask(engine, (8, 9), greedy(4)).wait().token_ids
    assert len(first.token_ids) <= seen + 1, "at most the step that was under way"


def test_missing_experts_fail_the_requests_of_that_step_only(engine, experts):
    experts.error = ExpertsUnavailableError("layer 0: expert 3 has no live copy; shards 1 and 2 did not answer in 5 s")
    failed = [ask(engine, PROMPT, greedy(4)), ask(engine, PROMPT, greedy(4))]
    for answer in failed:
        assert answer.wait().finish_reason == "error"
        assert "expert 3 has no live copy" in answer.error
    experts.error = None
    assert ask(engine, PROMPT, greedy(4)).wait().finish_reason == "length"
    assert engine.alive
    assert settled(engine).kv_tokens_used == 0


def test_what_nobody_foresaw_is_logged_and_clients_are_not_told_its_text(engine, experts, caplog):
    experts.error = KeyError("/secret/path")
    answer = ask(engine, PROMPT, greedy(4)).wait()
    assert answer.finish_reason == "error"
    assert "nobody foresaw" in answer.error and "secret" not in answer.error
    assert "/secret/path" in caplog.text
    experts.error = None
    assert ask(engine, PROMPT, greedy(4)).wait().finish_reason == "length"


def test_logits_that_are_no_numbers_fail_their_own_request_only(engine, experts):
    whole = ask(engine, PROMPT, greedy(30)).wait().token_ids
    experts.open.clear()
    answers = [ask(engine, PROMPT, greedy(30)), ask(engine, PROMPT, greedy(30))]
    experts.spoils_first_of_two = True  # of the rows in a step in which both only decode
    experts.open.set()
    for answer in answers:
        answer.wait()
    failed = [answer for answer in answers if answer.error is not None]
    assert [answer.error for answer in failed] == [
        "the model computed logits that are not finite; are its weights damaged?"
    ]
    assert [answer.token_ids for answer in answers if answer not in failed] == [whole]
    assert settled(engine).kv_tokens_used == 0


def test_a_listener_that_fails_loses_its_own_request_only(engine):
    def listen(event):
        raise ConnectionResetError("the client is gone")

    engine.submit(GenerationRequest("broken", PROMPT, greedy(50)), listen)
    assert ask(engine, PROMPT, greedy(4)).wait().finish_reason == "length"
    assert settled(engine).kv_tokens_used == 0


def test_what_can_never_fit_is_refused_at_once(engine):
    with pytest.raises(RequestRefusedError, match="the replica's cache holds 128"):
        ask(engine, PROMPT, greedy(200))
    ask(engine, PROMPT, greedy(50), name="twice")
    with pytest.raises(RequestRefusedError, match="'twice' is in use"):
        ask(engine, PROMPT, greedy(50), name="twice")


def test_new_limits_hold_from_the_next_step(engine, experts):
    experts.open.clear()
    running = ask(engine, PROMPT, greedy(100))
    assert experts.entered.acquire(timeout=WAIT_S)
    waiting = ask(engine, PROMPT, greedy(100))
    engine.reconfigure(AttentionConfig(kv_cache_tokens=64))
    experts.open.set()
    assert "kv_cache_tokens is 64 now" in waiting.wait().error
    assert running.wait().finish_reason == "length"
    assert complete(engine, prompts(8, longest=20), greedy(20)) == complete(engine, prompts(8, longest=20), greedy(20))
    engine.reconfigure(AttentionConfig(kv_cache_tokens=300))
    assert ask(engine, PROMPT, greedy(200)).wait().finish_reason == "length"
    assert engine.stats().kv_tokens_limit == 300


def test_growing_the_cache_keeps_what_runs(engine, experts):
    whole = ask(engine, PROMPT, greedy(60)).wait().token_ids
    answer = ask(engine, PROMPT, greedy(60))
    answer.wait(tokens=5)
    engine.reconfigure(AttentionConfig(kv_cache_tokens=400))
    assert answer.wait().token_ids == whole


@pytest.fixture
def memory(monkeypatch):
    """Rows of cache that there is memory for, changed by the test."""
    rows, allocate = [10**6], KeyValueCache._allocate

    def bounded(cache, count):
        if count > rows[0]:
            raise torch.OutOfMemoryError(f"no memory for {count} rows")
        return allocate(cache, count)

    monkeypatch.setattr(KeyValueCache, "_allocate", bounded)
    return rows


def test_a_cache_that_there_is_no_memory_for_costs_no_answer(path, engine, memory):
    memory[0] = 500  # 400 tokens with a block more for each of 12 places are 592
    asked = prompts(4, longest=20)
    answers = [ask(engine, prompt, greedy(40)) for prompt in asked]
    answers[0].wait(tokens=5)
    engine.reconfigure(AttentionConfig(kv_cache_tokens=400))
    late = Answer(GenerationRequest("late", PROMPT, greedy(200)))
    try:
        engine.submit(late.request, late.take)
    except RequestRefusedError:
        pass  # the engine was faster than this thread
    else:
        assert "kv_cache_tokens is 128 now" in late.wait().error
    assert [answer.wait().token_ids for answer in answers] == reference_greedy(path, asked, 40)
    assert complete(engine, asked, greedy(40)) == reference_greedy(path, asked, 40)
    assert engine.problem == "kv_cache_tokens stays 128: the device has no memory for 400 beside them"
    assert engine.stats().kv_tokens_limit == 128
    with pytest.raises(RequestRefusedError, match="cache holds 128"):
        ask(engine, PROMPT, greedy(200))
    engine.reconfigure(AttentionConfig(kv_cache_tokens=250))
    assert ask(engine, PROMPT, greedy(200)).wait().finish_reason == "length"
    assert engine.problem is None


def test_a_cache_that_there_is_no_memory_for_to_shrink_stays_larger(path, engine, memory):
    whole = ask(engine, PROMPT, greedy(60)).wait().token_ids
    memory[0] = 10
    engine.reconfigure(AttentionConfig(kv_cache_tokens=64))
    assert ask(engine, PROMPT, greedy(60)).wait().token_ids == whole
    assert (engine.problem, engine.stats().kv_tokens_limit) == (None, 64)


def test_stop_ends_running_and_waiting_requests_with_an_error(path, experts):
    engine = Engine.load(path, "float32", "cpu", experts, AttentionConfig(max_running=1))
    engine.start()
    running, waiting = ask(engine, PROMPT, greedy(400)), ask(engine, PROMPT, greedy(400))
    running.wait(tokens=1)
    engine.stop()
    for answer in (running, waiting):
        assert answer.wait().error == "the replica is stopping"
    assert not engine.alive
    with pytest.raises(EngineStoppedError):
        ask(engine, PROMPT, greedy(4))


def test_stats_tell_a_stuck_engine_from_an_idle_one(engine, experts):
    assert settled(engine).silence_s == 0.0
    experts.open.clear()
    answer = ask(engine, PROMPT, greedy(4))
    assert experts.entered.acquire(timeout=WAIT_S)
    first = engine.stats()
    assert (first.running, first.waiting) == (1, 0)
    assert first.kv_tokens_used == len(PROMPT) + 4 - 1
    assert 0 < first.silence_s < engine.stats().silence_s
    assert engine.overdue_s == 0, "a first step may take long"
    experts.open.set()
    answer.wait()
    assert engine.stats().steps == first.steps + 4
