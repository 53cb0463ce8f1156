"""Greedy tokens over real shards equal plain transformers' in float32: models x shards x copies x batch x network.

Shards are processes of their own, reached over sockets; Serve is not involved. 32 prompts of 64 tokens each time make
the whole matrix, a quarter of an hour (``make exactness``); every cell of it is sampled each time all tests run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from cluster import LocalCluster
from driver import ask, complete, greedy, running_engine
from exactness import Tally, compare
from reference import build_checkpoint, prompts, reference_greedy

from moe_contract.applications import Network
from moe_serving.engine.engine import Engine
from moe_serving.routing.client import RemoteExperts
from moe_serving.wire.transport import SocketCompletion

PROMPTS, TOKENS = 32, 64
SAMPLED = {1: 3, 8: 12}
"""Prompts of the sample, by how many are asked at once: time goes with the number of steps."""
SHARDS_AND_COPIES = [(1, 1), (2, 1), (2, 2), (4, 1), (4, 2)]
"""All of 1, 2, 4 shards and 1, 2 copies with no more copies than shards."""
RANDOM = {
    "mixtral": {"num_hidden_layers": 2},
    "qwen2_moe": {},
    "qwen3_moe": {},
    "olmoe": {"num_hidden_layers": 2, "fused": True},
}
"""Random checkpoints, two or three MoE layers each, by the fields that differ from ``reference.CONFIGS``; Olmoe's
experts are stored fused."""
MATRIX = [
    (model, shards, copies, at_once)
    for model in ("tiny", "mixtral", "qwen3_moe", "olmoe")
    for shards, copies in SHARDS_AND_COPIES
    for at_once in (1, 8)
]

Tokens = tuple[int, ...]


class Served:
    """One model over one kind of network: four shards and an engine that asks them."""

    def __init__(
        self, path: Path, cluster: LocalCluster, experts: RemoteExperts[SocketCompletion], engine: Engine
    ) -> None:
        self._path = path
        self._cluster = cluster
        self._experts = experts
        self._engine = engine

    @classmethod
    def start(cls, path: Path, network: Network, stack: ExitStack) -> Served:
        cluster = stack.enter_context(LocalCluster.start(path, shards=4, network=network))
        experts = cluster.client()
        return cls(path, cluster, experts, stack.enter_context(running_engine(path, experts=experts)))

    def compare_all(self, shards: int, copies: int, at_once: int, count: int, tally: Tally) -> None:
        self._cluster.place(shards, copies)
        before = self._pairs_by_shard()
        asked = prompts(count, vocabulary=self._engine.model.vocabulary)
        answers = complete(self._engine, asked, greedy(TOKENS), at_once)
        for prompt, wanted, got in zip(asked, reference_greedy(self._path, asked, TOKENS), answers, strict=True):
            compare(self._path, prompt, wanted, got, lambda done, p=prompt: self._resume(p, done), tally)
        placed = [index < shards for index in range(4)]
        self._cluster.wait_until(
            lambda: [now > then for now, then in zip(self._pairs_by_shard(), before, strict=True)] == placed,
            f"the first {shards} shards, and no others, to have been asked",
        )

    def _pairs_by_shard(self) -> list[int]:
        return [shard.pairs for shard in self._cluster.report().shards]

    def _resume(self, prompt: Tokens, emitted: Tokens) -> Tokens:
        if len(emitted) == TOKENS:
            return ()
        return ask(self._engine, prompt, greedy(TOKENS), emitted).wait().token_ids


@pytest.fixture(scope="module")
def served(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, Network], Served]]:
    """By model and network, started when first asked for."""
    running: dict[tuple[str, Network], Served] = {}
    paths = {"tiny": tiny}
    with ExitStack() as stack:

        def get(model: str, network: Network) -> Served:
            if model not in paths:
                paths[model] = build_checkpoint(model, tmp_path_factory.mktemp(model), **RANDOM[model])
            if (model, network) not in running:
                running[model, network] = Served.start(paths[model], network, stack)
            return running[model, network]

        yield get


@pytest.fixture(scope="module")
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    tally = Tally()
    yield tally
    request.config.get_terminal_writer().line(f"\nexactness: {tally}")
    tally.check()


cells = pytest.mark.parametrize(("model", "shards", "copies", "at_once"), MATRIX)
over_tcp = pytest.mark.parametrize("model", ["tiny", *RANDOM])


@cells
def test_sample_of_unix(served, model, shards, copies, at_once, tally):
    served(model, "unix").compare_all(shards, copies, at_once, SAMPLED[at_once], tally)


@over_tcp
def test_sample_of_tcp(served, model, tally):
    served(model, "tcp").compare_all(shards=4, copies=2, at_once=8, count=SAMPLED[8], tally=tally)


@pytest.mark.whole
@cells
def test_unix(served, model, shards, copies, at_once, tally):
    served(model, "unix").compare_all(shards, copies, at_once, PROMPTS, tally)


@pytest.mark.whole
@over_tcp
def test_tcp(served, model, tally):
    served(model, "tcp").compare_all(shards=4, copies=2, at_once=8, count=PROMPTS, tally=tally)
