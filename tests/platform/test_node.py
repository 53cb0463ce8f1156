"""A node's configuration, images and policies, as far as they can be told without one."""

import hashlib
import json
import os
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import psutil
import pytest

from moe_dev.node import cgroups, configs, network, packages, sample, trial
from moe_dev.node.cgroups import CgroupError, Hierarchy, _mounts
from moe_dev.node.cluster import ClusterError, check
from moe_dev.node.host import HostError, clear_left, lock_file, only_one
from moe_dev.node.netpol import World, ruleset, selects
from moe_dev.node.network import NodeAddress
from moe_dev.node.oci import File, Image, write_image, write_layer

Json = dict[str, Any]


def test_each_node_has_a_pod_range_of_its_own_and_a_way_to_the_others() -> None:
    assert [(node.name, str(node.address), str(node.pods)) for node in map(NodeAddress, range(2))] == [
        ("node-0", "10.77.0.1", "10.244.0.0/24"),
        ("node-1", "10.77.0.2", "10.244.1.0/24"),
    ]
    assert network.pod_routes(3, besides=1) == [("10.244.0.0/24", "10.77.0.1"), ("10.244.2.0/24", "10.77.0.3")]
    assert network.host_routes(1) == [("10.96.0.0/16", "10.77.0.1"), ("10.244.0.0/24", "10.77.0.1")]


def test_routes_of_the_machine_are_not_taken_from_it() -> None:
    own = "default via 192.0.2.1 dev eth0\n192.0.2.0/24 dev eth0 proto kernel scope link src 192.0.2.2\n"
    assert network.taken(own) == []
    assert network.taken(f"10.77.0.0/24 dev {network.HOST_LINK} proto kernel scope link") == []
    several = "default proto static\n\tnexthop via 10.0.0.1 dev eth0 weight 1\nbroadcast 192.0.2.255 dev eth0\n"
    assert network.taken(several) == []
    assert network.taken(own + "10.0.0.0/8 dev wg0\n10.244.1.7 dev cni0\nunreachable 10.96.3.0/24\n") == [
        "10.0.0.0/8",
        "10.244.1.7/32",
        "10.96.3.0/24",
    ]


def test_what_a_killed_cluster_left_is_cleared_by_the_next_one_or_by_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cleared: list[str] = []
    monkeypatch.setattr("moe_dev.node.cgroups.remove", cleared.append)
    monkeypatch.setattr("moe_dev.node.host._remove_link", lambda: cleared.append("link"))
    monkeypatch.setattr("signal.signal", lambda *_: None)
    left, own, second = (tmp_path / name for name in ("left", "own", "second"))
    for directory in (left, own, second):
        directory.mkdir()
    with lock_file() as lock:
        lock.write(f"1 {left}")
    with only_one(own):
        assert not left.exists()
        with pytest.raises(HostError, match=f"runs already: .* {own}; end it with"), only_one(second):
            pass
        assert not second.exists()
        assert own.exists()
    assert not own.exists()
    assert cleared == ["link", "left", "link", "own"]
    with lock_file() as lock:
        assert lock.read() == ""


def test_what_cannot_be_cleared_is_cleared_the_next_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("moe_dev.node.host._remove_link", lambda: None)
    with lock_file() as lock:
        lock.write(f"1 {tmp_path / 'left'}")
    with monkeypatch.context() as patched, lock_file() as lock:
        patched.setattr("moe_dev.node.cgroups.remove", Mock(side_effect=CgroupError("still has processes")))
        with pytest.raises(CgroupError):
            clear_left(lock)
    monkeypatch.setattr("moe_dev.node.cgroups.remove", lambda _: None)
    with lock_file() as lock:
        assert clear_left(lock) == str(tmp_path / "left")
        assert clear_left(lock) == ""


def test_a_number_of_nodes_out_of_bounds_is_refused() -> None:
    for nodes in (0, 4):
        with pytest.raises(ClusterError, match=f"NODES={nodes}: a cluster has 1 to 3 nodes"):
            check(nodes)


def test_without_root_the_cure_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(ClusterError, match=r"nodes need root: .* or set KUBECONFIG"):
        check(1)


def tools(folder: Path, monkeypatch: pytest.MonkeyPatch, **scripts: str) -> None:
    """A machine on which there are these and no others."""
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_packages_that_are_missing_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools(tmp_path, monkeypatch, ip="", nft="", mount="", gcc="", **{"pkg-config": "exit 1"})
    monkeypatch.setattr("moe_dev.node.images.base_is_made", lambda: True)
    monkeypatch.setattr("moe_dev.binaries.missing", lambda _: [])
    assert packages.lacking() == ["util-linux"]
    monkeypatch.setattr("moe_dev.node.images.base_is_made", lambda: False)
    monkeypatch.setattr("moe_dev.binaries.missing", lambda _: ["runc"])
    assert packages.lacking() == ["libseccomp-dev", "mmdebstrap", "util-linux"]


@pytest.mark.parametrize(
    ("ip", "unshare", "why"),
    [
        ("", "exit 0", None),
        ("echo 10.244.0.0/16 dev cni0", "", "it has routes to addresses that the nodes would take: 10.244.0.0/16"),
        ("", "echo unshare: not permitted >&2; exit 1", "root cannot make namespaces here: unshare: not permitted"),
        ("", "echo mount >&2; echo mount: denied >&2; exit 1", "root cannot mount here: mount: denied"),
        ("", "echo make bridges >&2; exit 2", "root cannot make bridges here: no reason given"),
    ],
)
def test_what_a_machine_refuses_is_told(
    ip: str, unshare: str, why: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools(tmp_path, monkeypatch, ip=ip, unshare=unshare)
    monkeypatch.setattr("moe_dev.node.cgroups.hierarchies", list)
    assert trial.refused() == why


def test_control_groups_that_cannot_be_made_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools(tmp_path, monkeypatch, ip="", unshare="exit 0")
    monkeypatch.setattr("moe_dev.node.cgroups.hierarchies", lambda: [Hierarchy("memory", Path("/proc/none"))])
    assert str(trial.refused()).startswith("no control groups can be made: ")
    monkeypatch.setattr("moe_dev.node.cgroups.hierarchies", Mock(side_effect=CgroupError("version 2 alone")))
    assert trial.refused() == "version 2 alone"


def test_a_sample_that_cannot_run_says_so_in_its_last_line_and_has_neither_failed_nor_passed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nothing is built for it either."""
    monkeypatch.setattr(sample, "_build", Mock(side_effect=AssertionError("built")))
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert sample.main(["kubelet"]) == 0
    assert capfd.readouterr().out.startswith("NOT RUN: the sample of the tests on nodes: nodes need root: ")
    monkeypatch.setattr("moe_dev.node.cluster.check", lambda _: None)
    monkeypatch.setattr(sample, "MEMORY", 10**18)
    assert sample.main(["kubelet"]) == 0
    assert "NOT RUN: the sample of the tests on nodes: it takes 1000000000 GB" in capfd.readouterr().out


@pytest.mark.parametrize("code", [0, 1])
def test_a_sample_that_runs_ends_as_its_tests_do(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "unable", lambda: None)
    monkeypatch.setattr(sample, "_build", lambda _: 0)
    monkeypatch.setattr("moe_dev.node.images.archives", list)
    monkeypatch.setenv("KUBECONFIG", "/of/somebody")
    ran = Mock(return_value=subprocess.CompletedProcess([], code))
    monkeypatch.setattr("subprocess.run", ran)
    assert sample.main(["kubelet"]) == code
    environment = ran.call_args.kwargs["env"]
    assert (environment["NODES"], environment.get("KUBECONFIG")) == ("1", None)
    assert os.path.exists(ran.call_args.args[0][-1])


def test_builds_that_take_too_long_for_the_sample_are_ended_and_fail_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nsleep 300 & echo $! >{tmp_path}/compiler\nwait\n")
    python.chmod(0o755)
    monkeypatch.setattr(sample, "unable", lambda: None)
    monkeypatch.setattr(sample, "BUILD_SECONDS", 1.0)
    monkeypatch.setattr("sys.executable", str(python))
    assert sample.main(["kubelet"]) == 0
    assert "not all of a node was built within 0 min" in capfd.readouterr().out
    compiler = psutil.Process(int((tmp_path / "compiler").read_text()))
    compiler.wait(10)


def test_every_container_has_the_mounts_and_no_more_open_files_than_there_are() -> None:
    default = {"process": {"rlimits": [{"type": "RLIMIT_NOFILE", "hard": 10**6}], "cwd": "/"}, "mounts": [{"a": 1}]}
    assert configs.base_spec(default, {Path("/usr/python"): "/opt/moe/python"}, 20000) == {
        "process": {"rlimits": [{"type": "RLIMIT_NOFILE", "hard": 20000, "soft": 20000}], "cwd": "/"},
        "mounts": [
            {"a": 1},
            {
                "destination": "/opt/moe/python",
                "type": "bind",
                "source": "/usr/python",
                "options": ["bind", "ro"],
            },
        ],
    }


def test_hierarchies_are_found_by_what_they_control() -> None:
    mountinfo = """
36 32 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
37 32 0:31 /docker/ab /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
38 32 0:32 / /sys/fs/cgroup/systemd rw shared:10 - cgroup cgroup rw,xattr,name=systemd
39 32 0:33 / /sys/fs/cgroup/unified rw shared:11 - cgroup2 cgroup2 rw
""".strip()
    assert dict(_mounts(mountinfo)) == {
        frozenset({"cpu", "cpuacct"}): ("/", Path("/sys/fs/cgroup/cpu,cpuacct")),
        frozenset({"memory"}): ("/docker/ab", Path("/sys/fs/cgroup/memory")),
        frozenset({"name=systemd"}): ("/", Path("/sys/fs/cgroup/systemd")),
    }


def test_a_node_weighs_as_a_machine_beside_other_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Hierarchy("cpu,cpuacct", tmp_path / "cpu"), Hierarchy("memory", tmp_path / "memory")]
    monkeypatch.setattr(cgroups, "hierarchies", lambda: found)
    cgroups.make("c", 2)
    written = {str(path.parent.relative_to(tmp_path)): int(path.read_text()) for path in tmp_path.rglob("cpu.shares")}
    one = 1024 * len(os.sched_getaffinity(0))
    assert written == {"cpu/c": 2 * one, "cpu/c/node-0": one, "cpu/c/node-1": one}


def test_an_image_is_an_archive_whose_digests_hold(tmp_path: Path) -> None:
    files = {"/app": File(b"program"), "/usr/bin/python": File(link="/opt/python")}
    layer = write_layer(tmp_path / "layer", files)
    image = Image("local/app:dev", ["/app"], {"A": "b"}, "1000")
    with tarfile.open(write_image(tmp_path / "image", image, [layer])) as archive:
        contents = {name: archive.extractfile(name).read() for name in archive.getnames()}  # type: ignore[union-attr]
    for name, content in contents.items():
        if name.startswith("blobs/"):
            assert name == f"blobs/sha256/{hashlib.sha256(content).hexdigest()}"
    blob = {name.replace("blobs/sha256/", "sha256:"): content for name, content in contents.items()}
    (described,) = json.loads(contents["index.json"])["manifests"]
    assert described["annotations"]["io.containerd.image.name"] == "local/app:dev"
    manifest = json.loads(blob[described["digest"]])
    config = json.loads(blob[manifest["config"]["digest"]])
    assert config["config"]["Cmd"] == ["/app"]
    assert config["config"]["User"] == "1000"
    assert "A=b" in config["config"]["Env"]
    assert config["rootfs"]["diff_ids"] == [one["digest"] for one in manifest["layers"]]
    assert blob[manifest["layers"][0]["digest"]] == layer.read_bytes()


@pytest.mark.parametrize(
    ("selector", "selected"),
    [
        ({}, True),
        ({"matchLabels": {"app": "api"}}, True),
        ({"matchLabels": {"app": "web"}}, False),
        ({"matchExpressions": [{"key": "app", "operator": "In", "values": ["api", "web"]}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["api"]}]}, False),
        ({"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["api"]}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "Exists"}]}, True),
        ({"matchLabels": {"app": "api"}, "matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}, False),
    ],
)
def test_selectors(selector: Json, selected: bool) -> None:
    assert selects(selector, {"app": "api"}) is selected


def pod(namespace: str, app: str, address: str, **more: Any) -> Json:
    container = {"name": "main", "ports": [{"name": "http", "containerPort": 8000}]}
    return {
        "metadata": {"namespace": namespace, "name": app, "labels": {"app": app}},
        "spec": {"containers": [container], **more},
        "status": {"phase": "Running", "podIP": address},
    }


API = pod("a", "api", "10.244.0.2")
FRIEND = pod("a", "friend", "10.244.0.3")
NAMESAKE = pod("b", "friend", "10.244.0.4")
NAMESPACES = [{"metadata": {"name": name, "labels": {"team": name}}} for name in "ab"]


def chains(policies: Sequence[Json], pods: Sequence[Json] = (API, FRIEND, NAMESAKE)) -> Mapping[str, list[str]]:
    """{chain: what returns from it} of the pods that are isolated."""
    found: dict[str, list[str]] = {}
    for part in ruleset(World(pods, NAMESPACES, policies)).split("  chain ")[1:]:
        name, _, body = part.partition(" {\n")
        if name not in ("forward", "input"):
            assert "counter drop" in body
            found[name] = [
                line.strip().removesuffix("return").strip() for line in body.splitlines() if "return" in line
            ]
    return found


def policy(spec: Json) -> Json:
    selected = {"podSelector": {"matchLabels": {"app": "api"}}}
    return {"metadata": {"namespace": "a", "name": "one"}, "spec": selected | spec}


FRIENDS = {"podSelector": {"matchLabels": {"app": "friend"}}}
TEAM_B = {"namespaceSelector": {"matchLabels": {"team": "b"}}}
IN, OUT = "ingress_10_244_0_2", "egress_10_244_0_2"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        pytest.param({"policyTypes": ["Ingress"]}, {IN: []}, id="nobody"),
        pytest.param({"ingress": [{}]}, {IN: [""]}, id="everybody"),
        pytest.param({"ingress": [{"from": [FRIENDS]}]}, {IN: ["ip saddr { 10.244.0.3 }"]}, id="of its namespace"),
        pytest.param({"ingress": [{"from": [TEAM_B]}]}, {IN: ["ip saddr { 10.244.0.4 }"]}, id="of another"),
        pytest.param({"ingress": [{"from": [TEAM_B | FRIENDS]}]}, {IN: ["ip saddr { 10.244.0.4 }"]}, id="both"),
        pytest.param(
            {"ingress": [{"from": [FRIENDS, TEAM_B]}]}, {IN: ["ip saddr { 10.244.0.3, 10.244.0.4 }"]}, id="either"
        ),
        pytest.param(
            {"ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "none"}}}]}]}, {IN: []}, id="no such peer"
        ),
        pytest.param(
            {"ingress": [{"ports": [{"port": "http"}, {"port": 1, "endPort": 9, "protocol": "UDP"}]}]},
            {IN: ["tcp dport 8000", "udp dport 1-9"]},
            id="ports",
        ),
        pytest.param(
            {
                "policyTypes": ["Egress"],
                "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}]}],
            },
            {OUT: ["ip daddr 10.0.0.0/8 ip daddr != { 10.1.0.0/16 }"]},
            id="a range",
        ),
        pytest.param({"policyTypes": ["Ingress", "Egress"]}, {IN: [], OUT: []}, id="both ways"),
    ],
)
def test_what_a_policy_lets_through(spec: Json, expected: Mapping[str, list[str]]) -> None:
    assert chains([policy(spec)]) == expected


def test_policies_add_up_and_bind_no_pod_without_an_address_of_its_own() -> None:
    first, second = policy({"ingress": [{"from": [FRIENDS]}]}), policy({"ingress": [{"from": [TEAM_B]}]})
    assert chains([first, second]) == {IN: ["ip saddr { 10.244.0.3 }", "ip saddr { 10.244.0.4 }"]}
    on_host = pod("a", "api", "10.77.0.1", hostNetwork=True)
    ended = pod("a", "api", "10.244.0.9")
    ended["status"]["phase"] = "Succeeded"
    assert chains([first], [on_host, ended, FRIEND]) == {}
