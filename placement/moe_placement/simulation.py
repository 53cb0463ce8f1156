"""Judge a placement on traffic: the four figures that every claim of this package is made in.

``simulate`` replays whole expert sets through the shared choice of copies. Called by the solver for its predictions, by
benchmarks and by the command line.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moe_placement.checks import experts_once, instance
from moe_placement.checks import ids as checked_ids
from moe_placement.cost import LayerTraffic, activated, layer_seconds
from moe_placement.dispatch import LayerCopies, choose_copies, choose_from, layer_copies
from moe_placement.errors import InvalidTraceError, MismatchError
from moe_placement.placement import Placement
from moe_placement.topology import Topology


@dataclass(frozen=True, slots=True)
class Figures:
    """Means over layers; ``by_layer`` holds the same without ``by_layer``.

    Attributes:
        fan_out: shards visited per token and layer.
        node_fan_out: nodes visited per token and layer beside the one that the token starts on; all, where that is not
            known.
        shard_balance: mean / max over shards of pairs served, each divided by its share of the speed.
        node_balance: the same over nodes.
        activated_balance: mean / max over shards of experts activated in a step.
        seconds: modelled seconds of one step through a layer.
    """

    fan_out: float
    node_fan_out: float
    shard_balance: float
    node_balance: float
    activated_balance: float
    seconds: float
    by_layer: tuple[Figures, ...] = ()


def simulate(ids: ArrayLike, placement: Placement, topology: Topology) -> Figures:
    """Replay expert sets ``[tokens, layers, k]``; tokens start on the shards that are not dead in turn, or on
    ``token_nodes``. No token visits no shard, and what has no load is balanced. Copies on dead shards serve nobody.

    Raises:
        InvalidTraceError: wrong shape, ids out of range, or an expert twice in one set.
        MismatchError: the trace, the placement and the topology are not of one model and cluster, or an expert is on
            dead shards only.
    """
    instance(MismatchError, "placement", placement, Placement)
    instance(MismatchError, "topology", topology, Topology)
    array = checked_ids(InvalidTraceError, "ids", ids, "[tokens, layers, k]", placement.experts)
    if array.shape[1] != placement.layers:
        raise MismatchError(f"the trace has {array.shape[1]} layers, the placement {placement.layers}")
    experts_once(InvalidTraceError, array)
    return summarise(
        judge(array[:, layer], layer_copies(placement, topology, layer), topology, placement.experts)
        for layer in range(placement.layers)
    )


def judge(ids: NDArray[np.integer], copies: LayerCopies, topology: Topology, experts: int) -> Figures:
    """Figures of one layer for ids ``[tokens, k]``."""
    traffic, fan_out, remote = replay(ids, copies, topology, experts)
    return figures_of(traffic, fan_out, remote, topology)


def figures_of(traffic: LayerTraffic, fan_out: float, remote: float, topology: Topology) -> Figures:
    """Figures of one layer whose tokens visit ``fan_out`` shards and ``remote`` remote nodes on average."""
    share = topology.share
    load = traffic.per_shard(traffic.copy_load)
    return Figures(
        fan_out=fan_out,
        node_fan_out=remote,
        shard_balance=balance(load, share),
        node_balance=balance(topology.per_node(load), topology.per_node(share)),
        activated_balance=balance(traffic.per_shard(activated(traffic, topology)), share),
        seconds=layer_seconds(traffic, topology),
    )


def replay(
    ids: NDArray[np.integer], copies: LayerCopies, topology: Topology, experts: int
) -> tuple[LayerTraffic, float, float]:
    """Dispatch ids ``[tokens, k]``: (traffic, shards visited per token, remote nodes visited per token)."""
    tokens, shards, nodes = len(ids), topology.shards, topology.nodes
    rows = np.arange(tokens)
    home = topology.alive[rows % len(topology.alive)] if topology.resident_tokens else None
    if topology.token_nodes:
        chosen, start = choose_from(ids, copies, topology.token_nodes)
    else:
        chosen, start = choose_copies(ids, copies, home), None
    flat = np.asarray(ids, dtype=np.int64) * shards + chosen
    served = np.bincount(flat[chosen >= 0], minlength=experts * shards)
    busy = np.flatnonzero(served)
    copy_load, copy_shard = served[busy].astype(np.float64), busy % shards
    # A row of each shard and node, since tokens are many; the last rows are of ``NOBODY``.
    at_shard = np.zeros((shards + 1, tokens), dtype=bool)
    at_shard[chosen, rows[:, None]] = True
    at_node = np.zeros((nodes + 1, tokens), dtype=bool)
    at_node[copies.node_of_shard[chosen], rows[:, None]] = True
    fan_out = np.count_nonzero(at_shard[:shards]) / max(tokens, 1)
    out = np.zeros(nodes)
    if start is not None:  # what leaves their nodes is a matter of attention's own links
        at_node[start[start >= 0], rows[start >= 0]] = False
    if home is not None:
        at_shard[home, rows] = False
        home_node = copies.node_of_shard[home]
        at_node[home_node, rows] = False
        remote = at_node[:nodes].sum(axis=0)
        out = np.bincount(home_node, weights=remote, minlength=nodes).astype(np.float64)
    came = at_node[:nodes].sum(axis=1).astype(np.float64) if nodes > 1 else np.zeros(1)
    visits = at_shard[:shards].sum(axis=1).astype(np.float64)
    traffic = LayerTraffic(float(tokens), copy_load, copy_shard, visits, came, out)
    return traffic, float(fan_out), float(np.count_nonzero(at_node[:nodes]) / max(tokens, 1))


def balance(load: NDArray[np.float64], share: NDArray[np.float64]) -> float:
    """mean / max of load relative to what each should carry; 1 for no load, 0 if a part without a share has load."""
    used = share > 0
    if not used.all():
        if (load[~used] > 0).any():
            return 0.0
        load, share = load[used], share[used]
    top = float((load / share).max(initial=0))
    return float(load.sum() / share.sum() / top) if top > 0 else 1.0


def summarise(layers: Iterable[Figures]) -> Figures:
    """Means over layers."""
    each = tuple(layers)

    def mean(name: str) -> float:
        return float(np.mean([getattr(figures, name) for figures in each])) if each else 0.0

    return Figures(
        mean("fan_out"), mean("node_fan_out"), mean("shard_balance"), mean("node_balance"), mean("activated_balance"),
        mean("seconds"), each,
    )  # fmt: skip
