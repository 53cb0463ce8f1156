"""What ends a step of the engine on the way to the experts. That no copy answers is ``engine.errors``' business."""

from moe_serving.errors import MoEServingError


class VerificationError(MoEServingError):
    """Verify mode found a shard's answer that differs from what the checkpoint says: a wrong or half-copied expert."""
