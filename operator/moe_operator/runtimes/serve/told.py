"""What an application was told last, of its configuration as Serve has it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from moe_contract.applications import (
    API,
    ATTENTION,
    CORE_IMPORT_PATH,
    DIRECTORY,
    EXPERTS,
    USER_CONFIGS,
    DirectoryConfig,
    ModelArgs,
)
from moe_contract.base import contract_of
from moe_contract.serve.merge import Config
from moe_operator.runtimes.port import Told

_NOT_ASKED = frozenset({"num_cpus", "resources"})
"""Of the options of an actor, what a runtime adds of its own: custom resources say which pods are for it."""


def read_told(config: Config) -> Told:
    """Somebody else may have edited it, so that any part may be anything."""
    told_all, options = (_by_name(config.get("deployments"), each) for each in ("user_config", "ray_actor_options"))
    deployments = {name: told for name, told in told_all.items() if name in USER_CONFIGS}
    served_name = deployments.get(API, {}).get("served_name")
    slots = deployments.get(EXPERTS, {}).get("slots_per_shard")
    return Told(
        model=_model(_mapping(config.get("args")).get("model")),
        served_name=str(served_name) if served_name else None,
        directory=_directory(deployments.get(DIRECTORY)) if _is_core(config) else DirectoryConfig(),
        slots_per_shard=slots if isinstance(slots, int) and slots > 0 else 0,
        actor_options=_actor_options(options.get(ATTENTION if _is_core(config) else EXPERTS, {})),
        contract=max((contract_of(USER_CONFIGS[name], told) for name, told in deployments.items()), default=0),
    )


def _model(args: Any) -> ModelArgs | None:
    try:
        return ModelArgs.model_validate(args)
    except ValidationError:
        return None


def _is_core(config: Config) -> bool:
    return config.get("import_path") == CORE_IMPORT_PATH


def _directory(user_config: Mapping[str, Any] | None) -> DirectoryConfig | None:
    """Fields that this release does not know are left out: another one may have written them."""
    if not user_config:
        return None
    try:
        return DirectoryConfig.model_validate(user_config)
    except ValidationError:
        return None


def _actor_options(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in _NOT_ASKED}


def _by_name(deployments: Any, field: str) -> dict[str, Mapping[str, Any]]:
    """A field of each deployment; of several of one name that of the first."""
    found: dict[str, Mapping[str, Any]] = {}
    for entry in deployments if isinstance(deployments, Sequence) else ():
        if isinstance(entry, Mapping) and isinstance(entry.get("name"), str):
            found.setdefault(entry["name"], _mapping(entry.get(field)))
    return found


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
