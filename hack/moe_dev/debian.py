"""A small Debian, made by mmdebstrap of Debian's packages: the base of images where no registry is asked for one."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

TOOL = "mmdebstrap"
# Below /usr/share, for people.
UNREAD = ("doc", "info", "locale", "man")
SECONDS = 500.0


class ImageError(Exception):
    """An image cannot be made, or does not work; the message says what to do."""


def make(archive: Path, suite: str, packages: Sequence[str]) -> None:
    """Write `packages` of a release, and what they need, as a tar file of the root."""
    command = [TOOL, "--quiet", "--variant=minbase", f"--include={','.join(packages)}"]
    command += [f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in UNREAD]
    command += [suite, str(archive)]
    try:
        ended = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=SECONDS
        )
    except (subprocess.TimeoutExpired, OSError) as error:
        raise ImageError(f"no base image: {error}") from None
    if ended.returncode != 0:
        raise ImageError(f"{TOOL} failed: {ended.stderr[-2000:]}")
