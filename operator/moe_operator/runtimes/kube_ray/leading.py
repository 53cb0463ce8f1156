"""Where the requests of one deployment are led: to a Ray cluster, by its Service, or to the activator, by an
EndpointSlice, which holds them until it serves."""

from __future__ import annotations

from dataclasses import dataclass

from moe_contract.report import DirectoryReport
from moe_operator.activator.announcement import MOST_KEYS
from moe_operator.api import MoEDeployment, Reason
from moe_operator.finding import Finding
from moe_operator.kube.api import KubeApi
from moe_operator.kube.children import apply_child
from moe_operator.kube.errors import KubeError, SecretError
from moe_operator.kube.resources import ENDPOINT_SLICES, SERVICES
from moe_operator.kube.secrets import Secrets
from moe_operator.runtimes.kube_ray.activators import Activators, Endpoints
from moe_operator.runtimes.kube_ray.clusters import Clusters, serves
from moe_operator.runtimes.kube_ray.manifests.activation import announcement_of, build_activation
from moe_operator.runtimes.kube_ray.manifests.service import build_service, selected_cluster
from moe_operator.runtimes.kube_ray.objects import KubeRayObjects

_NOT_TAKEN = (400, 403, 413, 422)
"""HTTP status of what the API server will not take the next time either."""


@dataclass(slots=True)
class Leading:
    """Of one deployment.

    Attributes:
        activators: those of the activator, where one is installed.
        _slice_refused: why the API server did not take the EndpointSlice; None if it did.
    """

    api: KubeApi
    secrets: Secrets
    objects: KubeRayObjects
    activators: Activators | None
    _slice_refused: Finding | None = None

    def led_to(self, moe: MoEDeployment, clusters: Clusters, report: DirectoryReport | None) -> str | None:
        """The Ray cluster that requests are to be led to; None: to the activator, which holds them until it serves."""
        leads_already = selected_cluster(self.objects.service(moe)) is not None
        return clusters.answering if leads_already or serves(report) or not self._is_woken(moe) else None

    def may_be_held(self, moe: MoEDeployment) -> bool:
        """Whether requests are to be led elsewhere before it is taken away."""
        return self._is_woken(moe) or self.objects.activation(moe) is not None

    async def lead(self, moe: MoEDeployment, cluster: str | None) -> None:
        """Have the Service lead requests there. At no moment are they led nowhere.

        Raises:
            NameConflictError: one of somebody else's is in the way.
            KubeError: the API server refused or did not answer.
        """
        service = SERVICES, build_service(moe, cluster)
        there = self.objects.activation(moe)
        if there is None and not self._is_woken(moe):
            steps = [service]
        else:
            held, family = cluster is None and self._is_woken(moe), (there or {}).get("addressType")
            activators = self.activators
            # Of an activator that was removed no address may stay beside those of pods.
            endpoints = activators.endpoints(family) if activators else Endpoints(family or "IPv4")
            told = announcement_of(moe, await self._known_keys(moe) if activators else (), held)
            activation = ENDPOINT_SLICES, build_activation(moe, told, endpoints)
            steps = [activation, service] if held else [service, activation]
        for resource, manifest in steps:
            try:
                await apply_child(self.api, moe, resource, manifest)
            except KubeError as error:
                if resource != ENDPOINT_SLICES or error.status not in _NOT_TAKEN:
                    raise
                said = f"requests are not held while it sleeps, nor while it wakes: {error}"
                self._slice_refused = Finding(Reason.KUBERNETES_REFUSED, said)
            else:
                self._slice_refused = None if resource == ENDPOINT_SLICES else self._slice_refused

    async def not_woken(self, moe: MoEDeployment) -> Finding | None:
        """Why no request could wake it. Of a Secret that cannot be used is told elsewhere."""
        ref = moe.spec.serving.api_keys_secret_ref
        if not self._is_woken(moe):
            return None
        try:
            count = len(await self.secrets.api_key_hashes(moe))
        except SecretError:
            count = 0
        if ref is None or count <= MOST_KEYS:
            return self._slice_refused
        return Finding(
            Reason.TOO_MANY_KEYS,
            f"Secret {ref.name!r} (spec.serving.apiKeysSecretRef) has {count} API keys, and the activator can be told "
            f"of {MOST_KEYS} at most: nobody could wake it, so it is not put to sleep; take some out, or spec.sleep",
        )

    def _is_woken(self, moe: MoEDeployment) -> bool:
        """Whether the activator wakes it."""
        return self.activators is not None and moe.spec.sleep is not None

    async def _known_keys(self, moe: MoEDeployment) -> tuple[str, ...]:
        """Digests of its API keys; none where they cannot be read, or all be told."""
        try:
            keys = await self.secrets.api_key_hashes(moe)
        except SecretError:
            return ()
        return keys if len(keys) <= MOST_KEYS else ()
