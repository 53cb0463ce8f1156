"""From what one deployment wants to entries of Serve's ``applications`` list. Pure.

Rendered by the operator (into a PUT of Serve's REST API) and by ``moe-serve``: the same wish is the same configuration.
Arguments are told whole, whatever contract: what an older process does not know it leaves out and logs, while a field
that came only after the directory's first word would restart all that had just started.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from moe_contract.applications import (
    API,
    ATTENTION,
    CORE_IMPORT_PATH,
    DIRECTORY,
    EXPERTS,
    SHARD_IMPORT_PATH,
    ApiConfig,
    AttentionConfig,
    CoreArgs,
    DirectoryConfig,
    ModelArgs,
    ReplicaScale,
    ShardArgs,
    ShardConfig,
    shard_application_name,
)
from moe_contract.base import CONTRACT


@dataclass(frozen=True, slots=True)
class Desired:
    """All that one deployment wants of Serve.

    Attributes:
        core: name of the core application.
        route_prefix: where the API is found below Serve's address.
        directory: the placement wanted, and the shards: each becomes an application.
        slots: per layer, of shards that have more than ``directory.slots_per_shard`` for now, by index.
        max_bytes_per_second: see ``ShardConfig``.
        actor_options: by deployment (``attention``, ``experts``, …), what its processes ask Ray for beside
            ``num_cpus: 0``, such as ``num_gpus``.
        shard_options: of shards, by index, that go on with others for now: another one is another process.
        contract: of the processes that run: fields that came later are not told to them.
    """

    core: str
    route_prefix: str
    model: ModelArgs
    api: ApiConfig
    attention: AttentionConfig
    directory: DirectoryConfig
    api_scale: ReplicaScale
    attention_scale: ReplicaScale
    slots: Mapping[int, int] = field(default_factory=dict)
    max_bytes_per_second: int = 0
    actor_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    shard_options: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    contract: int = CONTRACT


def render(desired: Desired) -> tuple[dict[str, Any], ...]:
    """The core application, then those of the shards in the order of ``directory.shards``."""
    return _core(desired), *(_shard(desired, ref.index) for ref in desired.directory.shards)


def _core(desired: Desired) -> dict[str, Any]:
    attention = desired.attention
    bounds = {
        "kv_cache_tokens": attention.kv_cache_tokens,
        "queue_tokens": attention.queue_tokens,
        "pairs_saved": attention.routing.pairs_saved if attention.routing else 0.0,
        "wire": attention.wire,
    }
    deployments: list[dict[str, Any]] = [
        {
            "name": API,
            "user_config": desired.api.model_copy(update=bounds).told(desired.contract),
            "autoscaling_config": desired.api_scale.model_dump(mode="json"),
            **_actor_options(desired.actor_options.get(API)),
        },
        {
            "name": ATTENTION,
            "user_config": attention.told(desired.contract),
            "autoscaling_config": desired.attention_scale.model_dump(mode="json"),
            **_actor_options(desired.actor_options.get(ATTENTION)),
        },
        {
            "name": DIRECTORY,
            "user_config": desired.directory.told(desired.contract),
            **_actor_options(desired.actor_options.get(DIRECTORY)),
        },
    ]
    return {
        "name": desired.core,
        "route_prefix": desired.route_prefix,
        "import_path": CORE_IMPORT_PATH,
        "args": CoreArgs(application=desired.core, model=desired.model).told(),
        "deployments": deployments,
    }


def _shard(desired: Desired, index: int) -> dict[str, Any]:
    """It has no route. Its name follows from the core's: a directory's configuration may have been edited by others."""
    directory = desired.directory
    name = shard_application_name(desired.core, index)
    args = ShardArgs(application=name, core=desired.core, index=index, model=desired.model)
    slots = desired.slots.get(index, directory.slots_per_shard)
    config = ShardConfig(
        slots_per_shard=slots, spare_slots=directory.spare_slots, max_bytes_per_second=desired.max_bytes_per_second
    )
    options = desired.shard_options.get(index, desired.actor_options.get(EXPERTS))
    return {
        "name": name,
        "route_prefix": None,
        "import_path": SHARD_IMPORT_PATH,
        "args": args.told(),
        "deployments": [{"name": EXPERTS, "user_config": config.told(desired.contract), **_actor_options(options)}],
    }


def _actor_options(options: Mapping[str, Any] | None) -> dict[str, Any]:
    # Options in a config replace all those in code, and Ray takes 1 CPU per actor that says nothing.
    return {"ray_actor_options": {"num_cpus": 0, **options}} if options else {}
