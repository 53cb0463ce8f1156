"""Numbers of layers or shards as users write and read them: ``0-2, 5``."""

from __future__ import annotations

from collections.abc import Iterable

from moe_placement.checks import whole
from moe_placement.errors import PlacementError


def as_ranges(numbers: Iterable[int], between: str = ", ") -> str:
    """``0-2, 5`` for 0, 1, 2 and 5, in ascending order; an empty text for none."""
    spans: list[list[int]] = []
    for number in sorted(set(numbers)):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return between.join(str(first) if first == last else f"{first}-{last}" for first, last in spans)


def from_ranges(error: type[PlacementError], name: str, text: str, most: int) -> tuple[int, ...]:
    """The numbers of a text such as ``0-2,5``, as written, none twice and none above ``most``.

    Raises:
        PlacementError: of the type ``error``, naming the part that cannot be.
    """
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = (word.strip() for word in part.partition("-"))
        ends = (first, last) if dash else (first,)
        if not all(end.isascii() and end.isdigit() and len(end) < 10 for end in ends):
            raise error(f"{name} is {text[:80]!r}: {part.strip()[:40]!r} is neither a number nor a range such as 3-60")
        begin, end = whole(error, name, int(ends[0]), most=most), whole(error, name, int(ends[-1]), most=most)
        if begin > end:
            raise error(f"{name} is {text[:80]!r}: {part.strip()!r} begins above its end")
        numbers += range(begin, end + 1)
        if len(numbers) > most + 1:
            break
    if len(set(numbers)) != len(numbers):
        raise error(f"{name} is {text[:80]!r}: it names a number twice")
    return tuple(numbers)
