"""Ours with experts in shard processes, without Ray: an engine for each transport, the shards are the same.

The directory lives in a thread of the engine's process here, and on Ray it does not: what it takes is in the figures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING

from benchmarks.contest.engine import EngineRunner, running
from benchmarks.contest.runs import Runner, Setting
from benchmarks.serving.judge import use_tests
from moe_contract.applications import Network
from moe_serving.routing.client import MAX_REPLY_BYTES
from moe_serving.wire.transport import SocketFabric

if TYPE_CHECKING:
    from cluster import LocalCluster

NETWORKS: dict[str, Network] = {"unix": "unix", "tcp": "tcp"}
LOAD_S = 900.0
"""For the experts of the largest model, on a busy machine."""


@contextmanager
def opened(setting: Setting, wanted: Sequence[str]) -> Iterator[dict[str, Runner]]:
    """The contestants ``wanted``, by their transport, ready."""
    with processes(setting) as shards, ExitStack() as stack:
        yield {name: stack.enter_context(engine(shards, setting, NETWORKS[name])) for name in wanted}


@contextmanager
def processes(setting: Setting) -> Iterator[LocalCluster]:
    """The shards, with a copy of each expert on one of them."""
    use_tests()
    import cluster  # noqa: PLC0415 - the tests' process tree, which can be imported from here on

    cluster.WAIT_S = LOAD_S
    with cluster.LocalCluster.start(setting.model, setting.shards, dtype=setting.dtype) as shards:
        shards.place(setting.shards, copies=1)
        yield shards


def engine(shards: LocalCluster, setting: Setting, network: Network) -> AbstractContextManager[EngineRunner]:
    """One that reaches them by ``network``."""
    fabric = SocketFabric(shards.facts.digest, f"attention by {network}", "local", network, MAX_REPLY_BYTES)
    experts = shards.client(through=lambda sockets: fabric)
    return running(setting, experts, experts.note_step)
