"""Which file systems are a node's own."""

import pytest

from moe_serving.checkpoint import locality
from moe_serving.checkpoint.locality import file_system, is_local

MOUNTS = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 27 0:52 / /models rw,relatime shared:9 master:2 - nfs4 store:/models rw,vers=4.2
41 27 0:53 / /bucket rw,nosuid - fuse.s3fs s3fs rw
42 27 0:54 / /dev/shm rw - tmpfs shm rw
half a line
"""


@pytest.mark.parametrize(
    ("device", "kind"),
    [("254:0", "ext4"), ("0:52", "nfs4"), ("0:53", "fuse.s3fs"), ("0:54", "tmpfs"), ("0:99", None)],
)
def test_the_kind_of_a_file_system(device, kind):
    assert file_system(MOUNTS, device) == kind


@pytest.mark.parametrize(
    ("kind", "local"),
    [("ext4", True), ("xfs", True), ("tmpfs", True), ("overlay", True), ("nfs4", False), ("fuse.s3fs", False),
     ("lustre", False), (None, False)],
)  # fmt: skip
def test_what_is_local(monkeypatch, tmp_path, kind, local):
    monkeypatch.setattr(locality, "file_system", lambda mounts, device: kind)
    assert is_local(tmp_path) is local


def test_what_is_not_there_is_not_local(tmp_path):
    assert not is_local(tmp_path / "nowhere")
