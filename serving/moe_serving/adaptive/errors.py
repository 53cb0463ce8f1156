"""Why adaptive routing, or its calibration, cannot be had."""

from moe_serving.errors import MoEServingError


class AdaptiveRoutingError(MoEServingError):
    """Names the field or option, its value and the cure."""
