"""Imported by Ray's workers in a pod for a shard, before they have anything to do (``RAY_preload_python_modules``).

The first worker of a pod waits there for a shard, and imports what a shard takes seconds for. Others come when they are
asked for, such as Serve's proxy, and have no use for it.
"""

import importlib
import logging
import tempfile
from pathlib import Path

MARK = "moe-worker-waits"
"""A file of the pod's own: there once a worker is the first."""
_OF_A_SHARD = ("moe_serving.serve.experts", "moe_serving.experts.shard")

logger = logging.getLogger(__name__)


def _import_all() -> None:
    for name in _OF_A_SHARD:
        try:
            importlib.import_module(name)
        except Exception:  # the shard imports it again, and says there what is wrong
            logger.exception("%s cannot be imported", name)


def _is_first() -> bool:
    try:
        (Path(tempfile.gettempdir()) / MARK).touch(exist_ok=False)
    except OSError:
        return False
    return True


if _is_first():
    _import_all()
