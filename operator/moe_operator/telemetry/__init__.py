"""What the operator tells of itself: logs, metrics, and whether it is alive. Filled by the runtime, read by people."""
