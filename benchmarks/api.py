"""Print what a token costs the api's process: its processor time, with a stand-in for the engine behind it.

python -m benchmarks.api                                    the api alone, under uvicorn: half a minute
python -m benchmarks.api --fronts alone proxy direct        and on Serve, by its proxy and by direct ingress: two
python -m benchmarks.api --profile api.prof                 also a profile of the api's event loop (python -m pstats)

32 greedy streams at once, a token of each in every step, as an attention replica sends them: a frame a step on the
socket between the two. The stand-in makes tokens at the pace that is asked for, so that a slow api falls behind; its
tokens then leave several at once. Times are by the clocks of processes, which other work on the machine changes little;
those of Serve's proxy, and of the client, which reads and checks every event, stand apart. A request's own cost, from
its head to its end, is in that of its tokens. All fronts are there at once and take turns; the one api on Serve is
asked by its proxy and past it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

from benchmarks.api_cost import alone
from benchmarks.api_cost.measure import PROMPT, Load, Row, median, run
from benchmarks.api_cost.place import Place
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
ALONE = "alone"
FRONTS = (ALONE, "proxy", "direct")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        check_outputs({"--json": options.json, "--profile": options.profile}, {})
        if PROMPT + options.tokens > CONTEXT:
            raise ValueError(f"--tokens {options.tokens}: at most {CONTEXT - PROMPT} fit behind the prompt")
        if max(options.steps) >= VOCABULARY:
            raise ValueError(f"--steps {max(options.steps)}: at most {VOCABULARY - 1} a second")
        if options.profile and ALONE not in options.fronts:
            raise ValueError(f"--profile: it is of the api {ALONE}; add {ALONE} to --fronts")
        if options.variables and not set(options.fronts) - {ALONE}:
            raise ValueError("--variables: they are of the Ray; add proxy or direct to --fronts")
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
    parser.add_argument("--fronts", choices=FRONTS, nargs="+", default=[ALONE], help="default alone")
    parser.add_argument(
        "--variables",
        type=_variable,
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="for the environment of the Ray",
    )
    parser.add_argument("--profile", type=Path, metavar="FILE", help="of the api alone, which then costs more")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows to this file")
    return parser


def _variable(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not name or not sign:
        raise argparse.ArgumentTypeError(f"{text!r} is no NAME=VALUE")
    return name, value


def measure(options: argparse.Namespace) -> list[Row]:
    """Medians: a row for each front and pace."""
    ids = text_ids()
    loads = {steps: Load(options.streams, options.tokens, steps) for steps in options.steps}
    with _opened(options) as places:
        turns = {f"{front} {steps}": (front, steps) for front in places for steps in loads}
        for front, steps in turns.values():
            run(front, places[front], Load(options.streams, WARM_UP_TOKENS, steps), ids)
        rows: dict[str, list[Row]] = {name: [] for name in turns}
        for order in orders(tuple(turns), options.rounds):
            for name in order:
                front, steps = turns[name]
                rows[name].append(run(front, places[front], loads[steps], ids))
    return [median(each) for each in rows.values()]


@contextmanager
def _opened(options: argparse.Namespace) -> Iterator[dict[str, Place]]:
    places: dict[str, Place] = {}
    with ExitStack() as stack:
        if ALONE in options.fronts:
            places[ALONE] = stack.enter_context(alone.opened(str(options.profile) if options.profile else None))
        if on_serve := [front for front in FRONTS if front in options.fronts and front != ALONE]:
            from benchmarks.api_cost import served  # noqa: PLC0415 - imports Ray, which the api alone need not

            places |= stack.enter_context(served.opened(on_serve, dict(options.variables)))
        yield places


def table(rows: Sequence[Row]) -> str:
    """A line per front and pace; times are of a token, in milliseconds."""
    columns = (
        f"{'front':<8}{'offered/s':>10}{'tokens/s':>10}{'at once':>9}{'api ms':>9}{'proxy ms':>10}{'client ms':>11}"
    )
    lines = [f"{columns}   aims: {AIM_TOKENS:,} tokens/s, {AIM_MS} ms for the api"]
    for row in rows:
        proxy = "-" if row.proxy_ms is None else f"{row.proxy_ms:.3f}"
        lines.append(
            f"{row.front:<8}{row.offered:>10,}{row.tokens_per_second:>10,.0f}{row.tokens_per_event:>9.2f}"
            f"{row.api_ms:>9.3f}{proxy:>10}{row.client_ms:>11.3f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
