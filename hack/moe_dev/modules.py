"""The Go modules of this repository: which programs each of them pins, and how they are built.

One folder with a go.mod and a go.sum each, so that a program is built with the dependencies that its makers tested it
with. Standard library only: `make setup` runs this.
"""

import hashlib
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from moe_dev.paths import CLONE, cache_root

# A change of what comes out of the build.
RECIPE = "1"


class ModuleError(Exception):
    """A go.mod does not say what it should."""


@dataclass(frozen=True, slots=True)
class Module:
    """Programs that are built from one go.mod, in one run."""

    # With go.mod and go.sum, in the clone.
    folder: Path
    # The required module whose version is that of the programs.
    release: str
    # The main package of each program.
    programs: Mapping[str, str]
    # What they take together, on fast cores and on slow ones.
    minutes: str
    # Folders that are taken from the release's source as they are.
    folders: Mapping[str, str] = field(default_factory=dict)
    # Variables that the linker sets; {version}, {major} and {minor} stand for those of the release.
    stamps: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    # The C library that it is linked with, by pkg-config's name, and the Debian package of its headers.
    library: tuple[str, str] | None = None

    def names(self) -> tuple[str, ...]:
        """Of all that comes out of it."""
        return (*self.programs, *self.folders)

    def version(self) -> str:
        """The release that go.mod pins, such as v1.37.2."""
        path = self.folder / "go.mod"
        found = re.search(rf"^\s*(?:require )?{re.escape(self.release)} (v\S+)", path.read_text(), re.MULTILINE)
        if found is None:
            raise ModuleError(f"{path} requires no {self.release}: restore it from git")
        return found.group(1)

    def directory(self) -> Path:
        """Where its programs are cached: named after all that decides what they are."""
        digest = hashlib.sha256()
        for part in ("go.mod", "go.sum", "main.go"):
            if (path := self.folder / part).exists():
                digest.update(path.read_bytes())
        digest.update(f"{RECIPE} {platform.system()} {platform.machine()}".encode())
        return cache_root() / self.folder.name / f"{self.version()}-{digest.hexdigest()[:12]}"

    def link_flags(self) -> str:
        version = self.version()
        major, minor, _ = version.removeprefix("v").split(".", 2)
        stamps = [f"-X {stamp.format(version=version, major=major, minor=minor)}" for stamp in self.stamps]
        return " ".join(["-s -w", *stamps])


def _of_node(name: str) -> Path:
    return CLONE / "hack" / "node" / "modules" / name


_KUBERNETES = "k8s.io/component-base/version"
_CONTAINERD = "github.com/containerd/containerd/v2"
_CNI = "github.com/containernetworking/plugins"

CONTROL_PLANE = Module(
    folder=CLONE / "hack" / "controlplane",
    release="k8s.io/kubernetes",
    programs={
        "kubectl": "k8s.io/kubernetes/cmd/kubectl",
        "etcd": "go.etcd.io/etcd/server/v3",
        "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
        "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
        "kube-scheduler": "k8s.io/kubernetes/cmd/kube-scheduler",
        "kubelet": "k8s.io/kubernetes/cmd/kubelet",
        "kube-proxy": "k8s.io/kubernetes/cmd/kube-proxy",
    },
    minutes="4 to 10",
    stamps=(
        f"{_KUBERNETES}.gitVersion={{version}}",
        f"{_KUBERNETES}.gitMajor={{major}}",
        f"{_KUBERNETES}.gitMinor={{minor}}",
    ),
)
CONTAINERD = Module(
    folder=_of_node("containerd"),
    release=_CONTAINERD,
    programs={name: f"{_CONTAINERD}/cmd/{name}" for name in ("containerd", "containerd-shim-runc-v2", "ctr")},
    minutes="1 to 3",
    stamps=(f"{_CONTAINERD}/version.Version={{version}}",),
    tags=("no_btrfs", "no_zfs", "no_devmapper"),
)
RUNC = Module(
    folder=_of_node("runc"),
    release="github.com/opencontainers/runc",
    programs={"runc": "github.com/opencontainers/runc"},
    minutes="half to 1",
    stamps=("main.version={version}",),
    tags=("seccomp",),
    library=("libseccomp", "libseccomp-dev"),
)
CNI = Module(
    folder=_of_node("cni"),
    release=_CNI,
    programs={
        "loopback": f"{_CNI}/plugins/main/loopback",
        "ptp": f"{_CNI}/plugins/main/ptp",
        "host-local": f"{_CNI}/plugins/ipam/host-local",
        "portmap": f"{_CNI}/plugins/meta/portmap",
    },
    minutes="half to 1",
    stamps=(f"{_CNI}/pkg/utils/buildversion.BuildVersion={{version}}",),
)
COREDNS = Module(
    folder=_of_node("coredns"),
    release="github.com/coredns/coredns",
    programs={"coredns": "."},
    minutes="1 to 3",
)
KUBERAY = Module(
    folder=_of_node("kuberay"),
    release="github.com/ray-project/kuberay/ray-operator",
    programs={"ray-operator": "github.com/ray-project/kuberay/ray-operator"},
    folders={"kuberay-manifests": "config"},
    minutes="1 to 3",
)
# Only pinned there, as what KubeRay is built with.
GATEWAY_API = Module(
    folder=_of_node("kuberay"),
    release="sigs.k8s.io/gateway-api",
    programs={},
    folders={"gateway-api-manifests": "config"},
    minutes="0",
)
KEDA = Module(
    folder=_of_node("keda"),
    release="github.com/kedacore/keda/v2",
    programs={},
    folders={"keda-manifests": "config"},
    minutes="0",
)
# Without what finds targets in clouds, which would be most of it: those of tests are listed.
PROMETHEUS = Module(
    folder=_of_node("prometheus"),
    release="github.com/prometheus/prometheus",
    programs={"prometheus": "github.com/prometheus/prometheus/cmd/prometheus"},
    minutes="2 to 4",
    stamps=("github.com/prometheus/common/version.Version={version}",),
    tags=("remove_all_sd",),
)
PROMETHEUS_OPERATOR = Module(
    folder=_of_node("prometheus-operator"),
    release="github.com/prometheus-operator/prometheus-operator",
    programs={},
    folders={"monitoring-manifests": "example/prometheus-operator-crd"},
    minutes="0",
)
HELM = Module(
    folder=_of_node("helm"),
    release="helm.sh/helm/v3",
    programs={"helm": "helm.sh/helm/v3/cmd/helm"},
    minutes="1 to 3",
    stamps=("helm.sh/helm/v3/internal/version.version={version}",),
)
MODULES = (
    CONTROL_PLANE,
    HELM,
    KUBERAY,
    GATEWAY_API,
    KEDA,
    PROMETHEUS,
    PROMETHEUS_OPERATOR,
    CONTAINERD,
    RUNC,
    CNI,
    COREDNS,
)
