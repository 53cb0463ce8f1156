"""Ours as it is served: a Ray of its own with a deployment for each transport, asked over HTTP by this process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from benchmarks.contest.runs import WARM_UP_TOKENS, Run, Runner, Setting, Tokens
from benchmarks.serving.client import Ask, Client, Outcome, Verdict
from benchmarks.serving.judge import use_tests
from moe_contract.applications import Network
from moe_dev.raylocal import LocalRay

NETWORKS: dict[str, Network] = {"http-unix": "unix", "http-tcp": "tcp"}
LOAD_S = 900.0
"""For Ray's processes and the experts of the largest model, on a busy machine."""
SERVED_NAME = "tiny"
"""Of any model, by the tests' deployments."""


@contextmanager
def opened(setting: Setting, wanted: Sequence[str]) -> Iterator[dict[str, Runner]]:
    """The contestants ``wanted``, by their transport, ready."""
    use_tests()
    import plane  # noqa: PLC0415 - the tests' deployments, which can be imported from here on

    plane.WAIT_S = LOAD_S
    with LocalRay.start() as ray, ExitStack() as stack:
        runners = dict[str, Runner]()
        for name in wanted:
            deployed = plane.Plane(ray, name, setting.model, network=NETWORKS[name], dtype=setting.dtype)
            stack.callback(deployed.remove)
            deployed.limits = setting.limits
            deployed.scale(setting.shards)
            deployed.wait_ready()
            runners[name] = HttpRunner(f"{deployed.url}/v1", deployed.api_key)
        yield runners


class HttpRunner:
    """Asks a server, all streams at once."""

    def __init__(self, url: str, key: str) -> None:
        self._url = url
        self._key = key

    def warm_up(self, prompts: Sequence[Tokens]) -> str:
        self.run(prompts, WARM_UP_TOKENS)
        return ""

    def run(self, prompts: Sequence[Tokens], tokens: int) -> Run:
        """
        Raises:
            RuntimeError: a request was not answered to its end.
        """
        outcomes = asyncio.run(self._ask([_Timed(Ask(prompt, tokens)) for prompt in prompts]))
        for outcome in outcomes:
            if outcome.verdict is not Verdict.COMPLETE:
                raise RuntimeError(f"a request over HTTP is {outcome.verdict}: {outcome.why}")
        begin = min(outcome.begun for outcome in outcomes)
        return Run.of(begin, [outcome.times for outcome in outcomes], [outcome.token_ids for outcome in outcomes])

    async def _ask(self, outcomes: list[_Timed]) -> list[_Timed]:
        async with Client(self._url, SERVED_NAME, self._key) as client:
            await asyncio.gather(*map(client.follow, outcomes))
        return outcomes


class _Timed(Outcome):
    """Knows when each token came, ``time.monotonic()``."""

    def __init__(self, ask: Ask) -> None:
        super().__init__(ask, time.monotonic())
        self.times: list[float] = []

    def note(self, ids: Sequence[int], count: int, last: float) -> float:
        now = super().note(ids, count, last)
        self.times += [now] * count
        return now
