"""Who takes part, and in which process. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

BASELINE = "whole"
"""What ratios are to, always there."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """Attributes:
    team: module of this package whose process it lives in, with others of the same model.
    words: what it is.
    beside: whether what it needs computes a little while others run: it is measured after all the others, with a
        baseline of its own.
    """

    team: str
    words: str
    beside: bool = False


CONTESTANTS = {
    BASELINE: Contestant("unsharded", "transformers, its modules in a bare loop, static batch, best experts function"),
    "generate": Contestant("unsharded", "transformers, generate(), static batch"),
    "continuous": Contestant("unsharded", "transformers, continuous batching (paged cache)"),
    "local": Contestant("local", "ours, engine and experts in one process"),
    "unix": Contestant("sharded", "ours, experts in shard processes, unix sockets"),
    "tcp": Contestant("sharded", "ours, experts in shard processes, TCP"),
    "http-unix": Contestant("http", "ours on Ray Serve over HTTP, unix sockets to shards", beside=True),
    "http-tcp": Contestant("http", "ours on Ray Serve over HTTP, TCP to shards", beside=True),
}


def stages(wanted: Collection[str]) -> list[tuple[str, ...]]:
    """What runs interleaved: first those that leave the machine alone while others run, then the rest. Each begins with
    the baseline; one of the baseline alone only where nothing else is wanted."""
    named = [name for name in CONTESTANTS if name in wanted and name != BASELINE]
    parts = [[name for name in named if CONTESTANTS[name].beside is beside] for beside in (False, True)]
    return [(BASELINE, *part) for part in parts if part] or [(BASELINE,)]


def teams(stage: Collection[str]) -> dict[str, tuple[str, ...]]:
    """The contestants of a stage by the process that they live in."""
    found: dict[str, tuple[str, ...]] = {}
    for name in stage:
        team = CONTESTANTS[name].team
        found[team] = (*found.get(team, ()), name)
    return found
