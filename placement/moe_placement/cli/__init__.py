"""``moe-placement``: plan, simulate and compare on files, and draw pictures. The only part of the package with I/O.

Files: traces and placements. A trace is what ``traces.trace`` describes; a placement is one line of text as
``encoding`` writes it; ``convert`` makes both of other engines' files. Flags are in ``options`` and ``layers``, the
commands in ``commands`` and ``convert``, how files are read and written in ``inputs`` and ``outputs``.
"""

from __future__ import annotations

from collections.abc import Sequence

from moe_placement.cli.commands import COMMANDS
from moe_placement.cli.messages import say
from moe_placement.cli.options import parser
from moe_placement.errors import PlacementError


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0; 1 with one line on stderr that says what is wrong; 2 where argparse cannot read the arguments."""
    options = parser().parse_args(arguments)
    try:
        COMMANDS[options.command](options)
    except (PlacementError, OSError, MemoryError) as error:
        say(str(error))
        return 1
    return 0
