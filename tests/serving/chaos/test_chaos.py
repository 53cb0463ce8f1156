"""Processes of each kind are killed and frozen, and a whole node, while greedy streams run: `make chaos`.

No answer may be wrong. A stream may fail only where the api that carried it was hit; every other one stands still for
`PAUSE_S` at most. `make test` and `make test-long` have one blow of each kind in `test_faults`.
"""

import asyncio
import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.serving.client import Ask, Client
from benchmarks.serving.judge import Judge
from benchmarks.serving.traffic import ClosedLoop, Mix, streams_of
from chaos.stage import Stage, kinds
from chaos.verdict import PAUSE_S, Cost, cost, rows

from moe_dev.raylocal import LocalRay

pytestmark = [pytest.mark.whole, pytest.mark.e2e, pytest.mark.ray, pytest.mark.timeout(1800)]

ROUNDS = int(os.environ.get("ROUNDS", "5"))
STREAMS = 8
FLOW_S = 150.0
MIX = Mix(prompt=(8, 24), answer=(64, 96), distinct=STREAMS)


@pytest.fixture(scope="session")
def stage(tiny: Path) -> Iterator[Stage]:
    with LocalRay.start() as ray:
        yield Stage(ray, tiny)


@pytest.fixture(scope="session")
def costs() -> Iterator[dict[str, list[Cost]]]:
    """Filled by the tests, printed at the end of all."""
    costs: dict[str, list[Cost]] = {}
    yield costs
    print(f"\n\n{STREAMS} streams at a time; pauses and times until all is ready again: median–longest\n{rows(costs)}")


@pytest.fixture(scope="session")
def judge(stage: Stage, tiny: Path) -> Judge:
    def resume(ask: Ask) -> list[int]:
        async def answer() -> list[int]:
            async with _client(stage) as client:
                return (await client.ask(ask)).token_ids

        return asyncio.run(answer())

    return Judge(tiny, resume)


@pytest.mark.parametrize(("what", "how"), kinds(), ids=map("-".join, kinds()))
async def test_nothing_is_wrong_and_nobody_waits_for_long(stage, costs, judge, what, how) -> None:
    blows = []
    async with _client(stage) as client, ClosedLoop(client, streams_of(MIX.asks())) as load:
        await _flow(load)
        for _ in range(ROUNDS):
            blows.append(await asyncio.to_thread(stage.strike, what, how))
            print(f"{what} {how}: all is ready again after {blows[-1].ready - blows[-1].at:.0f} s", flush=True)
            await _flow(load)
    of_kind = costs[f"{what} {how}"] = [
        await asyncio.to_thread(cost, blow, after, load.outcomes, judge.is_wrong)
        for blow, after in itertools.zip_longest(blows, blows[1:])
    ]
    print(rows({f"{what} {how}": of_kind}))
    assert all(each.streams >= STREAMS for each in of_kind)
    assert [each.failed for each in of_kind] == [()] * ROUNDS
    assert [each.wrong for each in of_kind] == [0] * ROUNDS
    assert [each.slow for each in of_kind] == [()] * ROUNDS, f"silent for more than {PAUSE_S:.0f} s"


def _client(stage: Stage) -> Client:
    return Client(f"{stage.plane.url}/v1", "tiny", stage.plane.api_key)


async def _flow(load: ClosedLoop) -> None:
    """Until as many more answers have come as there are streams."""
    enough = len(load.outcomes) + STREAMS
    end = time.monotonic() + FLOW_S
    while len(load.outcomes) < enough:
        assert time.monotonic() < end, f"waited {FLOW_S:.0f} s for {enough} answers: {len(load.outcomes)}"
        await asyncio.sleep(0.1)
