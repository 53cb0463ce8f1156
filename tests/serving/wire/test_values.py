"""Values of another release: fields were added, on this side or on the other."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from dataclasses import field, fields, make_dataclass
from types import ModuleType
from typing import Any

import pytest

from moe_serving.experts.description import ShardDescription
from moe_serving.wire.values import unpacked

MODULE = "moe_serving.of_two_releases"
OLD = [("name", str), ("size", int)]
NEW = [*OLD, ("colour", str, "red"), ("parts", list[int], field(default_factory=list))]


@pytest.fixture
def thing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Has a class ``Thing`` of these fields be the one that is known."""
    module = ModuleType(MODULE)
    monkeypatch.setitem(sys.modules, MODULE, module)

    def known(fields: Any, **options: Any) -> Any:
        made = make_dataclass("Thing", fields, **options)
        made.__module__ = MODULE  # since Python 3.12 make_dataclass overwrites what a namespace says of it
        module.Thing = made  # type: ignore[attr-defined]  # a module of the test's
        return made

    return known


KINDS = [{"frozen": True, "slots": True}, {"slots": True}, {"frozen": True}, {}]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_what_an_older_release_does_not_tell_is_as_before(thing, kind: dict[str, bool]) -> None:
    told = pickle.dumps([thing(OLD, **kind)("a", 3)])
    new = thing(NEW, **kind)
    (found,) = unpacked(told)
    assert found == new("a", 3, "red", [])
    assert unpacked(told)[0].parts is not found.parts


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_what_only_a_newer_release_tells_is_left_out(thing, kind: dict[str, bool]) -> None:
    told = pickle.dumps(thing(NEW, **kind)("a", 3, "blue", [1]))
    old = thing(OLD, **kind)
    assert unpacked(told) == old("a", 3)
    told = pickle.dumps(thing(NEW, **kind)("a", 3, "blue", [1]))
    thing(NEW, **kind)
    assert unpacked(told).colour == "blue"


def test_fields_of_a_shard_are_only_added_at_the_end() -> None:
    """As the releases so far told them."""
    names = [field.name for field in fields(ShardDescription)]
    assert names[:14] == [
        *("index", "node", "incarnation", "pid", "address", "digest", "near_checkpoint", "capacity", "held", "loading"),
        *("problem", "counts", "device", "memory"),
    ]
    assert names[14:] == ["version", "fetched", "weights"]


def test_what_must_be_told_and_is_not_is_an_error(thing) -> None:
    told = pickle.dumps(thing(OLD[:1], slots=True, frozen=True)("a"))
    thing(OLD, slots=True, frozen=True)
    with pytest.raises(pickle.UnpicklingError, match=r"Thing.size is not told"):
        unpacked(told)


def test_classes_of_others_are_read_as_they_are() -> None:
    assert unpacked(pickle.dumps({"a": (1, range(3), complex(1, 2))})) == {"a": (1, range(3), complex(1, 2))}
