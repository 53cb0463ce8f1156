"""One node, as process 1 of namespaces of its own: mounts, containerd, kubelet and kube-proxy.

Run by `hub` as `python -m moe_dev.node.machine CLUSTER_DIRECTORY NUMBER`; all it starts ends with it.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

from moe_dev import binaries
from moe_dev.node import cgroups, configs, images
from moe_dev.node.network import NodeAddress
from moe_dev.node.tools import run
from moe_dev.processes import Guarded
from moe_dev.progress import say

CONTAINERD_SECONDS = 60.0
IMPORT_SECONDS = 300.0
# What the kubelet wants to write, and what belongs to the host.
SYSCTLS = {
    "vm/overcommit_memory": "1",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}


class Machine:
    """The node's programs; `directory` is the node's own, that of the cluster is its parent."""

    def __init__(self, cluster: Path, node: NodeAddress) -> None:
        self.cluster = cluster
        self.node = node
        self.directory = cluster / node.name
        self.socket = self.directory / "containerd.sock"
        self.processes: list[Guarded] = []

    def start(self) -> None:
        self._mount()
        containerd = self._start_containerd()
        containerd.wait_until("containerd", self._no_containerd, CONTAINERD_SECONDS)
        say(f"{self.node.name}: containerd")
        for archive in images.archives():
            self._ctr("-n", "k8s.io", "images", "import", str(archive))
        say(f"{self.node.name}: images")
        self._start_kubelet()
        self._start_proxy()

    def _mount(self) -> None:
        run("hostname", self.node.name)
        run("mount", "--make-rshared", "/")
        self._mount_cgroups()
        run("mount", "-t", "tmpfs", "-o", "mode=755", "run", "/run")
        Path("/run/lock").mkdir()
        for name in ("lib", "log"):
            private = self.directory / f"var-{name}"
            private.mkdir()
            run("mount", "--bind", str(private), f"/var/{name}")
        for name, value in SYSCTLS.items():
            place = Path("/proc/sys") / name
            if place.exists():
                private = self.directory / name.replace("/", "_")
                private.write_text(f"{value}\n")
                run("mount", "--bind", str(private), str(place))
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")

    def _mount_cgroups(self) -> None:
        """As this node sees them: its own group is the root."""
        found = cgroups.hierarchies()
        run("mount", "-t", "sysfs", "sysfs", "/sys")  # it shows the network namespace of who mounted it
        run("mount", "-t", "tmpfs", "-o", "mode=755", "cgroup", "/sys/fs/cgroup")
        for hierarchy in found:
            folder = Path("/sys/fs/cgroup") / hierarchy.controllers.removeprefix("name=")
            folder.mkdir()
            named = hierarchy.controllers.startswith("name=")
            options = f"none,{hierarchy.controllers}" if named else hierarchy.controllers
            run("mount", "-t", "cgroup", "-o", options, "cgroup", str(folder))
            if "," in folder.name:
                for controller in folder.name.split(","):
                    (folder.parent / controller).symlink_to(folder.name)

    def _start_containerd(self) -> Guarded:
        default = json.loads(subprocess.check_output([str(binaries.binary("ctr")), "oci", "spec"], text=True))
        _, open_files = resource.getrlimit(resource.RLIMIT_NOFILE)
        spec = configs.base_spec(default, images.mounts(), open_files)
        base_spec = configs.write_json(self.directory / "base-spec.json", spec)
        (self.directory / "cni").mkdir()
        network = configs.cni(self.node, self.directory)
        configs.write_json(self.directory / "cni" / "pods.conflist", network)
        config = self.directory / "containerd.toml"
        programs = binaries.binary("ptp").parent
        config.write_text(configs.containerd(self.directory, programs, binaries.binary("runc"), base_spec))
        # It looks for its shim in the PATH.
        path = f"{binaries.binary('containerd-shim-runc-v2').parent}:{os.environ['PATH']}"
        return self._run("containerd", "-c", str(config), environment={**os.environ, "PATH": path})

    def _start_kubelet(self) -> None:
        config = configs.write_json(
            self.directory / "kubelet.yaml", configs.kubelet(self.cluster / "ca.crt", self.directory)
        )
        self._run(
            "kubelet",
            f"--config={config}",
            f"--kubeconfig={self.cluster}/system-node-{self.node.name}.kubeconfig",
            f"--hostname-override={self.node.name}",
            f"--node-ip={self.node.address}",
        )

    def _start_proxy(self) -> None:
        kubeconfig = self.cluster / "system-kube-proxy.kubeconfig"
        config = configs.write_json(self.directory / "kube-proxy.yaml", configs.kube_proxy(self.node, kubeconfig))
        self._run("kube-proxy", f"--config={config}")

    def _run(self, name: str, *arguments: str, environment: dict[str, str] | None = None) -> Guarded:
        log = self.directory / f"{name}.log"
        command = [str(binaries.binary(name)), *arguments]
        process = Guarded.start(name, command, log, environment=environment, directory=self.directory)
        self.processes.append(process)
        return process

    def _no_containerd(self) -> str | None:
        return None if self.socket.exists() and self._ctr("version", check=False) else "no answer on its socket"

    def _ctr(self, *arguments: str, check: bool = True) -> bool:
        command = [str(binaries.binary("ctr")), "--address", str(self.socket), *arguments]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=IMPORT_SECONDS, check=False)
        if check and ended.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {ended.stderr}")
        return ended.returncode == 0


def main() -> None:
    # Process 1 hears no signal that it does not ask for. What it started ends with its namespace.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    machine = Machine(Path(sys.argv[1]), NodeAddress(int(sys.argv[2])))
    machine.start()
    while True:
        for process in machine.processes:
            process.check()
        time.sleep(1.0)


if __name__ == "__main__":
    main()
