"""What a shard says of itself to the directory. No torch here: the directory's process has none."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from moe_serving.wire.endpoint import Address

ExpertKey = tuple[int, int]
"""(layer, expert)."""


@dataclass(frozen=True, slots=True)
class ShardIdentity:
    """Which shard a process is, and where.

    Attributes:
        index: of the shard in the placement.
        node: Ray's id of the node it runs on.
        host: the address that it listens on.
        incarnation: random, so that each process of a shard is told from the one before.
    """

    index: int
    node: str
    host: str
    incarnation: str = field(default_factory=lambda: secrets.token_hex(8))


@dataclass(frozen=True, slots=True, eq=False)
class ShardDescription:
    """A shard at one moment; travels as the answer of an actor call.

    Attributes:
        index, node, incarnation: see ``ShardIdentity``.
        pid: of its process.
        address: where it listens; None until it has opened the checkpoint.
        digest: of the checkpoint it reads; None until then.
        capacity: experts it may hold over all layers, spare buffers included.
        held: bool ``[layers, experts]``; None until the checkpoint is open.
        loading: what it still has to load, next first.
        problem: why it holds less than it was told to, if so.
        counts: see ``ExpertServer.counts``.
        version: the same as long as nothing else of it has changed but ``counts``; None where that is not told.
    """

    index: int
    node: str
    incarnation: str
    pid: int
    address: Address | None = None
    digest: str | None = None
    capacity: int = 0
    held: NDArray[np.bool_] | None = None
    loading: tuple[ExpertKey, ...] = ()
    problem: str | None = None
    counts: dict[str, int] = field(default_factory=dict)
    version: str | None = None
