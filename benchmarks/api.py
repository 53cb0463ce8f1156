"""Print what a token costs the api's process: its processor time, with a stand-in for the engine behind it.

python -m benchmarks.api                              half a minute
python -m benchmarks.api --profile api.prof           also a profile of the api's event loop (python -m pstats)

32 greedy streams at once, a token of each in every step, as an attention replica sends them: a frame a step on the
socket between the two. The stand-in makes tokens at the pace that is asked for, so that a slow api falls behind; its
tokens then leave several at once. Times are by the clocks of processes, which other work on the machine changes little;
that of the client, which reads and checks every event, stands apart. A request's own cost, from its head to its end, is
in that of its tokens.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.api_cost import alone
from benchmarks.api_cost.measure import PROMPT, Load, Row, median, run
from benchmarks.api_cost.stand_in import CONTEXT, VOCABULARY, text_ids
from benchmarks.arguments import positive
from benchmarks.contest.rounds import orders
from moe_placement.cli.outputs import check_outputs
from moe_placement.errors import PlacementError

AIM_MS = 0.5
"""For a token, in the api's process at 32 streams."""
AIM_TOKENS = 1500
"""A second, through one api process."""
WARM_UP_TOKENS = 8


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        check_outputs({"--json": options.json, "--profile": options.profile}, {})
        if PROMPT + options.tokens > CONTEXT:
            raise ValueError(f"--tokens {options.tokens}: at most {CONTEXT - PROMPT} fit behind the prompt")
        if max(options.steps) >= VOCABULARY:
            raise ValueError(f"--steps {max(options.steps)}: at most {VOCABULARY - 1} a second")
    except (ValueError, PlacementError, OSError) as error:
        parser.error(str(error))
    rows = measure(options)
    print(table(rows))
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=positive, default=32, metavar="N", help="default 32")
    parser.add_argument("--tokens", type=positive, default=128, metavar="N", help="of each answer (default 128)")
    parser.add_argument(
        "--steps",
        type=positive,
        nargs="+",
        default=[25, 100],
        metavar="N",
        help="a second, of each run (default 25 100)",
    )
    parser.add_argument("--rounds", type=positive, default=5, metavar="N", help="of all loads in turn (default 5)")
    parser.add_argument("--profile", type=Path, metavar="FILE", help="of the api, which then costs more")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows to this file")
    return parser


def measure(options: argparse.Namespace) -> list[Row]:
    """Medians: a row for each pace."""
    ids = text_ids()
    loads = {str(steps): Load(options.streams, options.tokens, steps) for steps in options.steps}
    rows: dict[str, list[Row]] = {name: [] for name in loads}
    with alone.opened(str(options.profile) if options.profile else None) as place:
        for load in loads.values():
            run(place, Load(load.streams, WARM_UP_TOKENS, load.steps_per_second), ids)
        for order in orders(tuple(loads), options.rounds):
            for name in order:
                rows[name].append(run(place, loads[name], ids))
    return [median(each) for each in rows.values()]


def table(rows: Sequence[Row]) -> str:
    """A line per pace; times are of a token, in milliseconds."""
    lines = [f"{'offered/s':>10}{'tokens/s':>10}{'at once':>9}{'api ms':>9}{'client ms':>11}   aims:"]
    lines[0] += f" {AIM_TOKENS:,} tokens/s, {AIM_MS} ms for the api"
    for row in rows:
        lines.append(
            f"{row.offered:>10,}{row.tokens_per_second:>10,.0f}{row.tokens_per_event:>9.2f}"
            f"{row.api_ms:>9.3f}{row.client_ms:>11.3f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
