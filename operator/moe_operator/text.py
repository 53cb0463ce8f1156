"""What others say, on one line: what Ray, a directory, the API server or a tenant writes is quoted in logs, conditions
and Events, and must not make lines, colours or an order of reading of its own there. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

_RANGES = (
    (0x00, 0x1F),  # NUL, line ends, escape sequences
    (0x7F, 0x9F),  # DEL, C1
    (0xAD, 0xAD),  # soft hyphen
    (0x61C, 0x61C),  # direction mark
    (0x180E, 0x180E),
    (0x200B, 0x200B),  # without width; joiners, as of Persian and of emoji, stay
    (0x200E, 0x200F),  # direction marks
    (0x2028, 0x202E),  # line ends, directions
    (0x2060, 0x206F),  # without width, directions
    (0xFEFF, 0xFEFF),
    (0xE0000, 0xE007F),  # tags
)
INVISIBLE_RE2 = "[" + "".join(rf"\x{{{first:x}}}-\x{{{last:x}}}" for first, last in _RANGES) + "]"
"""Control and format characters, for CEL."""
INVISIBLE = re.compile("[" + "".join(f"{chr(first)}-{chr(last)}" for first, last in _RANGES) + "\ud800-\udfff]")
"""The same for Python, and halves of characters, which no UTF-8 has."""


def on_one_line(text: str) -> str:
    """``text`` with each such character as Python would write it: ``\\n``, ``\\x1b``, ``\\u202e``."""
    return INVISIBLE.sub(lambda found: ascii(found[0])[1:-1], text)


def some(names: Sequence[str], most: int) -> str:
    """The first ``most`` of ``names``, and how many more there are."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


_VARYING = re.compile(r"0x[0-9a-f]+|pid=\d+|\b[0-9a-f]{16,}\b")


def steadied(text: str) -> str:
    """``text`` without what is another at each attempt, addresses in memory and ids: a status that repeats itself is
    not written again."""
    return _VARYING.sub("…", text)
