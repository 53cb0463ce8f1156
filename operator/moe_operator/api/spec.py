"""``spec`` of a MoEDeployment: what a user asks for. Bounds and CEL rules here are those of the CRD."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field

from moe_contract.applications import (
    API_REQUESTS,
    ATTENTION_REQUESTS,
    BATCH_TOKENS,
    CACHE_TOKENS,
    ORIGIN,
    QUEUE_REQUESTS,
    QUEUE_TOKENS,
    Dtype,
    GenerationSource,
    Weights,
    Wire,
)
from moe_contract.sizes import MOST_APIS, MOST_SHARDS
from moe_operator.api.autoscaling import Autoscaling
from moe_operator.api.base import ApiModel, SecretRef, Url
from moe_operator.api.cost import Cost
from moe_operator.api.kube_ray import KubeRay
from moe_operator.api.model_source import MOUNTED_SOURCE, SOURCE_CURE, ModelSource, of_pods_only
from moe_operator.api.rebalance import Rebalance
from moe_operator.api.resources import Resources
from moe_operator.api.routing import Routing
from moe_operator.api.rules import (
    QUOTED_SELF,
    Rule,
    exactly_one_of,
    http_url,
    immutable,
    required_with_cure,
    validations,
)
from moe_operator.api.sleep import Sleep

_MODEL_CURE = "write e.g. model: {source: {path: models/tiny}}"
_RUNTIME_CURE = (
    "write e.g. runtime: {rayCluster: {dashboardURL: http://127.0.0.1:8265, serveURL: http://127.0.0.1:8000}}"
)

_ROUTE = "^(/[A-Za-z0-9_][A-Za-z0-9._~-]*)+$"


# The CRD's rules hold for what is applied today; these, which say the same, for what was stored under earlier ones.


def _checked_route(text: str) -> str:
    if text != "/" and not re.fullmatch(_ROUTE, text):
        raise ValueError(f"{text!a} must begin with '/' and not end with one: write e.g. /tiny")
    return text


Route = Annotated[str, AfterValidator(_checked_route)]


class DeletionPolicy(StrEnum):
    """What happens to the applications on an existing Ray cluster when the MoEDeployment is deleted."""

    DELETE = "Delete"
    ORPHAN = "Orphan"


class Model(ApiModel):
    """Which model is served, and how it is called."""

    source: Annotated[
        ModelSource, Field(json_schema_extra=required_with_cure(f"spec.model.source is missing: {SOURCE_CURE}"))
    ]
    """Where the checkpoint is. Exactly one field is set."""
    served_name: str | None = Field(
        default=None, min_length=1, max_length=128, pattern=r"^[A-Za-z0-9]([A-Za-z0-9._:/-]*[A-Za-z0-9])?$"
    )
    """Name of the model in the OpenAI API. Default: `metadata.name`."""
    dtype: Dtype = "auto"
    """Number format the model is served in; auto keeps the checkpoint's own."""


class Copies(ApiModel):
    """How many copies of each expert there are."""

    min: int = Field(default=1, ge=1, le=64)
    """At least this many live copies of every expert, each on a shard of its own. With 2, no single shard's death \
interrupts a request."""


class Experts(ApiModel):
    """The expert shards: processes that hold the experts of all MoE layers between them."""

    shards: int = Field(default=1, ge=0, le=MOST_SHARDS)
    """Number of expert shards; `kubectl scale` sets it. 0 puts the deployment to sleep. Where the copies need \
more, so many run (status.shards)."""
    slots_per_shard: int | None = Field(default=None, ge=1, le=4096)
    """Experts that a shard can hold per layer. Default: what its part of a GPU holds, where resources.gpus is set, \
else what the copies need; as it was when the deployment was created, kept from then on (status.slotsPerShard). More \
shards run than asked for where the copies need their slots."""
    copies: Copies = Copies()
    """How many copies of each expert there are."""
    weights: Weights = "Checkpoint"
    """How shards hold experts. Checkpoint: in model.dtype. FP8: as e4m3 with a scale for each row of a matrix, in \
about half of bf16's memory; answers are no longer exactly the model's, and their system_fingerprint says so. A change \
makes all processes anew, as one of the model does."""
    wire: Wire = "Model"
    """How rows and sums travel between attention and shards. Model: as the model's numbers. FP8: as e4m3 with a scale \
for each row, a little more than half of bf16's bytes; answers are no longer exactly the model's, and their \
system_fingerprint says so. It changes in place, and condition FP8Wire says whether it is so."""
    resources: Resources | None = None
    """What each shard asks of its node. A change makes new processes, one shard after the other."""
    autoscaling: Autoscaling | None = None
    """Within which bounds the operator chooses the number of shards by how busy they are, and writes it to \
experts.shards. Default: it does not; kubectl scale or another autoscaler may."""


def _ordered_bounds(section: str) -> dict[str, Any]:
    """The rule of a section that bounds the number of its replicas."""
    return validations(
        Rule(
            rule="self.minReplicas <= self.maxReplicas",
            message=(
                f"spec.{section}.minReplicas is %s but spec.{section}.maxReplicas is %s: "
                "raise maxReplicas or lower minReplicas"
            ),
            values=("self.minReplicas", "self.maxReplicas"),
            field_path=".minReplicas",
        )
    )


class Api(ApiModel):
    """The api replicas, which answer HTTP, tokenize and write streams; scaled by the requests they have."""

    model_config = ConfigDict(json_schema_extra=_ordered_bounds("api"))

    min_replicas: int = Field(default=2, ge=1, le=MOST_APIS)
    """Fewest api replicas. Where there are two, the others answer while one that has died is replaced."""
    max_replicas: int = Field(default=4, ge=1, le=MOST_APIS)
    """Most api replicas."""
    target_ongoing_requests: int = Field(default=API_REQUESTS, ge=1, le=100000)
    """Requests in flight per replica that autoscaling aims at."""


class Limits(ApiModel):
    """Bounds of one attention replica's batch. They change in place: no process starts anew, and no answer under way is
    lost but one that a smaller cache cannot hold any more."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            Rule(
                rule="!has(self.maxRunning) || self.maxRunning <= self.maxBatchTokens",
                message=(
                    "spec.attention.limits.maxRunning is %s but spec.attention.limits.maxBatchTokens is %s: each "
                    "answer takes a token of every step; raise maxBatchTokens or lower maxRunning"
                ),
                values=("self.maxRunning", "self.maxBatchTokens"),
                field_path=".maxRunning",
            )
        )
    )

    max_batch_tokens: int = Field(default=BATCH_TOKENS, ge=1, le=65536)
    """Most tokens that a step computes, those of prompts included: longer prompts are computed in several steps."""
    max_running: int | None = Field(default=None, ge=1, le=65536)
    """Most answers that are computed together; others wait (spec.serving.queue). Default: 12 on a CPU, 64 on a GPU."""
    kv_cache_tokens: int = Field(default=CACHE_TOKENS, ge=2, le=16777216)
    """Tokens of all answers under way whose keys and values are held, prompts included. A request that asks for more \
is refused, so this bounds the context offered as well; what runs ends as it would have where this is lowered, and of \
what waits, an answer that can never fit any more ends with an error. A GPU's memory for all of them is taken at once, \
a CPU's as it is needed; a larger number than there is memory for beside the former one is not taken while a replica \
runs, and told by condition Degraded."""


class Attention(ApiModel):
    """The attention replicas, which run all of the model but its experts; scaled by the requests they have."""

    model_config = ConfigDict(json_schema_extra=_ordered_bounds("attention"))

    min_replicas: int = Field(default=1, ge=1, le=1000)
    """Fewest attention replicas."""
    max_replicas: int = Field(default=1, ge=1, le=1000)
    """Most attention replicas."""
    target_ongoing_requests: int = Field(default=ATTENTION_REQUESTS, ge=1, le=100000)
    """Requests in flight per replica that autoscaling aims at."""
    resources: Resources | None = None
    """What each replica asks of its node. A change makes new processes, as Serve replaces them: of a single one, \
requests wait until the next one has loaded the model."""
    limits: Limits = Limits()
    """Bounds of one replica's batch. They change in place."""


Origin = Annotated[
    str,
    Field(
        max_length=255,
        json_schema_extra=validations(
            Rule(
                rule=f"self.matches(r'{ORIGIN}') && !self.matches('^(http://.*:80|https://.*:443)$')",
                message=(
                    "spec.serving.allowedOrigins has %s: write scheme, host in lower case and a port unless it is "
                    "the scheme's own, as browsers send it, without a path or *; e.g. https://chat.example.com"
                ),
                values=(QUOTED_SELF,),
            )
        ),
    ),
]


class Queue(ApiModel):
    """What waits in each attention replica for its first place in the batch. More is answered with 429 and a \
Retry-After. A quarter of both bounds is kept for API keys that have nothing waiting."""

    max_requests: int = Field(default=QUEUE_REQUESTS, ge=1, le=100000)
    """Most requests that wait."""
    max_tokens: int = Field(default=QUEUE_TOKENS, ge=2, le=2147483647)
    """Most tokens that they ask for together, prompts and answers. One request may ask for no more either."""


class Serving(ApiModel):
    """The OpenAI-compatible API."""

    api_keys_secret_ref: SecretRef | None = None
    """Secret, labelled `moe-operator.io/use: api-keys`, each of whose values is an API key of at least 32 characters. \
Default: no key is asked for."""
    route_prefix: Annotated[
        Route | None,
        Field(
            max_length=256,
            json_schema_extra=validations(
                Rule(
                    rule=f"self == '/' || self.matches('{_ROUTE}')",
                    message=(
                        "spec.serving.routePrefix is %s: it must begin with '/', not end with one, and consist of "
                        "segments of letters, digits and . _ ~ - that begin with a letter, digit or _; try e.g. /tiny"
                    ),
                    values=(QUOTED_SELF,),
                )
            ),
        ),
    ] = None
    """Path below which the API answers on the Ray cluster's Serve address. Default: `/<namespace>/<name>`."""
    max_context: int | None = Field(default=None, ge=2, le=16777216)
    """Longest prompt and completion together, in tokens. Default: what the model was made for."""
    generation_defaults: GenerationSource = "Model"
    """Model: temperature, top_p, top_k, min_p and repetition_penalty of the model's generation_config.json hold for \
requests that do not name them. None: that file says nothing of sampling."""
    allowed_origins: list[Origin] = Field(default_factory=list, max_length=64)
    """Origins of web pages whose browsers may ask the API (CORS), such as https://chat.example.com. Default: none. \
Pages send a key as everybody else; cookies are never read."""
    queue: Queue = Queue()
    """What waits in each attention replica for its first place in the batch. More is answered with 429 and a \
Retry-After. A quarter of both bounds is kept for API keys that have nothing waiting."""


class RayCluster(ApiModel):
    """An existing Ray cluster, driven through Ray's own Serve REST API."""

    dashboard_url: Url = Field(
        max_length=2048,
        json_schema_extra=required_with_cure(
            "spec.runtime.rayCluster.dashboardURL is missing: write e.g. dashboardURL: http://127.0.0.1:8265"
        )
        | validations(
            *http_url("spec.runtime.rayCluster.dashboardURL", "http://127.0.0.1:8265"),
            immutable("spec.runtime.rayCluster.dashboardURL", "create another MoEDeployment for another Ray cluster"),
        ),
    )
    """Address of the Ray dashboard, such as http://127.0.0.1:8265. Immutable."""
    serve_url: Url = Field(
        max_length=2048,
        json_schema_extra=required_with_cure(
            "spec.runtime.rayCluster.serveURL is missing: write e.g. serveURL: http://127.0.0.1:8000"
        )
        | validations(*http_url("spec.runtime.rayCluster.serveURL", "http://127.0.0.1:8000")),
    )
    """Address of Ray Serve's HTTP proxy, such as http://127.0.0.1:8000, as the operator reaches it."""
    token_secret_ref: SecretRef | None = None
    """Secret, labelled `moe-operator.io/use: ray-token` and annotated `moe-operator.io/allowed-addresses` with the \
address in dashboardURL, whose key `token` holds Ray's authentication token. Default: no token is sent."""


_KINDS = ("rayCluster", "kubeRay")


class Runtime(ApiModel):
    """Where the model runs. Exactly one field is set, and which one is immutable."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            exactly_one_of("spec.runtime", _KINDS, _RUNTIME_CURE),
            Rule(
                rule=" && ".join(f"has(self.{kind}) == has(oldSelf.{kind})" for kind in _KINDS),
                message=(
                    "spec.runtime cannot change from one kind to another: create another MoEDeployment, and delete "
                    "this one once that one serves"
                ),
                reason="FieldValueForbidden",
            ),
        )
    )

    ray_cluster: RayCluster | None = None
    """An existing Ray cluster."""
    kube_ray: KubeRay | None = None
    """A Ray cluster of its own, which KubeRay runs. Whoever may write this may run pods in the namespace."""

    @property
    def is_named(self) -> bool:
        """Whether it says where: an object that was stored before its CRD asked for that may not."""
        return self.ray_cluster is not None or self.kube_ray is not None


class MoEDeploymentSpec(ApiModel):
    """A Mixture-of-Experts model to be served, its experts spread over shards."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            Rule(
                rule="!has(self.runtime) || !has(self.runtime.kubeRay) || self.deletionPolicy == 'Delete'",
                message=(
                    "spec.deletionPolicy is %s: what KubeRay runs for this object goes with it; leave it at Delete, "
                    "or use runtime.rayCluster"
                ),
                values=("self.deletionPolicy",),
                field_path=".deletionPolicy",
            ),
            *of_pods_only(),
            MOUNTED_SOURCE,
        )
    )

    model: Annotated[Model, Field(json_schema_extra=required_with_cure(f"spec.model is missing: {_MODEL_CURE}"))]
    """Which model is served, and how it is called."""
    experts: Experts = Experts()
    """The expert shards: processes that hold the experts of all MoE layers between them."""
    attention: Attention = Attention()
    """The attention replicas, which run all of the model but its experts; scaled by the requests they have."""
    api: Api = Api()
    """The api replicas, which answer HTTP, tokenize and write streams; scaled by the requests they have."""
    serving: Serving = Serving()
    """The OpenAI-compatible API."""
    runtime: Annotated[
        Runtime, Field(json_schema_extra=required_with_cure(f"spec.runtime is missing: {_RUNTIME_CURE}"))
    ]
    """Where the model runs. Exactly one field is set."""
    rebalance: Rebalance = Rebalance()
    """Whether, when and within which limits experts are moved to where the traffic wants them; each placement is an \
ExpertPlacement."""
    routing: Routing = Routing()
    """Whether all experts that gates choose are computed."""
    cost: Cost | None = None
    """What an accelerator costs, by which status.cost tells what tokens do. Default: nothing is reckoned."""
    sleep: Sleep | None = None
    """When experts.shards is set to 0 by itself; the first request wakes it where the chart's activator is installed. \
With runtime.kubeRay; elsewhere condition SleepsWhenIdle says that it does not happen. Default: never."""
    suspend: bool = False
    """While true the operator writes nothing for this object; what is being served goes on being served."""
    deletion_policy: DeletionPolicy = DeletionPolicy.DELETE
    """What happens to the applications on an existing Ray cluster when this object is deleted."""
