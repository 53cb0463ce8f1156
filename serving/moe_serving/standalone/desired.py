"""From command-line arguments to Serve applications. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from moe_contract.applications import (
    API_REQUESTS,
    ATTENTION,
    ATTENTION_REQUESTS,
    EXPERTS,
    ApiConfig,
    AttentionConfig,
    DirectoryConfig,
    GenerationSource,
    ModelArgs,
    RecordConfig,
    ReplicaScale,
    RoutingConfig,
    ShardRef,
    Wire,
    key_digest,
    key_digests,
    shard_application_name,
)
from moe_contract.model import ModelFacts
from moe_contract.rendering import Desired, render
from moe_contract.resources import Resources
from moe_placement import PlacementError, balanced_placement
from moe_placement.encoding import encode_placement
from moe_serving.standalone.errors import UsageError


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for on the command line.

    Attributes:
        route_prefix: where the API is found below Serve's address; also names the applications, since it is unique.
        api_keys: in clear; only their digests leave this process. None at all: no key is asked for.
        internal_key: of ``/internal``, random per run.
    """

    model: ModelArgs
    served_name: str
    route_prefix: str
    shards: int
    copies: int
    api_replicas: int
    attention_replicas: int
    max_context: int | None
    generation_defaults: GenerationSource
    allowed_origins: tuple[str, ...]
    queue_requests: int
    queue_tokens: int
    record: RecordConfig | None
    routing: RoutingConfig | None
    wire: Wire
    api_keys: tuple[str, ...]
    internal_key: str

    @property
    def application(self) -> str:
        """Name of the core application."""
        return "moe-serve" + self.route_prefix.rstrip("/").replace("/", ".")


def desired_applications(wanted: Wanted, facts: ModelFacts, gpus: int) -> tuple[dict[str, Any], ...]:
    """The applications that serve a model, as entries of Serve's configuration.

    Args:
        gpus: that Ray has to hand out; all processes share them.

    Raises:
        UsageError: the copies do not fit the shards.
    """
    slots = -(-facts.experts * wanted.copies // wanted.shards)
    try:
        placement = balanced_placement(facts.layers, facts.experts, [slots] * wanted.shards, wanted.copies)
    except PlacementError as error:
        raise UsageError(f"--shards {wanted.shards} --copies {wanted.copies}: {error}") from error
    names = [shard_application_name(wanted.application, index) for index in range(wanted.shards)]
    return render(
        Desired(
            core=wanted.application,
            route_prefix=wanted.route_prefix,
            model=wanted.model,
            api=_api(wanted),
            attention=AttentionConfig(
                queue_requests=wanted.queue_requests,
                queue_tokens=wanted.queue_tokens,
                record=wanted.record,
                routing=wanted.routing,
                wire=wanted.wire,
            ),
            directory=DirectoryConfig(
                term=1,
                revision=1,
                shards=tuple(ShardRef(index=index, application=name) for index, name in enumerate(names)),
                slots_per_shard=slots,
                min_copies=wanted.copies,
                placement=encode_placement(placement),
                model_digest=facts.digest,
            ),
            api_scale=ReplicaScale.fixed(wanted.api_replicas, API_REQUESTS),
            attention_scale=ReplicaScale.fixed(wanted.attention_replicas, ATTENTION_REQUESTS),
            actor_options=dict.fromkeys((ATTENTION, EXPERTS), _resources(wanted, gpus).actor_options),
        )
    )


def _api(wanted: Wanted) -> ApiConfig:
    return ApiConfig(
        served_name=wanted.served_name,
        max_context=wanted.max_context,
        generation_defaults=wanted.generation_defaults,
        allowed_origins=wanted.allowed_origins,
        api_key_sha256=key_digests(wanted.api_keys),
        internal_key_sha256=key_digest(wanted.internal_key),
    )


def _resources(wanted: Wanted, gpus: int) -> Resources:
    """Equal parts of the GPUs for all shards and attention replicas: Ray shows each the GPU that it has a part of."""
    if wanted.model.device == "cpu" or gpus == 0:
        if wanted.model.device == "cuda":
            raise UsageError("--device cuda: Ray finds no GPU on this machine; use --device cpu or auto")
        return Resources()
    actors_per_gpu = -(-(wanted.shards + wanted.attention_replicas) // gpus)
    return Resources(gpus=int(10_000 / actors_per_gpu) / 10_000)
