"""Builds etcd, kube-apiserver, kube-controller-manager and kubectl from the Go module that pins them.

The binaries go to a cache outside the clone, keyed by everything that decides what they are, and are built once: a
file lock keeps two builders apart and a binary appears under its final name only when it is complete.
Standard library only: `make setup` runs this. `KUBEBUILDER_ASSETS`, where set, replaces the whole matter.
"""

import hashlib
import os
import platform
import re
import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path

from moe_dev.locks import exclusive
from moe_dev.paths import CLONE, cache_root
from moe_dev.progress import say, step

MODULE = CLONE / "hack" / "controlplane"

ETCD = "etcd"
APISERVER = "kube-apiserver"
CONTROLLER_MANAGER = "kube-controller-manager"
KUBECTL = "kubectl"

# Package of each binary, and the minutes its first build takes on 2 cores.
PACKAGES: Mapping[str, tuple[str, int]] = {
    KUBECTL: ("k8s.io/kubernetes/cmd/kubectl", 1),
    ETCD: ("go.etcd.io/etcd/server/v3", 2),
    APISERVER: ("k8s.io/kubernetes/cmd/kube-apiserver", 7),
    CONTROLLER_MANAGER: ("k8s.io/kubernetes/cmd/kube-controller-manager", 3),
}
# A change of the way of building is a change of what comes out of it.
RECIPE = "1"


class BinariesError(Exception):
    """The binaries of the embedded control plane are not to be had; the message says what to do."""


def kubernetes_version() -> str:
    """The release that go.mod pins, such as v1.37.2."""
    found = re.search(r"^\s*k8s\.io/kubernetes (v\S+)", (MODULE / "go.mod").read_text(), re.MULTILINE)
    if found is None:
        raise BinariesError(f"{MODULE / 'go.mod'} requires no k8s.io/kubernetes: restore it from git")
    return found.group(1)


def cache_directory() -> Path:
    digest = hashlib.sha256()
    for part in (MODULE / "go.mod", MODULE / "go.sum"):
        digest.update(part.read_bytes())
    digest.update(f"{RECIPE} {platform.system()} {platform.machine()}".encode())
    return cache_root() / "controlplane" / f"{kubernetes_version()}-{digest.hexdigest()[:12]}"


def directory_in_use() -> Path:
    """Where the binaries are, whether or not they are built yet."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    return Path(assets) if assets else cache_directory()


def binary(name: str) -> Path:
    """The path of one binary, which exists; otherwise BinariesError with the cure."""
    path = directory_in_use() / name
    if os.access(path, os.X_OK):
        return path
    if os.environ.get("KUBEBUILDER_ASSETS"):
        raise BinariesError(
            f"KUBEBUILDER_ASSETS={path.parent} holds no executable {name}: put one there"
            " (setup-envtest does not ship kube-controller-manager), or unset the variable to use the built ones"
        )
    raise BinariesError(f"{path} is missing: run `make setup`")


def build(names: Collection[str] = tuple(PACKAGES)) -> Path:
    """Build those of `names` that the cache lacks; the directory. Only checked where KUBEBUILDER_ASSETS is set."""
    target = directory_in_use()
    if os.environ.get("KUBEBUILDER_ASSETS"):
        for name in names:
            binary(name)
        return target
    if _missing(target, names):
        with exclusive(target / ".lock", "the control plane's binaries"):
            for name in _missing(target, names):
                package, minutes = PACKAGES[name]
                with step(f"building {name} (first time only: about {minutes} min on 2 cores)"):
                    _go_build(package, target / name)
    return target


def _missing(directory: Path, names: Collection[str]) -> list[str]:
    return [name for name in PACKAGES if name in names and not (directory / name).exists()]


def _go_build(package: str, output: Path) -> None:
    version = kubernetes_version()
    major, minor, _ = version.removeprefix("v").split(".", 2)
    stamp = "k8s.io/component-base/version"
    flags = f"-s -w -X {stamp}.gitVersion={version} -X {stamp}.gitMajor={major} -X {stamp}.gitMinor={minor}"
    unfinished = output.with_name(f".{output.name}.unfinished")
    command = ["go", "build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o", str(unfinished)]
    # A user's GOFLAGS or go.work must not change what the cache key promises.
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off"}
    ended = subprocess.run([*command, package], cwd=MODULE, env=environment, capture_output=True, text=True)
    if ended.returncode != 0:
        raise BinariesError(f"go build {package} failed with status {ended.returncode}:\n{ended.stderr[-4000:]}")
    unfinished.replace(output)


if __name__ == "__main__":
    say(f"control plane binaries: {build()}")
