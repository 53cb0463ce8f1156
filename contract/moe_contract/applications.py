"""The Serve applications of one deployment: their names, their arguments and their ``user_config``.

Arguments hold only what needs a new process: a changed argument of an application restarts every actor in it. All else
travels in ``user_config``, which restarts nothing. ``rendering`` makes entries of Serve's configuration of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal, Self

from pydantic import Field

from moe_contract.base import MOST_COUNTED, Name, Since, WireModel
from moe_contract.sizes import MOST_SHARDS
from moe_placement.checks import INT32

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Device = Literal["auto", "cpu", "cuda"]
Network = Literal["auto", "unix", "tcp"]
"""How shards are reached; ``auto`` takes a unix socket to a peer on the same node and TCP to any other."""

GenerationSource = Literal["Model", "None"]
"""Where defaults of sampling come from: the model's ``generation_config.json``, or nowhere."""
Weights = Literal["Checkpoint", "FP8"]
"""How shards hold experts: in the dtype served, or as e4m3 with a scale for each row of a matrix."""
Wire = Literal["Model", "FP8"]
"""How rows and sums travel between attention and shards: as the model's numbers, or as e4m3 with a scale a row."""
QUEUE_REQUESTS, QUEUE_TOKENS = 12, 262144
"""Defaults of what waits in an attention replica: as many requests as run on a CPU, so that they wait about as long as
an answer takes; and four times the tokens that its cache holds."""
BATCH_TOKENS, CACHE_TOKENS = 512, 65536
"""Defaults of an attention replica: tokens computed in one step, and those whose keys and values are held."""
MOST_PAIRS_SAVED = 50.0
"""Percent of the pairs that adaptive routing may be asked to save: of top-2 no more can be."""
PAIRS_SAVED, LOSS_INCREASE = 18.0, 0.005
"""Defaults of what adaptive routing is asked for, once it is."""
ORIGIN = r"^https?://([a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(:[1-9][0-9]{0,4})?$"
"""An origin as browsers send it: scheme, host in lower case, a port unless it is the scheme's own; no path."""

API_REQUESTS, ATTENTION_REQUESTS = 64, 8
"""Defaults of requests in flight per replica, by which Serve scales: most of those in an api wait for attention."""

CORE_IMPORT_PATH = "moe_serving.serve.builder:build_core"
SHARD_IMPORT_PATH = "moe_serving.serve.builder:build_shard"
"""Where Serve finds the builders of applications: names, since whoever renders must not import the data plane."""

API, ATTENTION, DIRECTORY, EXPERTS = "api", "attention", "directory", "experts"
"""Names of the deployments inside the applications."""


class ModelArgs(WireModel):
    """What model a process loads, and how.

    Attributes:
        path: the checkpoint's directory as the Ray nodes see it; a relative one is relative to Ray's working directory.
        dtype: ``auto`` keeps the checkpoint's own.
        device: ``auto`` takes CUDA where there is one.
        network: see ``Network``.
        weights: see ``Weights``.
        verify: shards compute row by row and attention checks every layer bit for bit; slow, for tests and doubts.
    """

    path: str
    dtype: Dtype = "auto"
    device: Device = "auto"
    network: Network = "auto"
    verify: bool = False
    weights: Annotated[Weights, Since(2)] = "Checkpoint"


class CoreArgs(WireModel):
    """Arguments of the core application (api, attention, directory)."""

    application: str
    model: ModelArgs


class ShardArgs(WireModel):
    """Arguments of the application of one expert shard."""

    application: str
    core: str
    index: int = Field(ge=0)
    model: ModelArgs


class ShardRef(WireModel):
    """A shard that the directory should know: its index in the placement and its application."""

    index: int = Field(ge=0)
    application: str


class DirectoryConfig(WireModel):
    """``user_config`` of the directory: the placement wanted.

    Attributes:
        term: of the writer's leadership; the directory refuses a lower one than it has seen.
        revision: number of the placement wanted, counted by the operator; 0 before the first. The directory refuses a
            lower one than it has seen in the same term.
        shards: all shards that run, those that must end empty included.
        slots_per_shard: per layer.
        spare_slots: buffers per shard beyond its slots, shared by all layers, that make room for copies on their way.
        min_copies: a copy is freed only while this many live ones remain.
        placement: ``encoding.encode_placement``; None before the model is known. Its shards are ``0 .. n - 1`` in the
            order of ``shards[].index``; a shard that must end empty has 0 slots in it.
        candidate: a model to be looked at beside the one that runs: whether it could be served in its place.
        model_digest: ``ModelFacts.digest`` of the model that the placement is of; empty where that is not told.
        caches_go: whether nodes go before ``candidate`` is loaded, and with them the files that they have fetched.
    """

    term: int = Field(default=0, ge=0, le=2 * MOST_COUNTED)
    revision: int = Field(default=0, ge=0, le=2 * MOST_COUNTED)
    shards: tuple[ShardRef, ...] = Field(default=(), max_length=MOST_SHARDS)
    slots_per_shard: int = Field(default=0, ge=0, le=INT32)
    spare_slots: int = Field(default=2, ge=1)
    min_copies: int = Field(default=1, ge=1)
    placement: str | None = None
    candidate: ModelArgs | None = None
    model_digest: Annotated[Name, Since(1)] = ""
    caches_go: Annotated[bool, Since(2)] = False


class ApiConfig(WireModel):
    """``user_config`` of the api.

    Attributes:
        served_name: the model's name in the API.
        max_context: bound on prompt + completion in tokens; None for the model's own.
        generation_defaults: whether the model's ``generation_config.json`` says how requests are sampled that do not
            say it themselves.
        allowed_origins: of web pages whose browsers may ask; see ``ORIGIN``.
        kv_cache_tokens: of an attention replica, which no request may exceed either; filled in by ``rendering``.
        queue_tokens: of a replica's queue, which no request may exceed; filled in by ``rendering``.
        pairs_saved: see ``RoutingConfig``; 0 where all pairs are computed; filled in by ``rendering``.
        wire: see ``AttentionConfig``; filled in by ``rendering``.
        api_key_sha256: hex digests of the keys that clients may use; empty means no key is asked for.
        internal_key_sha256: hex digest of the key of ``/internal``; None closes that route.
    """

    served_name: str
    max_context: int | None = Field(default=None, ge=2)
    kv_cache_tokens: int | None = Field(default=None, ge=1)
    queue_tokens: int | None = Field(default=None, ge=1)
    generation_defaults: GenerationSource = "Model"
    allowed_origins: tuple[Annotated[str, Field(pattern=ORIGIN)], ...] = ()
    api_key_sha256: tuple[str, ...] = ()
    internal_key_sha256: str | None = None
    pairs_saved: Annotated[float, Field(ge=0, le=MOST_PAIRS_SAVED), Since(2)] = 0.0
    wire: Annotated[Wire, Since(2)] = "Model"


RECORD_ROWS, RECORD_BYTES = 1000, 1 << 30
"""Defaults of what is recorded of live traffic: of 58 layers of top-8 a file of so many rows takes half a megabyte."""


class RecordConfig(WireModel):
    """Files of live traffic: the experts that sampled tokens chose in every layer, in the brain's trace format.

    They can betray what the tokens were: who may read them may be able to guess at text.

    Attributes:
        path: absolute, of a folder as the nodes of attention replicas see it; made where there is none.
        sample_rows: of each replica and minute, chosen at random.
        max_bytes: of all such files in the folder; the oldest leave.
    """

    path: str = Field(min_length=1, max_length=4096, pattern="^/[^\\x00]*$")
    sample_rows: int = Field(default=RECORD_ROWS, ge=1, le=100_000)
    max_bytes: int = Field(default=RECORD_BYTES, ge=1 << 20, le=1 << 50)


class RoutingConfig(WireModel):
    """Adaptive routing: experts of low gate weight are left out where a row's other weights are enough.

    Attributes:
        pairs_saved: percent of the pairs that are not to be computed.
        max_loss_increase: on the calibration's held-out text, in nats per token: what costs more is not done.
        calibration: absolute path of what ``moe-serve calibrate`` wrote, as the nodes of attention replicas see it.
    """

    pairs_saved: float = Field(default=PAIRS_SAVED, gt=0, le=MOST_PAIRS_SAVED, allow_inf_nan=False)
    max_loss_increase: float = Field(default=LOSS_INCREASE, gt=0, le=1, allow_inf_nan=False)
    calibration: str = Field(min_length=1, max_length=4096, pattern="^/[^\\x00]*$")


STATISTICS_SECONDS = 300.0
"""Default of how often statistics of the traffic are looked at."""


class AttentionConfig(WireModel):
    """``user_config`` of the attention replicas: bounds of one replica's batch, and what is kept of its traffic.

    Attributes:
        max_batch_tokens: tokens computed in one step, prompts included (long prompts are prefilled in chunks).
        max_running: sequences decoded together; None for what suits the device, see ``on``.
        kv_cache_tokens: tokens of all sequences whose keys and values are held; later requests wait.
        queue_requests: requests that wait for their first place in the batch; more are turned away.
        queue_tokens: of their prompts and answers together.
        statistics_seconds: between two looks at the statistics of the traffic: the older counts the less, the shorter
            that is.
        record: files of live traffic; None for none.
        routing: None computes all that gates choose.
        wire: see ``Wire``; a shard of a release that does not know FP8 is sent the model's numbers all the same.
    """

    max_batch_tokens: int = Field(default=BATCH_TOKENS, ge=1)
    max_running: int | None = Field(default=None, ge=1)
    kv_cache_tokens: int = Field(default=CACHE_TOKENS, ge=1)
    queue_requests: int = Field(default=QUEUE_REQUESTS, ge=1)
    queue_tokens: int = Field(default=QUEUE_TOKENS, ge=2)
    statistics_seconds: Annotated[float, Field(ge=1, le=30 * 86400), Since(1)] = STATISTICS_SECONDS
    record: RecordConfig | None = None
    routing: Annotated[RoutingConfig | None, Since(2)] = None
    wire: Annotated[Wire, Since(2)] = "Model"

    def on(self, device: str) -> AttentionConfig:
        """The same with a number for ``max_running`` that suits a torch device type.

        A step takes ``a + b n`` for ``n`` sequences. Under a full load it should take at most twice as long as at half
        of it, which holds while ``b n <= 2 a``. With a small model on 2 cores ``a / b`` is 10, and half of the steps
        compute a prompt too; on a GPU ``b`` is next to nothing.
        """
        return self.model_copy(update={"max_running": self.max_running or (12 if device == "cpu" else 64)})

    @property
    def places(self) -> int:
        """Of the batch: not more sequences than tokens in a step, so that each decodes in every step."""
        return min(self.max_running or self.max_batch_tokens, self.max_batch_tokens)


class ShardConfig(WireModel):
    """``user_config`` of a shard: how much it may hold, and how fast that may come.

    Attributes:
        slots_per_shard, spare_slots: see ``DirectoryConfig``.
        max_bytes_per_second: of copies of experts that others answer for meanwhile; 0 for no bound.
    """

    slots_per_shard: int = Field(default=0, ge=0)
    spare_slots: int = Field(default=2, ge=1)
    max_bytes_per_second: int = Field(default=0, ge=0, le=MOST_COUNTED)


USER_CONFIGS: Mapping[str, type[WireModel]] = {
    API: ApiConfig,
    ATTENTION: AttentionConfig,
    DIRECTORY: DirectoryConfig,
    EXPERTS: ShardConfig,
}
"""What each deployment takes as ``user_config``."""


class ReplicaScale(WireModel):
    """How many replicas of a deployment run; Serve scales between the bounds by ongoing requests per replica."""

    min_replicas: int = Field(ge=1)
    max_replicas: int = Field(ge=1)
    target_ongoing_requests: float = Field(gt=0)

    @classmethod
    def fixed(cls, replicas: int, requests: float) -> Self:
        """Always so many."""
        return cls(min_replicas=replicas, max_replicas=replicas, target_ongoing_requests=requests)


def application_name(namespace: str, name: str, uid: str) -> str:
    """Name of the core application: unique on a Ray cluster that many namespaces, or many Kubernetes clusters, use."""
    return f"moe.{namespace}.{name}.{hashlib.sha256(uid.encode()).hexdigest()[:8]}"


def shard_application_name(core: str, index: int) -> str:
    """Name of the application of one shard of a core application."""
    return f"{core}.experts-{index}"


def key_digest(key: str) -> str:
    """In what form a key reaches Serve: hex."""
    return hashlib.sha256(key.encode()).hexdigest()


def key_digests(keys: Iterable[str]) -> tuple[str, ...]:
    """The same of several, each once, in an order that tells nothing of theirs."""
    return tuple(sorted(set(map(key_digest, keys))))
