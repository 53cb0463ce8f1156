"""What the user is told besides the results: one line on stderr each."""

from __future__ import annotations

import sys


def say(text: str) -> None:
    """One line, whatever line breaks the text has."""
    print("moe-placement:", " ".join(text.splitlines()), file=sys.stderr)


def warn(text: str) -> None:
    """The command goes on, with less than could be."""
    say(f"warning: {text}")
