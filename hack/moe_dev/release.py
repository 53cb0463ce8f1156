"""What a release is: the images and the chart, pushed to a registry under the version of package and chart.

`python -m moe_dev.release REGISTRY v0.1.0`, as root, builds the images as `make images` does and pushes them as
REGISTRY/moe-operator and REGISTRY/moe-serving, and the chart as oci://REGISTRY/charts/moe-operator, whose values name
that registry. Who may push is in the file that REGISTRY_AUTH_FILE names. Run by .github/workflows/release.yml.
"""

import os
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

import yaml

from moe_dev import images
from moe_dev.debian import ImageError
from moe_dev.helm import CHART, Helm, HelmError
from moe_dev.lock import OF_IMAGES
from moe_dev.paths import CLONE
from moe_dev.progress import say

# Of an image in the chart's values, as the chart has it for nobody's registry.
UNNAMED = "repository: moe-operator\n"


class ReleaseError(Exception):
    """It is not released; the message says what to do."""


def main(arguments: Sequence[str] = sys.argv[1:]) -> int:
    try:
        registry, tag = arguments
        version = version_of(tag)
        for name in OF_IMAGES:
            images.publish(name, f"{registry}/moe-{name}:{version}")
        push_chart(registry, version)
    except ValueError:
        print("usage: python -m moe_dev.release REGISTRY v0.1.0", file=sys.stderr)
        return 2
    except (ReleaseError, ImageError, HelmError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def version_of(tag: str) -> str:
    """Of a tag; ReleaseError where package or chart are of another one."""
    project = tomllib.loads((CLONE / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    found = {"pyproject.toml": project, "Chart.yaml": chart["version"], "appVersion of Chart.yaml": chart["appVersion"]}
    if others := {where: version for where, version in found.items() if f"v{version}" != tag}:
        listed = ", ".join(f"{where} has {version}" for where, version in others.items())
        raise ReleaseError(f"the tag is {tag}, but {listed}: tag what they say, as v{project}, or change them first")
    return tag.removeprefix("v")


def push_chart(registry: str, version: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        helm = Helm()
        helm.run("package", str(with_registry(registry, Path(folder))), f"--destination={folder}")
        logins = [f"--registry-config={file}"] if (file := os.environ.get("REGISTRY_AUTH_FILE")) else []
        helm.run("push", f"{folder}/moe-operator-{version}.tgz", f"oci://{registry}/charts", *logins)
    say(f"pushed oci://{registry}/charts/moe-operator {version}")


def with_registry(registry: str, folder: Path) -> Path:
    """A copy of the chart whose image is that of the registry."""
    copy = folder / CHART.name
    shutil.copytree(CHART, copy)
    values = (copy / "values.yaml").read_text()
    if values.count(UNNAMED) != 1:
        raise ReleaseError(f"{CHART}/values.yaml does not have one line `{UNNAMED.strip()}`: see moe_dev.release")
    (copy / "values.yaml").write_text(values.replace(UNNAMED, f"repository: {registry}/moe-operator\n"))
    return copy


if __name__ == "__main__":
    sys.exit(main())
