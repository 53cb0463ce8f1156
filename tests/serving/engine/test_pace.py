"""Which tokens count as following one another, and what a step of a real engine tells."""

from __future__ import annotations

import time

from driver import ask, complete, greedy, running_engine

from moe_serving.engine.pace import Pace
from moe_serving.engine.request import GenerationRequest
from moe_serving.engine.sequence import Sequence


def sequences(count: int) -> list[Sequence]:
    return [Sequence(GenerationRequest(str(number), (1, 2), greedy(9))) for number in range(count)]


def test_only_who_got_a_token_in_the_step_before_waited_for_this_one() -> None:
    pace, (a, b, c) = Pace(), sequences(3)
    assert pace.step([a], 10.0) == (0, 0.0, 0)
    assert pace.step([a, b], 10.5) == (1, 0.5, 2)
    a.token_ids.append(3)
    assert pace.step([a, b, c], 11.5) == (2, 1.0, 5)
    assert pace.step([c], 12.0) == (1, 0.5, 2), "b left the batch for others"
    assert pace.step([b], 20.0) == (0, 0.0, 0), "and comes back"
    assert pace.step([b], 20.25) == (1, 0.25, 2)
    pace.failed()
    assert pace.step([b], 30.0) == (0, 0.0, 0)


def test_an_engine_tells_of_each_step(checkpoint_of) -> None:
    told = []
    with running_engine(checkpoint_of("mixtral"), on_step=lambda *step: told.append(step)) as engine:
        began = time.monotonic()
        complete(engine, [(5, 6, 7)], greedy(5), 1)
        ask(engine, (5, 6, 7, 8), greedy(3)).wait()
        lasted = time.monotonic() - began
    assert [(rows, tokens) for rows, tokens, *_ in told] == [(3, 0), *[(1, 1)] * 4, (4, 0), *[(1, 1)] * 2]
    assert all((seconds > 0) is (tokens > 0) for _, tokens, seconds, _ in told)
    assert sum(seconds for _, _, seconds, _ in told) < lasted
    assert [context for *_, context in told] == [0, 5, 6, 7, 8, 0, 6, 7]
