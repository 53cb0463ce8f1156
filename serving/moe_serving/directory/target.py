"""What the operator wants of the data plane: the accepted ``DirectoryConfig``, checked and unpacked."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pydantic import ValidationError

from moe_contract.applications import DirectoryConfig, ModelArgs, ShardRef
from moe_contract.base import in_words
from moe_contract.model import ModelFacts
from moe_placement import InvalidPlacementError, Placement
from moe_placement.encoding import decode_placement
from moe_serving.directory.errors import ConfigRefusedError


@dataclass(frozen=True, slots=True)
class Target:
    """An accepted configuration.

    Attributes:
        term, revision, min_copies: see ``DirectoryConfig``.
        shards: ascending by index, which is the position.
        placement: None before the operator knows the model.
        candidate: a model to be looked at beside the one that runs.
        model_digest: of the model that the placement is of; empty where that was not told.
        caches_go: see ``DirectoryConfig``.
    """

    term: int = 0
    revision: int = 0
    min_copies: int = 1
    shards: tuple[ShardRef, ...] = ()
    placement: Placement | None = None
    candidate: ModelArgs | None = None
    model_digest: str = ""
    caches_go: bool = False

    def without_placement(self) -> Target:
        """What is left of a target whose placement turned out to be for another model."""
        return replace(self, placement=None)

    def check_shape(self, facts: ModelFacts) -> None:
        """
        Raises:
            ConfigRefusedError: the placement is for a model of other layers or experts.
        """
        placement = self.placement
        if placement is not None and (placement.layers, placement.experts) != (facts.layers, facts.experts):
            raise ConfigRefusedError(
                f"placement: revision {self.revision} is for {placement.layers} layers of {placement.experts} experts, "
                f"the model has {facts.layers} of {facts.experts}; compute it anew from the model reported"
            )

    def check_digest(self, facts: ModelFacts) -> None:
        """
        Raises:
            ConfigRefusedError: the placement is for another model, perhaps of the same shape.
        """
        if self.placement is not None and self.model_digest not in ("", facts.digest):
            raise ConfigRefusedError(
                f"model_digest: revision {self.revision} is for the experts of {self.model_digest}, the model is "
                f"{facts.digest}; compute the placement anew from the model reported"
            )


def read_target(config: object, current: Target) -> Target:
    """The target that ``config`` (a ``DirectoryConfig`` as JSON data) asks for.

    Raises:
        ConfigRefusedError: malformed, older than ``current``, or contradictory in itself.
    """
    try:
        wanted = DirectoryConfig.model_validate(config)
    except ValidationError as error:
        raise ConfigRefusedError(f"malformed user_config: {in_words(error)}") from None
    if wanted.term < current.term:
        raise ConfigRefusedError(
            f"term: {wanted.term} is older than {current.term}, the term of the leader obeyed so far; take a higher one"
        )
    if wanted.term == current.term and wanted.revision < current.revision:
        raise ConfigRefusedError(
            f"revision: {wanted.revision} is older than {current.revision}, told before in term {wanted.term}; take a "
            "higher one, or a higher term"
        )
    shards = tuple(sorted(wanted.shards, key=lambda shard: shard.index))
    if [shard.index for shard in shards] != list(range(len(shards))):
        raise ConfigRefusedError(f"shards: indices {[s.index for s in shards]} are not 0 .. {len(shards) - 1}")
    placement = _read_placement(wanted)
    return Target(
        wanted.term, wanted.revision, wanted.min_copies, shards, placement, wanted.candidate, wanted.model_digest,
        wanted.caches_go,
    )  # fmt: skip


def _read_placement(wanted: DirectoryConfig) -> Placement | None:
    if wanted.placement is None:
        return None
    try:
        placement = decode_placement(wanted.placement)
    except InvalidPlacementError as error:
        raise ConfigRefusedError(f"placement: {error}") from None
    if placement.shards != len(wanted.shards):
        raise ConfigRefusedError(
            f"placement: revision {wanted.revision} is for {placement.shards} shards, {len(wanted.shards)} are listed; "
            "a shard that must end empty stays listed with 0 slots"
        )
    return placement
