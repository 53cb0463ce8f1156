"""What is wrong with a wish for FP8."""

from __future__ import annotations

from moe_serving.errors import MoEServingError


class Fp8Error(MoEServingError):
    """It cannot be had; says why, and the cure."""
