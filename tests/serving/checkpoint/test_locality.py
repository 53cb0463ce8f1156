"""Which file systems are a node's own."""

import os

import pytest

from moe_serving.checkpoint import locality
from moe_serving.checkpoint.locality import file_system, goes_with_pod, is_local, is_of_pod

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


OF_A_POD = """\
520 519 0:61 / / ro,relatime - overlay overlay ro
521 520 254:0 /var/lib/kubelet/pods/1-2/volumes/kubernetes.io~empty-dir/tmp /tmp rw - ext4 /dev/vda rw
522 520 254:0 /srv/models /models rw - ext4 /dev/vda rw
523 521 254:0 /var/lib/kubelet/pods/1-2/volume-subpaths/claim/0 /tmp/cache rw - ext4 /dev/vda rw
524 520 0:52 / /nfs rw - nfs4 store:/models rw
half a line
"""


@pytest.mark.parametrize(
    ("device", "path", "goes"),
    [
        ("0:61", "/opt/models", True),
        ("254:0", "/tmp/.cache/moe-operator/models", True),
        ("254:0", "/models", False),
        ("254:0", "/models/a", False),
        ("254:0", "/tmp/cache/models", False),
        ("254:0", "/tmp/cached", True),
        ("0:52", "/nfs/models", False),
        ("0:99", "/models", True),
    ],
)
def test_what_goes_with_a_pod(device: str, path: str, goes: bool) -> None:
    assert is_of_pod(OF_A_POD, device, path) is goes


def test_of_what_cannot_be_told_nothing_is_relied_on(tmp_path, monkeypatch):
    device, mounts = os.stat(tmp_path).st_dev, tmp_path / "mounts"
    mounts.write_text(f"1 1 {os.major(device)}:{os.minor(device)} / {os.path.realpath(tmp_path)} rw - ext4 a rw\n")
    monkeypatch.setattr(locality, "_MOUNTS", mounts)
    assert not goes_with_pod(tmp_path)
    assert goes_with_pod(tmp_path / "nowhere")
    mounts.unlink()
    assert goes_with_pod(tmp_path)


def test_what_is_not_there_is_not_local(tmp_path):
    assert not is_local(tmp_path / "nowhere")
