"""Whether a node reads a checkpoint from itself or over its network, as far as the kind of file system tells."""

from __future__ import annotations

import os
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")
_REMOTE = frozenset(
    {
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "glusterfs",
        "gpfs",
        "lustre",
        "nfs",
        "nfs4",
        "orangefs",
        "smb3",
        "virtiofs",
    }
)
_REMOTE_PREFIX = "fuse"
"""File systems in user space are mostly object stores."""


def is_local(path: str | Path) -> bool:
    """Whether ``path`` lies on a file system of this node's own; False where that cannot be told."""
    try:
        device = os.stat(path).st_dev
        mounts = _MOUNTS.read_text()
    except OSError:
        return False
    kind = file_system(mounts, f"{os.major(device)}:{os.minor(device)}")
    return kind is not None and kind not in _REMOTE and not kind.startswith(_REMOTE_PREFIX)


def file_system(mounts: str, device: str) -> str | None:
    """The kind of the file system on ``device`` (major:minor), by a ``mountinfo`` of proc(5)."""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        if len(fields) > 2 and fields[2] == device and after:
            return after.split()[0]
    return None
