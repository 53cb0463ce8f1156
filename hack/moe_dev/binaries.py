"""Builds the programs that tests and the demo run on, from the Go modules that pin them: see `moe_dev.modules`.

The binaries go to a cache outside the clone, keyed by everything that decides what they are, and are built once: a
file lock keeps two builders apart and a binary appears under its final name only when it is complete.
`KUBEBUILDER_ASSETS`, where set, names a directory whose binaries are taken instead; what it lacks is built, such as
the kube-controller-manager, which setup-envtest does not ship. Standard library only: `make setup` runs this.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from moe_dev import commands
from moe_dev.locks import exclusive
from moe_dev.modules import CONTROL_PLANE, MODULES, Module, ModuleError
from moe_dev.progress import say, step

ETCD = "etcd"
APISERVER = "kube-apiserver"
CONTROLLER_MANAGER = "kube-controller-manager"
KUBECTL = "kubectl"
SCHEDULER = "kube-scheduler"
HELM = "helm"
# A folder: CRDs, RBAC and the Deployment of the KubeRay operator.
KUBERAY_MANIFESTS = "kuberay-manifests"
# A folder: CRDs of Gateways and their routes.
GATEWAY_API_MANIFESTS = "gateway-api-manifests"
# A folder: CRDs of KEDA.
KEDA_MANIFESTS = "keda-manifests"
# A folder: CRDs of Prometheus' operator.
MONITORING_MANIFESTS = "monitoring-manifests"
PROMETHEUS = "prometheus"

# A control plane without nodes, which is what most tests need.
EMBEDDED = (KUBECTL, ETCD, APISERVER, CONTROLLER_MANAGER)
OF_SETUP = (*EMBEDDED, KUBERAY_MANIFESTS, GATEWAY_API_MANIFESTS, KEDA_MANIFESTS, MONITORING_MANIFESTS)
ALL = tuple(name for module in MODULES for name in module.names())
# `go build` calls the binary of a module's main package by the module's name.
BUILT_AS = {ETCD: "server"}


class BinariesError(Exception):
    """A program is not to be had; the message says what to do."""


def kubernetes_version() -> str:
    """The release that go.mod pins, such as v1.37.2."""
    return CONTROL_PLANE.version()


def binary(name: str) -> Path:
    """The path of one binary or folder, which exists; otherwise BinariesError with the cure."""
    path = _place(name)
    if os.access(path, os.X_OK):
        return path
    cure = "make setup" if name in OF_SETUP else f"PYTHONPATH=hack python3 -m moe_dev.setup --binaries {name}"
    raise BinariesError(f"{path} is missing: run `{cure}`")


def build(names: Collection[str] = EMBEDDED) -> None:
    """Build those of `names` that are nowhere yet."""
    if not missing(names):
        return
    for module in MODULES:
        if not _missing_of(module, names):
            continue
        target = module.directory()
        with exclusive(target / ".lock", f"the binaries of {target.parent.name}"):
            if wanted := _missing_of(module, names):
                _make(module, wanted)


def missing(names: Collection[str] = EMBEDDED) -> list[str]:
    """Those of `names` that must be built; BinariesError where nothing builds one, or it would not fit the rest."""
    for name in names:
        _module_of(name)
    _check_fit(names)
    return [name for module in MODULES for name in _missing_of(module, names)]


def _missing_of(module: Module, names: Collection[str]) -> list[str]:
    return [name for name in module.names() if name in names and not os.access(_place(name), os.X_OK)]


def _assets() -> Path | None:
    directory = os.environ.get("KUBEBUILDER_ASSETS")
    return Path(directory) if directory else None


def _place(name: str) -> Path:
    """Where a binary is, or will be once it is built."""
    assets = _assets()
    if assets is not None and os.access(assets / name, os.X_OK):
        return assets / name
    return _module_of(name).directory() / name


def _module_of(name: str) -> Module:
    for module in MODULES:
        if name in module.names():
            return module
    raise BinariesError(f"nothing here builds {name}: take of {', '.join(ALL)}")


def _check_fit(names: Collection[str]) -> None:
    """A kube-controller-manager may not be newer than its kube-apiserver: one given and one built are of one minor."""
    if _assets() is not None and all(_place(name).parent != _assets() for name in EMBEDDED):
        raise BinariesError(f"KUBEBUILDER_ASSETS={_assets()} holds none of {', '.join(EMBEDDED)}: correct or unset it")
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


def has_library(name: str) -> bool:
    """Whether a C library's headers are there, as pkg-config knows it; without that nothing is."""
    if shutil.which("pkg-config") is None:
        return False
    return subprocess.run(["pkg-config", "--exists", name], check=False).returncode == 0


def _version(program: Path) -> str:
    """Such as v1.37.2; empty where the program does not say."""
    ended = subprocess.run([str(program), "--version"], capture_output=True, text=True, check=False)
    return ended.stdout.strip().rpartition(" ")[2]


def _make(module: Module, names: Collection[str]) -> None:
    if programs := [name for name in module.programs if name in names]:
        with step(f"building {', '.join(programs)} (first time only: about {module.minutes} min on 2 cores)"):
            _go_build(module, programs)
    for name in module.folders:
        if name in names:
            _copy(module, name)


def _copy(module: Module, name: str) -> None:
    """A folder of the release's source, which Go downloads and checks against go.sum."""
    commands.run(["go", "mod", "download", module.release], environment=_environment(), directory=module.folder)
    where = ["go", "list", "-mod=readonly", "-m", "-f", "{{.Dir}}", module.release]
    source = subprocess.check_output(where, env=_environment(), cwd=module.folder, text=True).strip()
    unfinished = module.directory() / ".unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(Path(source) / module.folders[name], unfinished, copy_function=shutil.copyfile)
    for folder, _, _ in os.walk(unfinished):
        os.chmod(folder, 0o755)  # those of Go's cache may not be written
    unfinished.rename(module.directory() / name)


def _environment(cgo: bool = False) -> dict[str, str]:
    """A user's GOFLAGS or go.work must not change what the cache key promises."""
    return {**os.environ, "CGO_ENABLED": str(int(cgo)), "GOFLAGS": "", "GOWORK": "off"}


def _go_build(module: Module, names: Sequence[str]) -> None:
    """In one run, which compiles what they share once and keeps all cores busy while one of them is linked."""
    if module.library is not None:
        _check_library(*module.library)
    command = ["go", "build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags", module.link_flags()]
    # The linker drops what debuggers read; that the compiler does not write it first saves a tenth of the time.
    command += ["-gcflags=all=-dwarf=false"]
    if module.tags:
        command += ["-tags", ",".join(module.tags)]
    environment = _environment(cgo=module.library is not None)
    target = module.directory()
    unfinished = target / ".unfinished"
    packages = [module.programs[name] for name in names]
    commands.run([*command, "-o", f"{unfinished}/", *packages], environment=environment, directory=module.folder)
    for name in names:
        (unfinished / BUILT_AS.get(name, name)).replace(target / name)
    shutil.rmtree(unfinished)


def _check_library(name: str, headers: str) -> None:
    """BinariesError where a C library's headers are missing, before the compiler says it at length."""
    if shutil.which("gcc") is None or not has_library(name):
        raise BinariesError(f"{name}'s headers are missing: e.g. apt-get install gcc pkg-config {headers}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m moe_dev.binaries", description=__doc__)
    parser.add_argument("--missing", action="store_true", help="build nothing: print the names of what must be built")
    parser.add_argument(
        "names", nargs="*", default=EMBEDDED, metavar="NAME", help="default: those of a control plane without nodes"
    )
    options = parser.parse_args()
    try:
        if options.missing:
            print(*missing(options.names))
        else:
            build(options.names)
            say("all binaries are there")
    except (BinariesError, ModuleError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
