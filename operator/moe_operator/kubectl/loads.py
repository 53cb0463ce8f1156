"""Where shards and experts are busy, as ``status.load`` and the deployment itself (``asking``) tell it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from moe_operator.kubectl.view import moment, shown

_PARTS = 10_000
"""Shares are told in so many parts."""
_EXPERT = re.compile(r"(\d{1,4})/(\d{1,5}) (\d{1,5})")
_MOST_SHARDS, _MOST_BANDS, _MOST_BUSY = 1024, 16, 10


class Busy(NamedTuple):
    """An expert that gets much of its layer's traffic; ``share``: 0 to 1."""

    layer: int
    expert: int
    share: float


class Band(NamedTuple):
    """The busiest experts of some neighbouring layers."""

    layers: str
    experts: tuple[Busy, ...]


@dataclass(frozen=True, slots=True)
class Load:
    """Attributes:
    time: of the counts; None for now.
    shares: of each shard, 0 to 1.
    """

    time: datetime | None
    shares: tuple[float, ...]
    bands: tuple[Band, ...]

    @property
    def busiest(self) -> set[tuple[int, int]]:
        """(layer, expert) of all that are named."""
        return {(each.layer, each.expert) for band in self.bands for each in band.experts}


def read_load(raw: Any) -> Load | None:
    """As the status and the deployment have it; None where that is no load. What makes no sense in it is left out."""
    if not isinstance(raw, Mapping) or not isinstance(raw.get("shards"), str) or not raw["shards"]:
        return None
    numbers = raw["shards"].split(" ", _MOST_SHARDS)[:_MOST_SHARDS]
    shares = tuple(int(each) / _PARTS for each in numbers if each.isascii() and each.isdecimal() and len(each) <= 5)
    time = raw.get("time")
    return Load(moment(time) if isinstance(time, str) else None, shares, tuple(_bands(raw.get("bands"))))


def _bands(raw: Any) -> Iterator[Band]:
    for each in raw[:_MOST_BANDS] if isinstance(raw, list) else ():
        if isinstance(each, Mapping) and isinstance(each.get("experts"), list):
            found = (_EXPERT.fullmatch(text) for text in each["experts"][:_MOST_BUSY] if isinstance(text, str))
            busy = tuple(Busy(int(at[1]), int(at[2]), int(at[3]) / _PARTS) for at in found if at)
            yield Band(shown(str(each.get("layers", "")))[:16], busy)
