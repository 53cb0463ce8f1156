"""What is known of one layer when it is placed, and the prices that the search weighs with."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from moe_placement.solver.constants import TOLERANCE
from moe_placement.topology import Topology

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Prices:
    """What balance is worth, in remote visits per token.

    Attributes:
        overload: of one part that carries twice its share.
        surge: of all parts that may rise to twice their load.
    """

    overload: float
    surge: float

    @classmethod
    def of(cls, load: Floats, topology: Topology, top_k: int) -> Prices:
        """What the cost model says of evenly spread load: the seconds that shards compute, over those that one remote
        visit of each token takes, its bytes over the bandwidth between nodes or inside the only one. A part that is
        overfull computes longer and is visited more; a surge is computed only, since who visits whom is not known to
        surge.

        Where weights take longer to read than to multiply with, this is the most that load can matter. Visits are those
        of experts chosen and placed at random.
        """
        costs, usable = topology.costs, topology.share > 0
        pairs = load * (costs.tokens_per_step * top_k)
        read = -np.expm1(-pairs) * (costs.bytes_per_expert / costs.memory_bandwidth)
        work = float(np.maximum(read, pairs * (costs.flop_per_pair / costs.flops)).sum())
        compute = work / float(np.asarray(topology.shard_speed)[usable].sum())
        nodes = len(np.unique(topology.node_index[usable]))
        several = nodes > 1
        bandwidth = (costs.network_bandwidth if several else costs.link_bandwidth) * int(usable.sum())
        visit = costs.tokens_per_step * (costs.dispatch_bytes + costs.combine_bytes) / bandwidth
        units = nodes if several else int(usable.sum())
        visits = (units - int(topology.resident_tokens)) * (1 - (1 - 1 / units) ** top_k)
        return cls(compute / visit + visits, compute / visit)


@dataclass(frozen=True, slots=True)
class LayerProblem:
    """What is known of one layer.

    Attributes:
        load: float64 ``[experts]``, summing to 1.
        sets: int64 ``[n, k]`` sampled expert sets, -1 for none.
        pairs: float32 ``[experts, experts]`` tokens that chose both.
        least: int64 ``[experts]`` copies that each expert must have.
        elsewhere: int64 ``[experts]`` copies in other regions, which can take over when load surges here.
        local: whether all copies of an expert belong on one node.
        seed: of the search.
        prices: of overload and surges.
        sampled: tokens sampled, of which ``sets`` are those that matter here.
        tolerance: load above its share that a part may carry before it is penalised.
        covariance: float64 ``[experts, experts]`` of the layer's loads from window to window; None where not known.
        weight: float64 ``[experts]``, what part of the layer's load of each expert is this problem's.
        risk: standard deviations that the load of a part may rise by.
        shard_risk: the same of a shard inside its node.
        thorough: whether to search long; not where a few changes are sought, or many splits follow one another.
        deadline: of the monotonic clock, in seconds; no search begins after it.
    """

    load: Floats
    sets: Ints
    pairs: NDArray[np.float32]
    least: Ints
    elsewhere: Ints
    local: bool
    seed: int
    prices: Prices
    sampled: int
    tolerance: float = TOLERANCE
    covariance: Floats | None = None
    weight: Floats | None = None
    risk: float = 0.0
    shard_risk: float = 0.0
    thorough: bool = True
    deadline: float = math.inf

    def loads_only(self) -> LayerProblem:
        """The same where nothing is known but loads."""
        return replace(self, sets=self.sets[:0], covariance=None)

    def covariance_among(self, experts: Ints | slice) -> Floats:
        """float64 ``[n, n]`` of this problem's part of some experts' loads; ``covariance`` must be known.

        Made when asked for: a table for each part of each split, most never looked at, would take longer than the rest.
        """
        covariance = np.zeros((0, 0)) if self.covariance is None else self.covariance
        if not isinstance(experts, slice):
            covariance = covariance[np.ix_(experts, experts)]
        if self.weight is None:
            return covariance
        weight = self.weight[experts]
        return covariance * np.outer(weight, weight)
