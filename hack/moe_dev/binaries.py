"""Builds etcd, kube-apiserver, kube-controller-manager and kubectl from the Go module that pins them.

The binaries go to a cache outside the clone, keyed by everything that decides what they are, and are built once: a
file lock keeps two builders apart and a binary appears under its final name only when it is complete.
`KUBEBUILDER_ASSETS`, where set, names a directory whose binaries are taken instead; what it lacks is built, such as
the kube-controller-manager, which setup-envtest does not ship. Standard library only: `make setup` runs this.
"""

import argparse
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from moe_dev import commands
from moe_dev.locks import exclusive
from moe_dev.paths import CLONE, cache_root
from moe_dev.progress import say, step

MODULE = CLONE / "hack" / "controlplane"

ETCD = "etcd"
APISERVER = "kube-apiserver"
CONTROLLER_MANAGER = "kube-controller-manager"
KUBECTL = "kubectl"

PACKAGES: Mapping[str, str] = {
    KUBECTL: "k8s.io/kubernetes/cmd/kubectl",
    ETCD: "go.etcd.io/etcd/server/v3",
    APISERVER: "k8s.io/kubernetes/cmd/kube-apiserver",
    CONTROLLER_MANAGER: "k8s.io/kubernetes/cmd/kube-controller-manager",
}
# `go build` calls the binary of a module's main package by the module's name.
BUILT_AS = {ETCD: "server"}
# What the three of the demo take together, on fast cores and on slow ones.
MINUTES = "4 to 10"
# A change of what comes out of the build.
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


def binary(name: str) -> Path:
    """The path of one binary, which exists; otherwise BinariesError with the cure."""
    path = _place(name)
    if os.access(path, os.X_OK):
        return path
    raise BinariesError(f"{path} is missing: run `make setup`")


def build(names: Collection[str] = tuple(PACKAGES)) -> Path:
    """Build those of `names` that are nowhere yet; the directory of what was built."""
    target = cache_directory()
    if missing(names):
        with exclusive(target / ".lock", "the control plane's binaries"):
            if wanted := missing(names):
                with step(f"building {', '.join(wanted)} (first time only: about {MINUTES} min on 2 cores)"):
                    _go_build(wanted, target)
    return target


def missing(names: Collection[str] = tuple(PACKAGES)) -> list[str]:
    """Those of `names` that must be built; BinariesError where they would not fit what is there."""
    _check_fit(names)
    return [name for name in PACKAGES if name in names and not os.access(_place(name), os.X_OK)]


def _assets() -> Path | None:
    directory = os.environ.get("KUBEBUILDER_ASSETS")
    return Path(directory) if directory else None


def _place(name: str) -> Path:
    """Where a binary is, or will be once it is built."""
    assets = _assets()
    if assets is not None and os.access(assets / name, os.X_OK):
        return assets / name
    return cache_directory() / name


def _check_fit(names: Collection[str]) -> None:
    """A kube-controller-manager may not be newer than its kube-apiserver: one given and one built are of one minor."""
    if _assets() is not None and all(_place(name).parent != _assets() for name in PACKAGES):
        raise BinariesError(f"KUBEBUILDER_ASSETS={_assets()} holds none of {', '.join(PACKAGES)}: correct or unset it")
    pair = {APISERVER, CONTROLLER_MANAGER} & set(names)
    given = [name for name in pair if _place(name).parent == _assets()]
    if len(given) != 1 or len(pair) != 2:
        return
    (built,) = pair.difference(given)
    found = _version(_place(given[0]))
    pinned = kubernetes_version()
    if found.split(".")[:2] != pinned.split(".")[:2]:
        wanted = pinned.removeprefix("v").rpartition(".")[0]
        raise BinariesError(
            f"KUBEBUILDER_ASSETS={_assets()} has {given[0]} {found or 'of an unknown version'} and no {built}, and the"
            f" one to build is {pinned}: take `setup-envtest use {wanted}.x`, put a {built} of the same version there,"
            " or unset the variable"
        )


def _version(program: Path) -> str:
    """Such as v1.37.2; empty where the program does not say."""
    ended = subprocess.run([str(program), "--version"], capture_output=True, text=True, check=False)
    return ended.stdout.strip().rpartition(" ")[2]


def _go_build(names: Sequence[str], target: Path) -> None:
    """In one run, which compiles what they share once and keeps all cores busy while one of them is linked."""
    version = kubernetes_version()
    major, minor, _ = version.removeprefix("v").split(".", 2)
    stamp = "k8s.io/component-base/version"
    flags = f"-s -w -X {stamp}.gitVersion={version} -X {stamp}.gitMajor={major} -X {stamp}.gitMinor={minor}"
    command = ["go", "build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags", flags]
    # The linker drops what debuggers read; that the compiler does not write it first saves a tenth of the time.
    command += ["-gcflags=all=-dwarf=false"]
    # A user's GOFLAGS or go.work must not change what the cache key promises.
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off"}
    unfinished = target / ".unfinished"
    packages = [PACKAGES[name] for name in names]
    commands.run([*command, "-o", f"{unfinished}/", *packages], environment=environment, directory=MODULE)
    for name in names:
        (unfinished / BUILT_AS.get(name, name)).replace(target / name)
    shutil.rmtree(unfinished)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m moe_dev.binaries", description=__doc__)
    parser.add_argument("--missing", action="store_true", help="build nothing: print the names of what must be built")
    parser.add_argument("names", nargs="*", default=tuple(PACKAGES), metavar="NAME", help="default: all")
    options = parser.parse_args()
    try:
        if options.missing:
            print(*missing(options.names))
        else:
            say(f"control plane binaries: {build(options.names)}")
    except BinariesError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
