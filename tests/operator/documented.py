"""Shell commands in fenced blocks of documents."""

import re
import shlex
from pathlib import Path

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ASSIGNMENT = re.compile(r"^\w+=")
_COMMENT = re.compile(r"(?:^|\s{2,})#\s.*$")


def commands(document: Path) -> list[str]:
    """One line each, in order, without comments; a line is continued by the next while a quote or a pipe is open, and
    where it only sets variables."""
    found = []
    for language, block in _BLOCK.findall(document.read_text()):
        if language not in ("", "sh", "bash"):
            continue
        open_line = ""
        for line in block.splitlines():
            joint = "; " if open_line and _only_assigns(open_line) else " "
            open_line = f"{open_line}{joint if open_line else ''}{_COMMENT.sub('', line).strip()}"
            if open_line and not _goes_on(open_line):
                found.append(open_line)
                open_line = ""
        if open_line:
            raise ValueError(f"{document}: a command does not end: {open_line}")
    return found


def _only_assigns(line: str) -> bool:
    try:
        words = shlex.split(line)
    except ValueError:
        return False
    return all(_ASSIGNMENT.match(word) for word in words)


def _goes_on(line: str) -> bool:
    if line.endswith(("|", "\\")):
        return True
    try:
        shlex.split(line)
    except ValueError:
        return True
    return _only_assigns(line)
