"""The images that the nodes hold from the start, made locally and cached: nothing is pulled.

The base image is a small Debian without Python packages: Python and the virtual environment of the clone are mounted
into every container (`mounts`), since 6 GB of them would take minutes to put into a layer and on a node.
"""

import hashlib
import platform
import sys
import tarfile
from pathlib import Path

from moe_dev import binaries, debian
from moe_dev.locks import exclusive
from moe_dev.modules import KUBERAY
from moe_dev.node.configs import SANDBOX_IMAGE
from moe_dev.node.oci import File, Image, write_image, write_layer
from moe_dev.paths import CLONE, cache_root
from moe_dev.progress import step

BASE = SANDBOX_IMAGE
COREDNS_IMAGE = "moe-operator.local/coredns:dev"
# The name that KubeRay's own manifests have.
KUBERAY_IMAGE = f"quay.io/kuberay/operator:{KUBERAY.version()}"

# KubeRay's probes ask with wget; python3 brings the libraries that any Python of the host is linked with; in a Redis
# Ray's head keeps its state.
PACKAGES = ("ca-certificates", "python3", "redis-server", "wget")
USER = 1000
# A pod may hide what is below /tmp, /root and the like with a volume of its own, and never looks here.
PYTHON = "/opt/moe/python"
SOURCE = "/opt/moe/clone"
# Where a pod mounts modules of its own.
MODULES = "/opt/moe/modules"
RECIPE = "1"


def mounts() -> dict[Path, str]:
    """{source: destination} of what each container has beside its image: this Python, and the clone with .venv."""
    return {Path(sys.base_prefix): PYTHON, CLONE: SOURCE}


def archives() -> list[Path]:
    """The archives of all images, made where they are not in the cache."""
    return [
        _base(),
        _of_program("coredns", Image(COREDNS_IMAGE, ["/coredns"]), "/coredns"),
        _of_program("ray-operator", Image(KUBERAY_IMAGE, ["/manager"], user="65532"), "/manager"),
    ]


def base_is_made() -> bool:
    return _base_place().exists()


def _directory() -> Path:
    return cache_root() / "node-images"


def _base_place() -> Path:
    parts = (RECIPE, _suite(), *PACKAGES, *debian.UNREAD, str(_base_files()), str(_python_environment()))
    return _directory() / f"base-{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:12]}.tar"


def _base() -> Path:
    place = _base_place()
    with exclusive(place.with_suffix(".lock"), "the base image"):
        if not place.exists():
            with step("making the base image (first time only: about 1 min)"):
                _make_base(place)
    return place


def _make_base(place: Path) -> None:
    root, ours, unfinished = (place.with_suffix(end) for end in (".debian.tar", ".ours", ".unfinished"))
    debian.make(root, _suite(), PACKAGES)
    image = Image(BASE, ["sleep", "infinity"], _python_environment())
    write_image(unfinished, image, [root, write_layer(ours, _base_files() | _user(root))])
    unfinished.rename(place)
    root.unlink()
    ours.unlink()


def _base_files() -> dict[str, File]:
    ray = b'#!/bin/sh\nexec python -m ray.scripts.scripts "$@"\n'
    python = {f"/usr/local/bin/{name}": File(link=f"{PYTHON}/bin/python3") for name in ("python", "python3")}
    return python | {"/usr/local/bin/ray": File(ray)}


def _user(root: Path) -> dict[str, File]:
    """A name for the user that pods run as: Ray and others ask who they are."""
    with tarfile.open(root) as archive:
        found = archive.extractfile("./etc/passwd")
        assert found is not None  # noqa: S101 - a file
        return {"/etc/passwd": File(found.read() + f"moe:x:{USER}:{USER}::/tmp:/bin/bash\n".encode(), 0o644)}


def _python_environment() -> dict[str, str]:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    roots = [f"{SOURCE}/{root}" for root in ("placement", "contract", "serving", "operator")]
    # An interpreter that has its library beside it looks for that where it was installed.
    libraries = {"LD_LIBRARY_PATH": f"{PYTHON}/lib"}
    return libraries | {"PYTHONPATH": ":".join([MODULES, *roots, f"{SOURCE}/.venv/lib/{version}/site-packages"])}


def _suite() -> str:
    """Debian's release: the host's, so that what is linked with its libraries finds them, else the stable one."""
    release = platform.freedesktop_os_release()
    return release["VERSION_CODENAME"] if release.get("ID") == "debian" else "stable"


def _of_program(name: str, image: Image, path: str) -> Path:
    """An image of one statically linked program."""
    program = binaries.binary(name)
    place = _directory() / f"{name}-{program.parent.name}.tar"
    with exclusive(place.with_suffix(".lock"), f"the image of {name}"):
        if not place.exists():
            layer, unfinished = place.with_suffix(".layer"), place.with_suffix(".unfinished")
            write_layer(layer, {path: File(program.read_bytes())})
            write_image(unfinished, image, [layer]).rename(place)
            layer.unlink()
    return place
