"""The content of an ExpertPlacement, and two of them compared. Pure, and without NumPy: it is about a few ten thousand
numbers, and importing NumPy takes longer than all of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from moe_operator.kubectl.exits import PluginError, RefusedError
from moe_operator.text import on_one_line

_MOST_LAYERS = 1024
_MOST_CHARACTERS = 4 << 20
"""The API server takes no larger object."""


class Copy(NamedTuple):
    """A copy of an expert: which, of which layer, on which shard."""

    layer: int
    expert: int
    shard: int


@dataclass(frozen=True, slots=True)
class Content:
    """Attributes:
    layers: of each layer the experts of each shard, in ascending order.
    """

    digest: str
    experts: int
    shards: int
    slots: int
    layers: tuple[tuple[tuple[int, ...], ...], ...]

    def copies(self, layer: int) -> list[int]:
        """How many shards hold each expert of a layer."""
        counts = [0] * self.experts
        for held in self.layers[layer]:
            for expert in held:
                counts[expert] += 1
        return counts

    def held_by(self, shard: int) -> int:
        """Copies on a shard, over all layers."""
        return sum(len(layer[shard]) for layer in self.layers)

    def all(self) -> Iterator[Copy]:
        """Every copy."""
        for layer, shards in enumerate(self.layers):
            for shard, held in enumerate(shards):
                yield from (Copy(layer, expert, shard) for expert in held)


def read_content(name: str, raw: Any) -> Content:
    """``spec.content`` of the object ``name``.

    Raises:
        PluginError: it describes no placement, which the CRD of this release does not let through.
    """
    try:
        return _read(raw)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        why = on_one_line(str(error))[:200]
        raise PluginError(f"spec.content of {name} cannot be read ({why}): delete it, and write another") from error


def _read(raw: Mapping[str, Any]) -> Content:
    experts, shards, slots = (_count(raw, field) for field in ("experts", "shards", "slotsPerShard"))
    lines = raw["layers"]
    if not isinstance(lines, list) or not 1 <= len(lines) <= _MOST_LAYERS or sum(map(len, lines)) > _MOST_CHARACTERS:
        raise ValueError("layers")
    layers = tuple(_layer(line, shards, slots) for line in lines)
    worst = max((expert for layer in layers for held in layer for expert in held), default=0)
    if worst >= experts:
        raise ValueError(f"an expert {worst} of {experts}")
    return Content(str(raw["modelDigest"]), experts, shards, slots, layers)


def _count(raw: Mapping[str, Any], field: str) -> int:
    value = raw[field]
    if not isinstance(value, int) or not 1 <= value <= 1 << 20:
        raise ValueError(field)
    return value


def _layer(line: str, shards: int, slots: int) -> tuple[tuple[int, ...], ...]:
    words = line.split(" ")
    if len(words) != shards * slots:
        raise ValueError(f"a layer of {len(words)} entries, not {shards} x {slots}")
    taken = [None if word == "-" else _expert(word) for word in words]
    per_shard = (taken[first : first + slots] for first in range(0, len(taken), slots))
    return tuple(tuple(sorted({expert for expert in each if expert is not None})) for each in per_shard)


def _expert(word: str) -> int:
    if not (word.isascii() and word.isdecimal() and len(word) <= 5):
        raise ValueError(f"an entry {word[:16]!r}")
    return int(word)


@dataclass(frozen=True, slots=True)
class Difference:
    """What it takes to come from one content to another of the same model.

    Attributes:
        loaded: copies that are only in the later one.
        freed: copies that are only in the earlier one.
    """

    loaded: tuple[Copy, ...]
    freed: tuple[Copy, ...]


def difference(before: Content, after: Content) -> Difference:
    """
    Raises:
        RefusedError: they are of different models.
    """
    for what, one, other in (
        ("modelDigest", before.digest, after.digest),
        ("experts", before.experts, after.experts),
        ("layers", len(before.layers), len(after.layers)),
    ):
        if one != other:
            shown = on_one_line(f"{str(one)[:80]} and {str(other)[:80]}")
            raise RefusedError(
                f"the two are of different models ({what}: {shown}): their experts have nothing in common"
            )
    held, wanted = set(before.all()), set(after.all())
    return Difference(tuple(sorted(wanted - held)), tuple(sorted(held - wanted)))
