"""Where the developer platform keeps things: the clone, the cache outside it, private run directories.

Standard library only: `make setup` imports this before the virtual environment exists.
"""

import os
import secrets
from pathlib import Path

CLONE = Path(__file__).resolve().parents[2]


def cache_root() -> Path:
    """Shared by every clone of one user; entries are keyed by versions, never changed once they are there."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "moe-operator"


def short_private_directory() -> Path:
    """A new 0700 directory under /tmp whose path is short: Ray puts unix sockets (at most 107 bytes) below it."""
    path = Path("/tmp") / f"moe-{secrets.token_hex(4)}"
    path.mkdir(mode=0o700)
    return path
