"""Kinds of others on a control plane without their operators, and what its API server says of objects of them."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from moe_dev.kube import Kubectl
from moe_dev.operator_process import wait_established

Json = dict[str, Any]


def install_kinds(kube: Kubectl, folder: Path, *names: str) -> None:
    """CRDs from files of a folder; some are too large for what ``kubectl apply`` writes beside them."""
    for name in names:
        kube.run("apply", "--server-side", "-f", str(folder / name))
        wait_established(kube, folder / name)


def taken(kube: Kubectl, namespace: str, objects: Iterable[Json]) -> int:
    """How many it would make, all in one namespace.

    Raises:
        KubectlError: what is wrong with the first that it refuses; unknown fields are.
    """
    moved = [each | {"metadata": each["metadata"] | {"namespace": namespace}} for each in objects]
    options = ("--validate=strict", "--dry-run=server", "-n", namespace, "-f", "-")
    said = kube.run("create", *options, text="\n---\n".join(map(json.dumps, moved)))
    return said.count("created (server dry run)")
