"""What tokens really do, in bounded memory: loads, pairs, transitions, sampled expert sets, loads per window."""

from moe_placement.statistics.core import RoutingStatistics
from moe_placement.statistics.wire import decode_statistics, encode_statistics

__all__ = ["RoutingStatistics", "decode_statistics", "encode_statistics"]
