"""What the programs of a node are configured with; pure."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moe_dev.node import network
from moe_dev.node.network import NodeAddress

Json = dict[str, Any]

# A sandbox only holds the namespaces of a pod: any program that sleeps will do.
SANDBOX_IMAGE = "moe-operator.local/base:dev"


def containerd(directory: Path, programs: Path, runc: Path, base_spec: Path) -> str:
    """Its config.toml. `directory`: the node's own; `programs`: the CNI plugins."""
    cri = "plugins.'io.containerd.cri.v1"
    return f"""version = 3
root = "{directory}/containerd"
state = "/run/containerd"
[grpc]
  address = "{directory}/containerd.sock"
[{cri}.images']
  snapshotter = "overlayfs"
[{cri}.images'.pinned_images]
  sandbox = "{SANDBOX_IMAGE}"
[{cri}.runtime']
  # Neither is to be had in every container.
  restrict_oom_score_adj = true
  disable_apparmor = true
[{cri}.runtime'.cni]
  bin_dirs = ["{programs}"]
  conf_dir = "{directory}/cni"
[{cri}.runtime'.containerd]
  default_runtime_name = "runc"
[{cri}.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
  base_runtime_spec = "{base_spec}"
[{cri}.runtime'.containerd.runtimes.runc.options]
  BinaryName = "{runc}"
  SystemdCgroup = false
"""


def cni(node: NodeAddress, directory: Path) -> Json:
    """Point-to-point links, not a bridge: bridged packets meet the host's filters where br_netfilter is loaded."""
    addresses = {"type": "host-local", "ranges": [[{"subnet": str(node.pods)}]], "routes": [{"dst": "0.0.0.0/0"}]}
    link = {"type": "ptp", "ipMasq": False, "ipam": addresses | {"dataDir": str(directory / "addresses")}}
    ports = {"type": "portmap", "capabilities": {"portMappings": True}, "backend": "nftables"}
    return {"cniVersion": "1.0.0", "name": "pods", "plugins": [link, ports]}


def base_spec(default: Mapping[str, Any], mounts: Mapping[Path, str], open_files: int) -> Json:
    """The OCI runtime specification of every container: `default` with `mounts` {source: destination}, read-only.

    `open_files`: the most that this machine allows. Every pod has the mounts without a word in its manifest.
    """
    added = [
        {"destination": destination, "type": "bind", "source": str(source), "options": ["bind", "ro"]}
        for source, destination in mounts.items()
    ]
    limits = [{"type": "RLIMIT_NOFILE", "hard": open_files, "soft": open_files}]
    process = {**default["process"], "rlimits": limits}
    return {**default, "process": process, "mounts": [*default["mounts"], *added]}


def kubelet(authority: Path, directory: Path) -> Json:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": f"unix://{directory}/containerd.sock",
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        "failSwapOn": False,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(authority)},
        },
        "authorization": {"mode": "Webhook"},
        "clusterDNS": [str(network.DNS)],
        "clusterDomain": network.DOMAIN,
        "resolvConf": "",
        "makeIPTablesUtilChains": False,
        "serializeImagePulls": False,
        # Images come without a registry: one that was collected would be gone.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "nodeStatusReportFrequency": "10s",
        "readOnlyPort": 0,
    }


def kube_proxy(node: NodeAddress, kubeconfig: Path) -> Json:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "hostnameOverride": node.name,
        "clusterCIDR": str(network.PODS),
        # They belong to the host.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "metricsBindAddress": "127.0.0.1:10249",
        "healthzBindAddress": "127.0.0.1:10256",
    }


def write_json(path: Path, content: Mapping[str, Any] | Sequence[Any]) -> Path:
    path.write_text(json.dumps(content, indent=1))
    return path
