"""Checkpoints on disk: what a model is, whether it can be served, and the bytes of single experts.

Everything but ``reader`` works without torch and transformers, so that the directory can inspect a model cheaply.
"""

from moe_serving.checkpoint.checkpoint import Checkpoint, inspect_model
from moe_serving.checkpoint.errors import ModelError

__all__ = ["Checkpoint", "ModelError", "inspect_model"]
