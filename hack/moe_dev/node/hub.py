"""What the nodes share, as process 1 of namespaces of its own: bridge, control plane, CoreDNS, KubeRay, policies.

Run by `host` as `python -m moe_dev.node.hub DIRECTORY NODES`; all it starts, nodes too, ends with it. It writes the
file `ready` when everything works.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from moe_dev import binaries
from moe_dev.controlplane import ControlPlane, ForNodes
from moe_dev.kube import KubectlError
from moe_dev.node import cgroups, images, network
from moe_dev.node.network import NodeAddress
from moe_dev.node.tools import ip, run
from moe_dev.paths import CLONE
from moe_dev.processes import Guarded
from moe_dev.progress import say

BRIDGE = "nodes"
# The far end of the host's link, which the host makes.
HOST_LINK = "host"
LINK_SECONDS = 20.0
NODE_SECONDS = 240.0
ADD_ON_SECONDS = 240.0
READY = "ready"
KUBERAY_NAMESPACE = "kuberay-system"
MANIFESTS = CLONE / "hack" / "node" / "manifests"
# Pods of ours wait for the head themselves, and sooner. A tenth of a processor would be one more thing that is slow.
KUBERAY_PATCH = {
    "target": {"kind": "Deployment", "name": "kuberay-operator"},
    "patch": json.dumps(
        [
            {
                "op": "add",
                "path": "/spec/template/spec/containers/0/env",
                "value": [{"name": "ENABLE_INIT_CONTAINER_INJECTION", "value": "false"}],
            },
            {"op": "replace", "path": "/spec/template/spec/containers/0/resources/limits/cpu", "value": "1"},
        ]
    ),
}
ADD_ONS = (("kube-system", "coredns"), (KUBERAY_NAMESPACE, "kuberay-operator"))


class Hub:
    def __init__(self, directory: Path, nodes: int) -> None:
        self.directory = directory
        self.nodes = [NodeAddress(number) for number in range(nodes)]
        self.processes: list[Guarded] = []

    def start(self) -> None:
        self._make_network()
        reach = ForNodes(str(network.API), network.API_PORT, str(network.SERVICES), str(network.API_SERVICE))
        self.plane = ControlPlane.start(self.directory, nodes=reach)
        self.processes += self.plane.processes
        say("control plane")
        self.plane.user("system:kube-proxy")
        for node in self.nodes:
            self.plane.user(f"system:node:{node.name}", ["system:nodes"])
            self.processes.append(self._start_node(node))
        self._start("network-policies", [sys.executable, "-m", "moe_dev.node.enforce", *self._enforced()])
        self._apply_add_ons()
        self.processes[-1].wait_until("the nodes", self._unready_nodes, NODE_SECONDS, beside=self.processes)
        say("nodes")
        self.processes[-1].wait_until("the add-ons", self._unready_add_ons, ADD_ON_SECONDS, beside=self.processes)
        say("add-ons")

    def _make_network(self) -> None:
        run("mount", "-t", "tmpfs", "-o", "mode=755", "run", "/run")
        ip("link set lo up")
        ip(f"link add {BRIDGE} type bridge")
        ip(f"address add {network.API}/{network.LINKS.prefixlen} dev {BRIDGE}")
        ip(f"link set {BRIDGE} up")
        for node in self.nodes:
            self._link(node)
        for destination, hop in network.host_routes(len(self.nodes)):
            ip(f"route add {destination} via {hop}")
        _wait_for_link()
        ip(f"link set {HOST_LINK} master {BRIDGE} up")

    def _link(self, node: NodeAddress) -> None:
        """Its network namespace. What is not in the cluster goes to the bridge, which forwards nothing."""
        ip(f"netns add {node.name}")
        ip(f"link add {node.name} type veth peer name eth0 netns {node.name}")
        ip(f"link set {node.name} master {BRIDGE} up")
        ip(f"-n {node.name} link set lo up")
        ip(f"-n {node.name} address add {node.address}/{network.LINKS.prefixlen} dev eth0")
        ip(f"-n {node.name} link set eth0 up")
        ip(f"-n {node.name} route add default via {network.API}")
        for destination, hop in network.pod_routes(len(self.nodes), besides=node.number):
            ip(f"-n {node.name} route add {destination} via {hop}")

    def _start_node(self, node: NodeAddress) -> Guarded:
        (self.directory / node.name).mkdir()
        joins = [f"echo $$ > {shlex.quote(str(path))}" for path in cgroups.members(self.directory.name, node.number)]
        unshare = ["unshare", "--mount", "--pid", "--uts", "--ipc", "--cgroup", "--fork", "--mount-proc"]
        machine = [sys.executable, "-m", "moe_dev.node.machine", str(self.directory), str(node.number)]
        inside = ["nsenter", f"--net=/run/netns/{node.name}", *unshare, "--kill-child", *machine]
        # The new namespace of control groups has as its root the group that it was made in.
        script = f'{"; ".join(joins)}; exec "$@"'
        return Guarded.start(node.name, ["sh", "-c", script, "sh", *inside], self.directory / f"{node.name}.log")

    def _start(self, name: str, command: list[str]) -> None:
        self.processes.append(Guarded.start(name, command, self.directory / f"{name}.log"))

    def _enforced(self) -> list[str]:
        return [str(self.plane.kubeconfig), *(node.name for node in self.nodes)]

    def _apply_add_ons(self) -> None:
        kubectl = self.plane.kubectl
        kubectl.apply((MANIFESTS / "coredns.yaml").read_text().replace("COREDNS_IMAGE", images.COREDNS_IMAGE))
        overlay = self.directory / "kuberay"
        overlay.mkdir()
        base = os.path.relpath(binaries.binary(binaries.KUBERAY_MANIFESTS) / "default", overlay.resolve())
        config = {"namespace": KUBERAY_NAMESPACE, "resources": [base], "patches": [KUBERAY_PATCH]}
        (overlay / "kustomization.yaml").write_text(yaml.safe_dump(config))
        kubectl.run("create", "namespace", KUBERAY_NAMESPACE)
        # Its CRDs are too large for the annotation of `apply`.
        kubectl.run("create", "-k", str(overlay), timeout=120.0)

    def _unready_nodes(self) -> str | None:
        try:
            listed = json.loads(self.plane.kubectl.run("get", "nodes", "-o", "json"))["items"]
        except KubectlError as error:
            return str(error)
        ready = {node["metadata"]["name"] for node in listed if _is_ready(node)}
        return ", ".join(node.name for node in self.nodes if node.name not in ready) or None

    def _unready_add_ons(self) -> str | None:
        for namespace, name in ADD_ONS:
            deployment = self.plane.kubectl.get("deployment", name, namespace)
            if not deployment or not deployment.get("status", {}).get("availableReplicas"):
                return f"deployment {name} in {namespace} is not available"
        return None


def _is_ready(node: Mapping[str, Any]) -> bool:
    return any(one["type"] == "Ready" and one["status"] == "True" for one in node["status"].get("conditions", []))


def _wait_for_link() -> None:
    deadline = time.monotonic() + LINK_SECONDS
    while subprocess.run(["ip", "link", "show", HOST_LINK], capture_output=True, check=False).returncode != 0:
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {LINK_SECONDS:.0f} s for the link to the host")
        time.sleep(0.05)


def main() -> None:
    # Process 1 hears no signal that it does not ask for. What it started ends with its namespace.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    directory = Path(sys.argv[1])
    hub = Hub(directory, int(sys.argv[2]))
    hub.start()
    (directory / READY).touch()
    while True:
        for process in hub.plane.processes:
            process.check()
        time.sleep(1.0)


if __name__ == "__main__":
    main()
