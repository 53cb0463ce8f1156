"""Whether this machine lets its root have nodes: tries what they do to the kernel, in namespaces that end with it.

In a container root may have no right to mount; a kernel may lack overlayfs or what the rules of kube-proxy ask for.
"""

import contextlib
import secrets
import subprocess
import tempfile
from pathlib import Path

from moe_dev.node import cgroups, network

SECONDS = 30.0
NAMESPACES = ["--mount", "--net", "--pid", "--uts", "--ipc", "--cgroup", "--propagation", "private"]
# As a node's are: nodes have their images in layers, and a part of /sys and /proc of their own.
STEPS = {
    "mount": "mount -t tmpfs run /run && mount -t sysfs sysfs {folder}/sys",
    "layer file systems on /var/tmp (overlayfs)": "mount -t overlay overlay"
    " -o lowerdir={folder}/lower,upperdir={folder}/upper,workdir={folder}/work {folder}/merged",
    "name network namespaces": "ip netns add trial",
    "make bridges": "ip link add bridge type bridge",
    "make links (veth)": "ip link add one type veth peer name two netns trial",
    "forward packets": "echo 1 > /proc/sys/net/ipv4/ip_forward",
    "filter and translate packets (nftables)": "nft -f {folder}/rules",
}
FOLDERS = ("sys", "lower", "upper", "work", "merged")
# All that kube-proxy and the policies use.
RULES = """
table ip trial {
  map services { type ipv4_addr . inet_proto . inet_service : verdict; }
  chain before { type nat hook prerouting priority dstnat; fib daddr type local jump one; }
  chain one { numgen random mod 2 vmap { 0 : jump two, 1 : jump two }; }
  chain two { meta l4proto tcp dnat to 10.77.0.1:80; }
  chain after { type nat hook postrouting priority srcnat; meta mark & 0x4000 != 0 masquerade fully-random; }
  chain through { type filter hook forward priority filter; ct state established accept; tcp dport 1 reject; }
}
"""


def refused() -> str | None:
    """What the machine refuses, in words; None where nodes can be."""
    routes = subprocess.run(["ip", "route", "show"], capture_output=True, text=True, check=True).stdout
    if taken := network.taken(routes):
        return f"it has routes to addresses that the nodes would take: {', '.join(taken)}"
    return _refused_groups() or _refused_steps()


def _refused_groups() -> str | None:
    name = f"moe-trial-{secrets.token_hex(4)}"
    try:
        cgroups.make(name, 1)
    except cgroups.CgroupError as error:
        return str(error)
    except OSError as error:
        return f"no control groups can be made: {error}"
    finally:
        with contextlib.suppress(cgroups.CgroupError):
            cgroups.remove(name)
    return None


def _refused_steps() -> str | None:
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="moe-trial-") as folder:
        for name in FOLDERS:
            (Path(folder) / name).mkdir()
        (Path(folder) / "rules").write_text(RULES)
        # What a step is goes before what it says, so that the last line tells both.
        steps = [f"echo {what!r} >&2; {step.format(folder=folder)}" for what, step in STEPS.items()]
        script = "set -e\n" + "\n".join(steps)
        command = ["unshare", *NAMESPACES, "--fork", "--mount-proc", "--kill-child", "sh", "-c", script]
        try:
            ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        except subprocess.TimeoutExpired:
            return f"a trial did not end within {SECONDS:.0f} s"
    return None if ended.returncode == 0 else _told(ended.stderr)


def _told(said: str) -> str:
    lines = [line for line in said.splitlines() if line]
    reached = [line for line in lines if line in STEPS]
    step = reached[-1] if reached else "make namespaces"
    return f"root cannot {step} here: {lines[-1] if lines and lines[-1] != step else 'no reason given'}"
