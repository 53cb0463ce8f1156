"""Our log lines where Serve's are: in the log file of the replica."""

from __future__ import annotations

import logging


def log_with_serve() -> None:
    """Called once by each deployment when its replica starts."""
    ours, serves = logging.getLogger("moe_serving"), logging.getLogger("ray.serve")
    ours.setLevel(logging.INFO)
    ours.handlers = serves.handlers
    ours.propagate = False
