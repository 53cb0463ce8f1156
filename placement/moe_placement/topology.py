"""Where experts can live and what it costs to compute there and to get there.

Pure data with presets; the cost model over it is in ``cost.py``. Built by whoever plans, from what a cluster is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from moe_placement.checks import floats, instance, real, truth, whole, wholes
from moe_placement.errors import InvalidTopologyError


@dataclass(frozen=True)
class Costs:
    """Speeds and sizes of the cost model; the defaults are DeepSeek-V3's experts in FP8 on H100.

    Attributes:
        bytes_per_expert: of one expert of one layer; 3 matrices of d x f = 7168 x 2048 in FP8.
        flop_per_pair: arithmetic of one (token, expert) pair: 2 x 3 x d x f.
        dispatch_bytes: of one token on its way to an expert: d in FP8 plus a 4-byte scale per 128 values.
        combine_bytes: of one token on its way back: d in bf16.
        memory_bandwidth: bytes/s of a shard's memory (H100 SXM data sheet: 3.35 TB/s HBM3).
        flops: per second of a shard in the dtype served (H100 FP8 dense, about half of the peak 1979 TFLOP/s).
        link_bandwidth: bytes/s per direction between shards of a node (NVLink 4: 450 GB/s).
        network_bandwidth: bytes/s per shard between nodes (400 Gb/s NIC: 50 GB/s).
        latency: seconds of one all-to-all beyond its bytes.
        launch: seconds a shard needs for one layer beyond its experts.
        tokens_per_step: tokens that one step takes through a layer, over all shards; 16,384 on 32 GPUs are a prefill
            chunk or a large decode batch, above the crossover from reading weights to computing.
        overlap: whether computing hides communication (two micro-batches in flight).
    """

    bytes_per_expert: float = 3 * 7168 * 2048
    flop_per_pair: float = 2 * 3 * 7168 * 2048
    dispatch_bytes: float = 7168 * (1 + 4 / 128)
    combine_bytes: float = 2 * 7168
    memory_bandwidth: float = 3.35e12
    flops: float = 1.0e15
    link_bandwidth: float = 450e9
    network_bandwidth: float = 50e9
    latency: float = 10e-6
    launch: float = 10e-6
    tokens_per_step: float = 16384
    overlap: bool = False

    def __post_init__(self) -> None:
        for item in fields(self):
            value, may_be_zero = getattr(self, item.name), item.name in ("latency", "launch")
            if item.name == "overlap":
                truth(InvalidTopologyError, "costs: overlap", value)
            else:
                real(InvalidTopologyError, f"costs: {item.name}", value, 0.0 if may_be_zero else 1e-12, most=1e30)


@dataclass(frozen=True)
class Topology:
    """Shards on nodes.

    Attributes:
        node_of_shard: node of each shard; nodes are numbered 0 .. n - 1 without gaps.
        shard_slots: slots per layer of each shard; 0 for one that must end empty (draining): what it holds can be read
            until it is elsewhere.
        shard_speed: relative speed of each shard, 1e-6 .. 1e6; empty means all 1. Loads are balanced in proportion.
        resident_tokens: whether tokens start on the shards themselves (data-parallel attention beside the experts), so
            that a visit to a token's own shard or node costs no network; False where attention is elsewhere.
        token_nodes: where attention is elsewhere, the node of each of its processes, which take tokens in turn: a visit
            to that one costs no network either. -1 is a node without shards; empty means that none is known.
        spare_slots: buffers per shard beyond its slots, shared by all layers, that make room for copies on their way.
        costs: speeds and sizes.
        dead: shards that hold nothing that can be read, whatever a placement says: their copies are lost, and they
            have no slots, whatever ``shard_slots`` said. One that came back empty is named here until what it held is
            made anew, and after that no more.
    """

    node_of_shard: tuple[int, ...]
    shard_slots: tuple[int, ...]
    shard_speed: tuple[float, ...] = ()
    resident_tokens: bool = True
    spare_slots: int = 1
    costs: Costs = field(default_factory=Costs)
    dead: tuple[int, ...] = ()
    token_nodes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        error = InvalidTopologyError
        nodes = wholes(error, "node_of_shard", self.node_of_shard)
        speeds = tuple(floats(error, "shard_speed", self.shard_speed, "[shards]", 1e-6, 1e6).tolist())
        fields_ = {  # tuples, whatever they came as: topologies are keys of caches
            "node_of_shard": nodes,
            "shard_slots": wholes(error, "shard_slots", self.shard_slots),
            "shard_speed": speeds or (1.0,) * len(nodes),
            "spare_slots": whole(error, "spare_slots", self.spare_slots),
            "token_nodes": wholes(error, "token_nodes", self.token_nodes, least=-1, most=max(nodes, default=0)),
            "dead": tuple(sorted(set(wholes(error, "dead", self.dead, most=len(nodes) - 1)))),
        }
        for name, value in fields_.items():
            object.__setattr__(self, name, value)
        truth(error, "resident_tokens", self.resident_tokens)
        instance(error, "costs", self.costs, Costs)
        if not len(self.node_of_shard) == len(self.shard_slots) == len(self.shard_speed):
            raise error(
                f"node_of_shard names {len(self.node_of_shard)} shards, shard_slots {len(self.shard_slots)}, "
                f"shard_speed {len(self.shard_speed)}; they must agree"
            )
        if (numbers := set(nodes)) != set(range(len(numbers))):
            raise error(f"node_of_shard must number nodes 0 .. n - 1 without gaps, got {sorted(numbers)}")
        if self.token_nodes and self.resident_tokens:
            raise error("token_nodes says where tokens start, and resident_tokens that they start on the shards")
        if sum(self.shard_slots) == 0:
            raise error(f"no capacity: shard_slots are {self.shard_slots}; at least one must be above 0")
        alive = tuple(0 if shard in self.dead else slots for shard, slots in enumerate(self.shard_slots))
        object.__setattr__(self, "shard_slots", alive)
        if sum(alive) == 0:
            raise error(f"no capacity: all shards with slots are dead, dead is {self.dead}")

    @property
    def shards(self) -> int:
        return len(self.node_of_shard)

    @cached_property
    def nodes(self) -> int:
        return max(self.node_of_shard) + 1

    @cached_property
    def node_index(self) -> NDArray[np.int64]:
        """int64 ``[shards]``: ``node_of_shard`` as an array."""
        return np.asarray(self.node_of_shard, dtype=np.int64)

    @cached_property
    def slots(self) -> NDArray[np.int64]:
        """int64 ``[shards]``: ``shard_slots`` as an array."""
        return np.asarray(self.shard_slots, dtype=np.int64)

    @cached_property
    def share(self) -> NDArray[np.float64]:
        """float64 ``[shards]``: the part of all load that each shard should carry; 0 without slots."""
        speed = np.where(self.slots > 0, np.asarray(self.shard_speed), 0.0)
        return np.asarray(speed / speed.sum(), dtype=np.float64)

    @cached_property
    def alive(self) -> NDArray[np.int64]:
        """int64 ``[alive]``: the shards that are not dead, in ascending order."""
        return np.setdiff1d(np.arange(self.shards), np.asarray(self.dead, dtype=np.int64))

    def readable(self, held: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """``held``, bool ``[..., shards]``, without the copies of dead shards; the same array where none is dead."""
        if not self.dead:
            return held
        left = held.copy()
        left[..., list(self.dead)] = False
        return left

    def per_node(self, of_shard: NDArray[np.float64]) -> NDArray[np.float64]:
        """float64 ``[nodes]``: the sum over each node's shards of ``[shards]``."""
        return np.bincount(self.node_index, weights=of_shard, minlength=self.nodes).astype(np.float64)

    def with_slots(self, shard_slots: Sequence[int]) -> Topology:
        """The same shards with other numbers of slots; 0 drains a shard."""
        return replace(self, shard_slots=shard_slots)  # type: ignore[arg-type]  # made a tuple there


def h100_nodes(nodes: int = 4, gpus_per_node: int = 8, slots_per_gpu: int = 9, costs: Costs | None = None) -> Topology:
    """H100 nodes, NVLink inside, a 400 Gb/s NIC per GPU between them; one shard per GPU, attention on the same GPUs."""
    sizes = (("nodes", nodes), ("gpus_per_node", gpus_per_node))
    shards = math.prod(whole(InvalidTopologyError, name, value, 1, 1 << 20) for name, value in sizes)
    whole(InvalidTopologyError, "nodes x gpus_per_node", shards, 1, 1 << 20)
    return Topology(
        node_of_shard=tuple(shard // gpus_per_node for shard in range(shards)),
        shard_slots=(slots_per_gpu,) * shards,
        costs=Costs() if costs is None else costs,
    )


def one_host(shards: int, slots_per_shard: int, bytes_per_expert: float = 400e3, hidden: int = 256) -> Topology:
    """Shard processes of one machine behind sockets, attention in a process of its own.

    Speeds are of one CPU core and a unix socket, in round figures (14 GB/s of memory per core; 5 GB/s and 40 us per
    layer through a socket).
    """
    whole(InvalidTopologyError, "shards", shards, 1, 1 << 20)
    whole(InvalidTopologyError, "hidden", hidden, 1)
    costs = Costs(
        bytes_per_expert=bytes_per_expert, flop_per_pair=bytes_per_expert, dispatch_bytes=4 * hidden,
        combine_bytes=4 * hidden, memory_bandwidth=14e9, flops=50e9, link_bandwidth=5e9, network_bandwidth=5e9,
        latency=40e-6, launch=20e-6, tokens_per_step=64,
    )  # fmt: skip
    return Topology((0,) * shards, (slots_per_shard,) * shards, resident_tokens=False, costs=costs)
