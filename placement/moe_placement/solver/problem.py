"""What is known of one layer when it is placed, the prices that the search weighs with, and the parts that a region is
split into: what experts need of them, and what falls to each of them of loads, copies and tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from moe_placement.compiled import compiled
from moe_placement.dispatch import NOBODY, choose_copies, choose_from, copies_on
from moe_placement.solver.constants import EVEN_TOKENS, MAX_PARTS, TOLERANCE
from moe_placement.solver.cover import popcount
from moe_placement.topology import Topology

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


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
        nodes = _used_nodes(topology)
        several = len(nodes) > 1
        bandwidth = (costs.network_bandwidth if several else costs.link_bandwidth) * int(usable.sum())
        visit = costs.tokens_per_step * (costs.dispatch_bytes + costs.combine_bytes) / bandwidth
        units = len(nodes) if several else int(usable.sum())
        at_home = float(topology.resident_tokens)
        if topology.token_nodes and several:
            at_home = float(np.isin(topology.token_nodes, nodes).mean())
        visits = (units - at_home) * (1 - (1 - 1 / units) ** top_k)
        return cls(compute / visit + visits, compute / visit)


def slowest_of(count: int) -> float:
    """Standard deviations above the mean that the largest of ``count`` normal deviates is expected at (Blom, 1958):
    what is waited for where ``count`` shards work side by side.
    """
    return NormalDist().inv_cdf((count - 0.375) / (count + 0.25))


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


@lru_cache(maxsize=8)
def units(topology: Topology) -> tuple[Ints, ...]:
    """The groups of shards that experts are split between: nodes, or the shards of a single node."""
    usable, nodes = topology.slots > 0, _used_nodes(topology)
    if len(nodes) > 1:
        return tuple(np.flatnonzero((topology.node_index == node) & usable) for node in nodes)
    return tuple(np.array([shard]) for shard in np.flatnonzero(usable))


def _used_nodes(topology: Topology) -> Ints:
    """int64 ``[n]``, ascending: the nodes that hold anything. Where they are several, they are the ``units``."""
    return np.unique(topology.node_index[topology.slots > 0])


@dataclass(frozen=True, slots=True)
class Parts:
    """What a group of units is split into: neighbouring units, in at most ``MAX_PARTS`` parts of about equal size.

    Attributes:
        begins: the first unit of each part, and the end of the last.
        shards: of each part.
        part_of: int64 ``[shards]``, the part that each shard is in; -1 for none.
        slots: int64 ``[parts]``.
        share: float64 ``[parts]``, what part of the group's load each should carry.
        of_all: what part of all units the group is; 1 on the first level.
    """

    begins: tuple[int, ...]
    shards: tuple[Ints, ...]
    part_of: Ints
    slots: Ints
    share: Floats
    of_all: float

    @classmethod
    def of(cls, topology: Topology, begin: int, end: int) -> Parts:
        count = min(MAX_PARTS, end - begin)
        chunks = [len(chunk) for chunk in np.array_split(np.arange(end - begin), count)]
        begins = (begin, *(begin + np.cumsum(chunks)).tolist())
        shards = tuple(np.concatenate(units(topology)[b:e]) for b, e in pairwise(begins))
        part_of = np.full(topology.shards, -1, dtype=np.int64)
        for part, inside in enumerate(shards):
            part_of[inside] = part
        share = np.array([topology.share[inside].sum() for inside in shards])
        slots = np.array([topology.slots[inside].sum() for inside in shards])
        return cls(begins, shards, part_of, slots, share / share.sum(), (end - begin) / len(units(topology)))


parts_of = lru_cache(maxsize=256)(Parts.of)
"""Every layer is split alike."""


@compiled
def slots_by_parts(load: Floats, least: Ints, widths: Ints, full: float) -> Ints:
    """int64 ``[experts, parts + 1]``: slots an expert needs in each of its parts, by the number of its parts.

    One; more where a copy would carry more than ``full`` of a shard's fair load, or where ``least`` asks for more
    copies than parts. ``widths`` int64 ``[parts]`` are shards.
    """
    experts, parts = len(load), len(widths)
    most, narrowest = max(full * load.sum() / widths.sum(), 1e-300), float(widths.min())
    slots = np.ones((experts, parts + 1), np.int64)
    for e in range(experts):
        for number in range(parts + 1):
            count = max(number, 1)
            # As floats: a load far beyond ``most`` is no int64.
            by_load = np.ceil(load[e] / count / most)
            by_least = np.ceil(least[e] / count)
            slots[e, number] = int(max(1.0, min(max(by_load, by_least), narrowest)))
    return slots


@compiled
def fewest_parts(load: Floats, least: Ints, share: Floats) -> Ints:
    """int64 ``[experts]``: parts each expert must be in: for its copies, or because its load is too much for one."""
    fewest, most = least.copy(), max(load.sum(), 1e-300) * share.max()
    for e in range(len(load)):
        if least[e] > 0:
            heavy = np.ceil(load[e] / most - 1e-9)
            fewest[e] = int(min(max(float(least[e]), heavy), float(len(share))))
        fewest[e] = min(fewest[e], len(share))
    return fewest


@compiled
def admit(load: Floats, present: Bools, slots_of: Ints, capacity: Ints, share: Floats, masks: Ints) -> None:
    """Give each expert that is new in this region (moved here by the split above) a part: where there is room, the one
    that is fullest least, else the one with most room.
    """
    experts, parts = len(load), len(capacity)
    free, filled = capacity.copy(), np.zeros(parts)
    for e in range(experts):
        count = popcount(masks[e])
        for p in range(parts):
            if (masks[e] >> p) & 1:
                free[p] -= slots_of[e, count]
                filled[p] += load[e] / count
    for e in range(experts):
        if not present[e] or masks[e] != 0:
            continue
        best = 0
        for p in range(1, parts):
            both = min(free[p], free[best]) >= slots_of[e, 1]
            if filled[p] / share[p] < filled[best] / share[best] if both else free[p] > free[best]:
                best = p
        masks[e] = 1 << best
        free[best] -= slots_of[e, 1]
        filled[best] += load[e]


@compiled
def even_shares(masks: Ints, parts: int) -> Floats:
    """float64 ``[experts, parts]``: what fraction of each expert's load each part serves if copies share evenly."""
    served = np.zeros((len(masks), parts))
    for e in range(len(masks)):
        for p in range(parts):
            if (masks[e] >> p) & 1:
                served[e, p] = 1.0 / popcount(masks[e])
    return served


def dispatched(sets: Ints, masks: Ints, split: Parts, topology: Topology) -> Ints:
    """int64 ``[n, k]``: the part that serves each expert of sets ``[n, k]`` by the rule of dispatch, -1 for none.

    Tokens start on the shards of the split in turn where they are resident, or on ``token_nodes``; below the first
    level on none of them, since most of those that come there started elsewhere.
    """
    count = len(split.shards)
    members = ((masks[:, None] >> np.arange(count)) & 1).astype(bool)
    copies = copies_on(members, np.arange(count), split.share)
    if split.of_all < 1:
        return choose_copies(sets, copies)
    if topology.token_nodes:
        return choose_from(sets, copies, _home_parts(topology, split))[0]
    inside = split.part_of[split.part_of >= 0]
    return choose_copies(sets, copies, inside[np.arange(len(sets)) % len(inside)] if topology.resident_tokens else None)


def starts_in(topology: Topology, split: Parts) -> Floats:
    """float64 ``[parts]``: what part of all tokens starts in each part."""
    count = len(split.shards)
    if topology.resident_tokens:
        return np.full(count, split.of_all / count)
    homes = np.array(_home_parts(topology, split), dtype=np.int64)
    return np.bincount(homes[homes >= 0], minlength=count) / max(len(homes), 1)


def _home_parts(topology: Topology, split: Parts) -> list[int]:
    """The part of each of ``token_nodes``; ``NOBODY`` for one that is in none, or where parts split a node."""
    if len(_used_nodes(topology)) == 1:
        return [NOBODY] * len(topology.token_nodes)
    nodes = [np.unique(topology.node_index[inside]).tolist() for inside in split.shards]
    of_node = {node: part for part, inside in enumerate(nodes) for node in inside}
    return [of_node.get(node, NOBODY) for node in topology.token_nodes]


def seen_shares(sets: Ints, part_of_pair: Ints, masks: Ints, parts: int) -> Floats:
    """As ``even_shares``, but as ``dispatched`` for the sets; the fewer tokens chose an expert, the more evenly."""
    even = even_shares(masks, parts)
    counts = np.zeros_like(even)
    served = part_of_pair >= 0
    np.add.at(counts, (sets[served], part_of_pair[served]), 1.0)
    shares = (counts + EVEN_TOKENS * even) / (counts.sum(axis=1, keepdims=True) + EVEN_TOKENS)
    return np.asarray(shares, dtype=np.float64)


@compiled
def shares_of_part(
    load: Floats, least: Ints, elsewhere: Ints, masks: Ints, served: Floats, part: int
) -> tuple[Floats, Ints, Ints]:
    """By expert: its load in the part, the copies that it must have there, and its copies in all other regions; all 0
    for an expert that is not in the part. ``served`` as from ``even_shares``.
    """
    experts = len(load)
    part_load = np.zeros(experts)
    part_least, beyond = np.zeros(experts, np.int64), np.zeros(experts, np.int64)
    for e in range(experts):
        if (masks[e] >> part) & 1:
            copies = popcount(masks[e])
            part_load[e] = load[e] * served[e, part]
            part_least[e] = max(1, -(-least[e] // copies))
            beyond[e] = copies - 1 + elsewhere[e]
    return part_load, part_least, beyond


def sets_of_part(sets: Ints, part_of_pair: Ints, part: int) -> Ints:
    """int64 ``[m, k]``: of each set ``[n, k]`` the experts that the part serves, the others -1; sets without any of
    them are left out.
    """
    here = part_of_pair == part
    some = here.any(axis=1)
    return np.where(here[some], sets[some], -1)
