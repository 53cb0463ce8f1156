"""What a shard says of itself to the directory. No torch here: the directory's process has none."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from moe_contract.applications import Weights
from moe_serving.wire.endpoint import Address

ExpertKey = tuple[int, int]
"""(layer, expert)."""


CHECKPOINT = None
"""The source that each shard has of its own."""

Source = Address | None
"""Where an expert may come from: another shard, or the checkpoint."""


@dataclass(frozen=True, slots=True)
class LoadOrder:
    """One expert that a shard is to load.

    Attributes:
        layer, expert: which one.
        sources: nearest first, the checkpoint among them; who cannot give it is passed over.
        urgent: nobody can answer for this expert, so it need not wait for its share of ``max_bytes_per_second``.
    """

    layer: int
    expert: int
    sources: tuple[Source, ...] = (CHECKPOINT,)
    urgent: bool = False

    def __post_init__(self) -> None:
        if CHECKPOINT not in self.sources:
            raise ValueError(f"expert {self.expert} of layer {self.layer} is to be loaded, but not from the checkpoint")

    @property
    def key(self) -> ExpertKey:
        return self.layer, self.expert


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


@dataclass(frozen=True, slots=True)
class Loading:
    """What a shard still has to load.

    Attributes:
        queue: what is on its way, or comes next, first.
        begun: whether the first of it is on its way.
    """

    queue: tuple[ExpertKey, ...] = ()
    begun: bool = False

    @classmethod
    def of(cls, wanted: Collection[ExpertKey], on_its_way: ExpertKey | None) -> Loading:
        """``wanted``, of which what is on its way goes on, whatever is more urgent, and so comes first."""
        if on_its_way is None or on_its_way not in wanted:
            return cls(tuple(wanted))
        return cls((on_its_way, *(key for key in wanted if key != on_its_way)), begun=True)

    @property
    def on_its_way(self) -> ExpertKey | None:
        return self.queue[0] if self.begun else None


@dataclass(frozen=True, slots=True, eq=False)
class ShardDescription:
    """A shard at one moment; travels as the answer of the directory's call.

    Attributes:
        index, node, incarnation: see ``ShardIdentity``.
        pid: of its process.
        address: where it listens; None until it has opened the checkpoint.
        digest: of the checkpoint it reads; None until then.
        near_checkpoint: its node reads the checkpoint from itself, and not over the network: all of its files.
        capacity: experts it may hold over all layers, spare buffers included.
        held: bool ``[layers, experts]``; None until the checkpoint is open.
        loading: see ``Loading``.
        problem: why it holds less than it was told to, if so.
        counts: see ``ExpertServer.counts`` and ``worked``, ``ExpertLoader.counts`` and ``Examiner.counts``.
        device: on which it computes, as torch calls its kind; empty until the checkpoint is open.
        memory: bytes of that device in all.
        version: the same as long as nothing else of it has changed but ``counts``; None where that is not told.
        fetched: bytes on its node of the files that processes there have asked for, and bytes of all of these; None
            while it waits for none.
        weights: how it holds experts.
    """

    index: int
    node: str
    incarnation: str
    pid: int
    address: Address | None = None
    digest: str | None = None
    near_checkpoint: bool = False
    capacity: int = 0
    held: NDArray[np.bool_] | None = None
    loading: Loading = field(default_factory=Loading)
    problem: str | None = None
    counts: dict[str, int] = field(default_factory=dict)
    device: str = ""
    memory: int = 0
    version: str | None = None
    fetched: tuple[int, int] | None = None
    weights: Weights = "Checkpoint"
