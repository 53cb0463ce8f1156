"""What the directory takes for a target and what it refuses, in words that name field, value and cure."""

from __future__ import annotations

from typing import Any

import pytest

from moe_contract.applications import DirectoryConfig, ShardRef
from moe_contract.model import ModelFacts
from moe_placement import balanced_placement
from moe_placement.encoding import encode_placement
from moe_serving.directory.errors import ConfigRefusedError
from moe_serving.directory.target import Target, read_target

PLACEMENT = balanced_placement(2, 4, [2, 2], 1)
FACTS = ModelFacts(
    digest="sha256:d",
    architecture="Mixtral",
    layers=2,
    experts=4,
    top_k=2,
    bytes_per_expert=8,
    dtype="float32",
    max_context=64,
)


def config(**changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "term": 3,
        "revision": 7,
        "shards": (ShardRef(index=0, application="a"), ShardRef(index=1, application="b")),
        "slots_per_shard": 2,
        "placement": encode_placement(PLACEMENT),
    }
    return DirectoryConfig(**{**fields, **changes}).model_dump(mode="json")


def test_a_good_one() -> None:
    target = read_target(config(), Target())
    assert (target.term, target.revision, target.min_copies) == (3, 7, 1)
    assert target.placement == PLACEMENT
    target.check_shape(FACTS)


def test_before_the_model_is_known_there_is_no_placement() -> None:
    assert read_target({}, Target()) == Target()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"term": 2}, "term: 2 is older than 3"),
        ({"revision": 6}, "revision: 6 is older than 7, told before in term 3"),
        ({"shards": [{"index": 1, "application": "b"}]}, r"indices \[1\] are not 0 .. 0"),
        ({"shards": [{"index": 0, "application": "a"}]}, "is for 2 shards, 1 are listed"),
        ({"placement": "p9.abc"}, "placement: unknown placement format 'p9'"),
        ({"placement": "p1.????"}, "placement: damaged placement"),
        ({"min_copies": 0}, "min_copies: Input should be greater than or equal to 1"),
    ],
)
def test_refusals(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigRefusedError, match=message):
        read_target({**config(), **changed}, read_target(config(), Target()))


def test_what_only_a_newer_release_knows_is_left_alone() -> None:
    assert read_target({**config(), "colour": "red"}, Target()) == read_target(config(), Target())


def test_a_config_that_is_no_object_at_all() -> None:
    with pytest.raises(ConfigRefusedError, match="malformed user_config: config:"):
        read_target(["nonsense"], Target())


def test_the_same_term_may_be_written_again() -> None:
    current = read_target(config(), Target())
    assert read_target(config(), current) == current
    assert read_target(config(revision=8), current).revision == 8


def test_a_new_leader_may_take_a_lower_revision() -> None:
    """Where what it knew was restored from a backup, say."""
    assert read_target(config(term=4, revision=1), read_target(config(), Target())).revision == 1


def test_a_placement_for_another_model() -> None:
    target = read_target(config(), Target())
    with pytest.raises(ConfigRefusedError, match="2 layers of 4 experts, the model has 2 of 8"):
        target.check_shape(FACTS.model_copy(update={"experts": 8}))
    assert target.without_placement().placement is None


def test_a_placement_for_another_model_of_the_same_shape() -> None:
    """As a fine-tune under the same path: its experts are others."""
    target = read_target(config(model_digest="sha256:d"), Target())
    target.check_digest(FACTS)
    other = FACTS.model_copy(update={"digest": "sha256:e"})
    with pytest.raises(ConfigRefusedError, match="revision 7 is for the experts of sha256:d, the model is sha256:e"):
        target.check_digest(other)
    target.check_shape(other)
    target.without_placement().check_digest(other)
    # Whoever does not tell it, as an operator of the first release.
    read_target(config(), Target()).check_digest(other)
