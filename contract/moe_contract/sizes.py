"""How large a deployment may be: what one operator, one directory and one Kubernetes object can hold."""

from moe_placement.checks import MOST_EXPERTS

MOST_LAYERS = 1024
MOST_SHARDS = 1024
MOST_REPLICAS = 4096
"""Attention replicas, those on their way out included."""
MOST_APIS = 64
"""Api replicas: each knows the counters of all, so that any of them can tell the sum."""
MOST_SLOTS = 200_000
"""Layers x slots of all shards: 61 x 512 experts in six copies. A placement of that size is a Kubernetes object of most
of a megabyte, and is placed within seconds."""
MOST_SLOTS_READ = 4 * MOST_SLOTS
"""Of a placement that somebody else tells: on the way from one to another there are copies of both."""

__all__ = ["MOST_APIS", "MOST_EXPERTS", "MOST_LAYERS", "MOST_REPLICAS", "MOST_SHARDS", "MOST_SLOTS", "MOST_SLOTS_READ"]
