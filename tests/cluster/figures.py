"""What the tests on nodes measured, each with what it should be."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """``aim``: at most so much; None where nothing is promised."""

    what: str
    value: float
    aim: float | None
    unit: str

    @property
    def is_met(self) -> bool:
        return self.aim is None or self.value <= self.aim


class Figures:
    """Of one session, in the order of the tests."""

    def __init__(self) -> None:
        self._all: list[Figure] = []

    def add(self, what: str, value: float, aim: float | None = None, unit: str = "s") -> None:
        self._all.append(Figure(what, value, aim, unit))

    def lines(self) -> list[str]:
        """The table; a line that begins with ``!`` missed its aim."""
        width = max((len(figure.what) for figure in self._all), default=0)
        return [
            f"{' ' if one.is_met else '!'} {one.what:<{width}}  {one.value:7.1f} {one.unit:<6}"
            f" {'' if one.aim is None else f'aim {one.aim:g}'}".rstrip()
            for one in self._all
        ]
