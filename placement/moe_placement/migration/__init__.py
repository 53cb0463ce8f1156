"""How to get from one placement to another without leaving an expert unserved."""

from moe_placement.migration.planner import plan_migration
from moe_placement.migration.schedule import CHECKPOINT, Copy, Free, Losses, Migration, Round

__all__ = ["CHECKPOINT", "Copy", "Free", "Losses", "Migration", "Round", "plan_migration"]
