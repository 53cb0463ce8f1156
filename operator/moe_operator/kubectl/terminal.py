"""How answers look: columns, bars and colours within the width of the terminal. Pure but for ``Terminal.of``."""

from __future__ import annotations

import os
import shutil
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TextIO

_UNKNOWN_WIDTH = 100
_LEAST_WIDTH = 20
_STYLES = {"good": "32", "bad": "31", "bold": "1", "hot": "1;31"}
_BLOCKS = "▏▎▍▌▋▊▉█"
_BAR = 32
_GAP = "  "


@dataclass(frozen=True, slots=True)
class Terminal:
    """Attributes:
    width: columns.
    colour: whether styles may be used.
    """

    width: int = _UNKNOWN_WIDTH
    colour: bool = False

    @classmethod
    def of(cls, stream: TextIO) -> Terminal:
        """The terminal of standard output. Colours are for people: none in a pipe, with NO_COLOR set, or on a dumb
        terminal."""
        people = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        width = shutil.get_terminal_size((_UNKNOWN_WIDTH, 24)).columns
        return cls(max(width, _LEAST_WIDTH), people)

    def paint(self, text: str, style: str) -> str:
        """``text`` in a style, where styles may be used."""
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if self.colour and text else text

    def title(self, text: str) -> list[str]:
        """A text that stands out, in lines of the width."""
        return [self.paint(line, "bold") for line in self.wrapped(text)]

    def table(self, entries: Iterable[Sequence[str]], indent: str = "") -> list[str]:
        """A line for each entry, in columns as wide as they need; a line is cut at the end of the width."""
        cells = [list(entry) for entry in entries]
        if not cells:
            return []
        widths = [max(width(line[column]) for line in cells) for column in range(len(cells[0]))]
        return [cut((indent + _GAP.join(map(_padded, line, widths))).rstrip(), self.width) for line in cells]

    def titled(self, entries: Iterable[tuple[str, str]]) -> list[str]:
        """Texts in lines of the width, each beside its title."""
        told = [(f"  {title}:  ", text) for title, text in entries]
        beside = max((width(title) for title, _ in told), default=0)
        lines = []
        for title, text in told:
            first, *more = self.wrapped(text.strip() or "-", " " * beside)
            lines += [_padded(title, beside) + first[beside:], *more]
        return lines

    def wrapped(self, text: str, indent: str = "") -> list[str]:
        """A text in lines of the width, broken between words, or inside of one that is longer."""
        lines, line = [], indent
        room = max(self.width - len(indent), 1)
        for word in text.split(" "):
            while width(word) > room:
                if line != indent:
                    lines.append(line)
                part = cut(word, room, "")
                lines.append(indent + part)
                word, line = word[len(part) :], indent
            longer = f"{line} {word}" if line != indent else f"{line}{word}"
            if width(longer) > self.width:
                lines.append(line)
                longer = f"{indent}{word}"
            line = longer
        return [*lines, line] if line != indent else lines


def share_cells(part: float, most: float) -> tuple[str, str]:
    """A share (0 to 1) in percent, and its bar, beside which that of ``most`` has all columns."""
    eighths = round(max(0.0, min(part / most, 1.0)) * _BAR * 8)
    full, rest = divmod(eighths, 8)
    return f"{part:.1%}", _BLOCKS[-1] * full + (_BLOCKS[rest - 1] if rest else "")


def width(text: str) -> int:
    """Columns that a text takes: two for wide characters, none for those that join the one before."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def cut(text: str, most: int, end: str = "…") -> str:
    """``text`` in at most so many columns."""
    if width(text) <= most:
        return text
    room, kept = most - width(end), ""
    for character in text:
        room -= _columns(character)
        if room < 0:
            break
        kept += character
    return (kept or text[:1]) + end


def size(count: int) -> str:
    """A number of bytes, for people."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def age(since: datetime | None, now: datetime) -> str:
    """Time from then to now, as kubectl tells it."""
    if since is None:
        return "?"
    seconds = max(0, int((now - since).total_seconds()))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def _padded(cell: str, columns: int) -> str:
    return cell + " " * (columns - width(cell))


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
