"""Whichever runtime a deployment names."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from moe_operator.api import MoEDeployment
from moe_operator.runtimes.port import Runtime, Runtimes


@dataclass(frozen=True, slots=True)
class EitherRuntime:
    """As ``Runtimes``."""

    ray_clusters: Runtimes
    kube_rays: Runtimes

    def open(self, moe: MoEDeployment) -> Runtime:
        return (self.kube_rays if moe.spec.runtime.kube_ray else self.ray_clusters).open(moe)

    def orphaned(self, uids: Callable[[str], Collection[str] | None]) -> int:
        return self.ray_clusters.orphaned(uids) + self.kube_rays.orphaned(uids)
