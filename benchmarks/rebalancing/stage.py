"""The data plane without Ray: shard processes and a directory, as the tests start them, and an engine in this process.

Directory and clients share a process with the engine here, and on Ray they do not: what they take is in every figure.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil

from benchmarks.rebalancing.links import Links
from benchmarks.rebalancing.models import Model
from benchmarks.rebalancing.streams import EngineClient
from benchmarks.serving.client import Ask, Tokens
from benchmarks.serving.judge import Judge, use_tests
from moe_contract.applications import AttentionConfig
from moe_contract.report import EpochFigures
from moe_placement import Placement
from moe_serving.engine.engine import Engine
from moe_serving.routing.client import RemoteExperts
from moe_serving.wire.transport import Fabric, SocketFabric

use_tests()

import cluster  # noqa: E402
import driver  # noqa: E402
from cluster import NODE, LocalCluster, Site  # noqa: E402
from driver import complete, greedy, running_engine  # noqa: E402

AT_ONCE = 16
"""Requests asked for together: more than run, and fewer than a queue takes."""

__all__ = ["LocalCluster", "Site", "Stage", "be_patient", "counted", "site", "stage"]


@dataclass(slots=True)
class Stage:
    """Attributes:
    placement: the one that was last migrated to.
    """

    cluster: LocalCluster
    experts: RemoteExperts[Any]
    engine: Engine
    streams: EngineClient
    model: Model
    placement: Placement

    def migrate(self, target: Placement) -> None:
        """Returns once ``target`` is in force everywhere and nothing else is held."""
        self.cluster.apply(target, min_copies=int(min(self.model.copies, target.copies.min())))
        self.cluster.wait_settled()
        self.placement = target

    def complete(self, prompts: Sequence[Tokens], tokens: int) -> list[Tokens]:
        """Greedy answers of so many ``tokens``; a queue keeps all places taken."""
        return complete(self.engine, prompts, greedy(tokens), at_once=AT_ONCE)

    def cpu_seconds(self) -> float:
        """Of processor time that this process and all shards have taken."""
        times = (psutil.Process(shard.pid).cpu_times() for shard in self.cluster.shards)
        return time.process_time() + sum(each.user + each.system for each in times)

    def judge(self) -> Judge:
        """Compares answers with the unsharded model's."""

        def resume(ask: Ask) -> Sequence[int]:
            (tokens,) = complete(self.engine, [ask.prompt], greedy(ask.max_tokens))
            return tokens

        return Judge(self.model.path, resume)


def be_patient() -> None:
    """From now on, for the life of the process: other work on the machine lengthens a run, and ends none."""
    cluster.WAIT_S = driver.WAIT_S = 1800.0


def counted(plane: LocalCluster, rows: int) -> EpochFigures:
    """Figures of the table in force, once the directory has counted so many rows that it routed."""
    told: list[EpochFigures] = []

    def enough() -> bool:
        report = plane.report()
        of_tables = report.traffic.epochs if report.traffic is not None else ()
        told[:] = [each for each in of_tables if each.epoch == report.epoch and each.rows >= rows]
        return bool(told)

    plane.wait_until(enough, f"{rows} rows to be counted")
    return told[0]


def site(links: Links, node: int) -> Site:
    """Where a shard of a simulated node runs."""
    return Site(f"node-{node}", links.host(node), links.namespace(node))


@contextmanager
def stage(
    model: Model,
    *,
    streams: int,
    verify: bool = False,
    sites: Sequence[Site] = (),
    node: str = NODE,
    through: Callable[[SocketFabric], Fabric[Any]] = lambda sockets: sockets,
) -> Iterator[Stage]:
    """``model`` on its shards, with as many places in the batch as there are ``streams``.

    Args:
        sites, node, through: see ``LocalCluster.start`` and ``LocalCluster.client``.
    """
    with LocalCluster.start(model.path, model.shards, verify=verify, sites=sites) as plane:
        placement = plane.place(model.shards, model.copies)
        experts = plane.client(node=node, through=through)
        with running_engine(model.path, AttentionConfig(max_running=streams), experts) as engine:
            yield Stage(plane, experts, engine, EngineClient(engine), model, placement)
