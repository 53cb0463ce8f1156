"""How to get from one placement to another without leaving an expert unserved."""

from moe_placement.migration.planner import plan_migration
from moe_placement.migration.schedule import CHECKPOINT, Free, Losses, Migration, Round, Transfer

__all__ = ["CHECKPOINT", "Free", "Losses", "Migration", "Round", "Transfer", "plan_migration"]
