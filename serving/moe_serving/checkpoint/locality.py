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
_EMPTY_DIR = "/kubernetes.io~empty-dir/"
"""In the path of such a volume on its node, by every kubelet."""
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


def goes_with_pod(path: Path) -> bool:
    """Whether ``path``, which exists, goes with the pod that this process runs in: it is in the container's own file
    system, or in a volume of kind ``emptyDir``. True where that cannot be told."""
    try:
        device, mounts = os.stat(path).st_dev, _MOUNTS.read_text()
    except OSError:
        return True
    return is_of_pod(mounts, f"{os.major(device)}:{os.minor(device)}", os.path.realpath(path))


def is_of_pod(mounts: str, device: str, path: str) -> bool:
    """The same, by a ``mountinfo`` of proc(5) and the device (major:minor) of ``path``, which has no links in it."""
    root, point = "", ""
    for line in mounts.splitlines():
        fields = line.split()
        # Of two mounts at one place the later one is seen.
        if len(fields) > 4 and fields[2] == device and _is_below(path, fields[4]) and len(fields[4]) >= len(point):
            root, point = fields[3], fields[4]
    return point in ("", "/") or _EMPTY_DIR in root


def _is_below(path: str, folder: str) -> bool:
    return Path(path).is_relative_to(folder)


def file_system(mounts: str, device: str) -> str | None:
    """The kind of the file system on ``device`` (major:minor), by a ``mountinfo`` of proc(5)."""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        if len(fields) > 2 and fields[2] == device and after:
            return after.split()[0]
    return None
