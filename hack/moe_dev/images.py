"""`make images`: builds the images of operator and serving with buildah, and measures them.

Needs root, and Debian's packages buildah and mmdebstrap. Where PYTHON_IMAGE names no base, one is made of Debian's own
packages, so that no registry is needed. `--check` also starts what was built, with a read-only root and as the image's
user, without a container runtime.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from moe_dev import debian
from moe_dev.debian import ImageError
from moe_dev.lock import OF_IMAGES
from moe_dev.paths import CLONE, cache_root
from moe_dev.progress import say, step
from moe_dev.uv import environment as pip_environment

FOLDER = CLONE / "images"
CONTEXT = CLONE / "build" / "images"
SUITE = "bookworm"
BASE = f"localhost/moe-python:{SUITE}"
BASE_PACKAGES = ("python3", "python3-venv", "ca-certificates", "wget")
MEGABYTE = 1_000_000
# Bounds on what a registry has to keep and a node to fetch; none for serving, of which torch is most.
MOST_BYTES = {"operator": 250 * MEGABYTE}
USERS = {"operator": 65532, "serving": 1000}
TRIALS = {name: FOLDER / "trials" / f"{name}.py" for name in OF_IMAGES}
MODEL = CLONE / "models" / "tiny"
"""At /mnt of an image that is tried."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m moe_dev.images", description=__doc__)
    parser.add_argument("--check", action="store_true", help="start each one once")
    parser.add_argument("names", nargs="*", default=tuple(OF_IMAGES), metavar="IMAGE", help="default: operator serving")
    options = parser.parse_args()
    try:
        for name in options.names:
            _measured(name)
            if options.check:
                _try(name)
    except ImageError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def publish(name: str, reference: str) -> None:
    """Build one and push it to a registry under its full name there."""
    _measured(name)
    with step(f"pushing {reference}"):
        _buildah("push", tag(name), f"docker://{reference}")


def archived(name: str, file: Path) -> str:
    """Build one and write it into a tar file, from which nodes take it without a registry; what it is called there."""
    image = _measured(name)
    with step(f"writing {image} into {file.name}"):
        _buildah("push", "--quiet", image, f"docker-archive:{file}:{image}")
    return image


def _measured(name: str) -> str:
    """Build one, where this machine can, and say how large it is; what it is called."""
    if why := unable():
        raise ImageError(why)
    image = build(name)
    _measure(name)
    return image


def build(name: str) -> str:
    """Build one; what it is called."""
    base = os.environ.get("PYTHON_IMAGE") or _made_base()
    shutil.rmtree(CONTEXT, ignore_errors=True)
    CONTEXT.mkdir(parents=True)
    shutil.copy(OF_IMAGES[name], CONTEXT)
    _run([sys.executable, "-m", "hatchling", "build", "--target=wheel", f"--directory={CONTEXT}"])
    arguments = {"PYTHON_IMAGE": base, "TORCH_INDEX": os.environ.get("TORCH_INDEX"), **_pip_settings()}
    given = [f"--build-arg={key}={value}" for key, value in arguments.items() if value]
    mounts = [f"--volume={path}:{path}:ro" for path in {_pip_settings().get("PIP_CERT")} if path]
    image = tag(name)
    with step(f"building {image}"):
        _buildah(
            "build",
            # What has not changed since the last build is taken from it.
            "--layers",
            "--network=host",
            *given,
            *mounts,
            f"--file={FOLDER / name}.Dockerfile",
            f"--tag={image}",
            CONTEXT,
        )
    return image


def tag(name: str) -> str:
    return f"localhost/moe-{name}:latest"


def compressed_bytes(image: str) -> int:
    """The sum of its layers as a registry keeps them."""
    with tempfile.TemporaryDirectory() as folder:
        _buildah("push", "--quiet", image, f"oci:{folder}/image")
        layout = Path(folder) / "image"
        (entry,) = json.loads((layout / "index.json").read_text())["manifests"]
        manifest = json.loads((layout / "blobs" / entry["digest"].replace(":", "/")).read_text())
    return sum(layer["size"] for layer in manifest["layers"])


def _measure(name: str) -> None:
    with step(f"compressing {tag(name)}, as a registry keeps it"):
        size = compressed_bytes(tag(name))
    say(f"{tag(name)}: {size / MEGABYTE:.0f} MB compressed")
    if size > MOST_BYTES.get(name, size):
        raise ImageError(f"{tag(name)} is larger than {MOST_BYTES[name] / MEGABYTE:.0f} MB")


def _try(name: str) -> None:
    """In namespaces of its own, with the image as a root that cannot be written, and a /tmp that can."""
    container = _buildah("from", tag(name)).strip()
    try:
        root = _buildah("mount", container).strip()
        environment = json.loads(_buildah("inspect", "--type=image", tag(name)))["OCIv1"]["config"]["Env"]
        script = (
            'set -e; mount --bind "$1" "$1"; mount -o remount,ro,bind "$1"; mount -t tmpfs none "$1/tmp"; '
            'chmod 1777 "$1/tmp"; mount -t proc none "$1/proc"; mount --rbind /dev "$1/dev"; '
            'mount --bind "$2" "$1/mnt"; shift 2; exec "$@"'
        )
        inside = ["env", "-i", *environment, "sh", "-c", 'cd /tmp; exec python -c "$0"', TRIALS[name].read_text()]
        command = ["unshare", "--mount", "--pid", "--fork", "sh", "-c", script, "sh", root, str(MODEL)]
        with step(f"starting {tag(name)} with a read-only root"):
            _run([*command, "chroot", f"--userspec={USERS[name]}:{USERS[name]}", root, *inside])
    finally:
        _buildah("rm", container)


def _made_base() -> str:
    """Debian's Python, and what it needs; made once."""
    if BASE in _buildah("images", "--format={{.Name}}:{{.Tag}}").split():
        return BASE
    with step(f"making {BASE} of Debian's packages"), tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "base.tar"
        debian.make(archive, SUITE, BASE_PACKAGES)
        container = _buildah("from", "scratch").strip()
        _buildah("add", "--quiet", container, archive)
        _buildah("commit", "--quiet", "--rm", container, BASE)
    return BASE


def _pip_settings() -> dict[str, str]:
    """Of this machine, for the build to fetch packages from where this one does."""
    found = pip_environment()
    names = {"PIP_INDEX_URL": "UV_DEFAULT_INDEX", "PIP_EXTRA_INDEX_URL": "UV_INDEX", "PIP_CERT": "SSL_CERT_FILE"}
    given = {key: os.environ.get(key) or found.get(name) for key, name in names.items()}
    return {key: value for key, value in given.items() if value}


def unable() -> str | None:
    """Why no image can be built here, with the cure; None where one can."""
    if os.geteuid() != 0:
        return "images are built by root: sudo make images"
    absent = [tool for tool in ("buildah", debian.TOOL, "unshare") if shutil.which(tool) is None]
    if absent:
        return f"{', '.join(absent)} missing: apt-get install --no-install-recommends buildah mmdebstrap"
    return None


def _buildah(*arguments: str | Path) -> str:
    """In a store of this project's own; `chroot` isolation, since a container runtime need not be there."""
    store = cache_root() / "images"
    where = [f"--root={store}", f"--runroot={store / 'run'}"]
    return _run(["buildah", *where, *map(str, arguments)], BUILDAH_ISOLATION="chroot")


def _run(command: Sequence[str], **more: str) -> str:
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **more}, cwd=CLONE)
    if ended.returncode != 0:
        raise ImageError(
            f"{' '.join(command)[:300]} ended with {ended.returncode}:\n{(ended.stdout + ended.stderr)[-4000:]}"
        )
    return ended.stdout


if __name__ == "__main__":
    sys.exit(main())
