"""Print how fast we serve beside the whole model in plain transformers: tokens a second, prefill and decode apart.

python -m benchmarks.speed                                   all contestants, models and batches: hours
python -m benchmarks.speed --short                           whether it all works: a minute, and no figure to rely on
python -m benchmarks.speed --models tiny --batches 1 16      some of it
python -m benchmarks.speed --contestants local unix          only these, beside `whole`, which is always there

Contestants answer the same greedy batch in turn, round after round, each in a process of its own that rests while
others run. Ratios are to `whole` in the same round: transformers' own modules in a bare loop, with the fastest of its
experts functions, found by trial. Those over HTTP are measured after the others, since their Ray computes a little
while `whole` runs. In float32 answers must be those of `whole`, but for ties of the model's own; exit 1 where they are
not. `memory limit`: what decoding could reach if it only read its weights, keys and values, once, at the bandwidth that
is measured.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from benchmarks.contest import machine
from benchmarks.contest.contestants import BASELINE, CONTESTANTS, stages, teams
from benchmarks.contest.equality import WRONG
from benchmarks.contest.measurement import measure
from benchmarks.contest.models import SIZES, checkpoint
from benchmarks.contest.report import Report
from benchmarks.contest.runs import Dtype, Setting
from benchmarks.contest.team import TeamError
from moe_placement.cli.outputs import check_outputs
from moe_placement.errors import PlacementError

ITEM_BYTES: Mapping[Dtype, int] = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured; ``prompt`` and ``tokens`` are those of each sequence."""

    contestants: tuple[str, ...] = tuple(CONTESTANTS)
    models: tuple[str, ...] = tuple(SIZES)
    batches: tuple[int, ...] = (1, 4, 16, 32)
    rounds: int = 7
    prompt: int = 128
    tokens: int = 32


FULL = Sizes()
SHORT = Sizes(
    contestants=tuple(name for name, each in CONTESTANTS.items() if not each.beside),
    models=("tiny",),
    batches=(1, 4),
    rounds=1,
    prompt=16,
    tokens=4,
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    sizes = _sizes(options)
    try:
        _check(options, sizes)
    except (ValueError, PlacementError, OSError) as error:
        parser.error(str(error))
    report = Report(options.json)
    try:
        for name in sizes.models:
            with checkpoint(name) as path:
                most = max(sizes.batches)
                setting = Setting(path, options.dtype, options.shards, most, sizes.prompt, sizes.tokens)
                for stage in stages(sizes.contestants):
                    measure(name, SIZES[name].vocabulary, setting, stage, sizes.batches, sizes.rounds, report)
    except TeamError as error:
        print(f"speed: {error}", file=sys.stderr)
        return 1
    return int(any(WRONG in row.tokens for row in report.rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = "; ".join(f"{name}: {each.words}" for name, each in CONTESTANTS.items())
    models = "; ".join(f"{name}: {size.words}" for name, size in SIZES.items())
    parser.add_argument("--contestants", nargs="+", metavar="NAME", help=f"default all. {known}")
    parser.add_argument("--models", nargs="+", metavar="NAME", help=f"default all. {models}")
    parser.add_argument("--batches", nargs="+", type=_number(1, 1024), metavar="N", help="default 1 4 16 32")
    parser.add_argument("--dtype", choices=list(ITEM_BYTES), default="float32", help="default float32")
    parser.add_argument("--shards", type=_number(1, 64), default=2, metavar="N", help="default 2")
    for name, least, words in (("rounds", 1, ""), ("prompt", 1, "tokens of each, "), ("tokens", 2, "of each answer, ")):
        default = getattr(FULL, name)
        parser.add_argument(f"--{name}", type=_number(least, 100_000), metavar="N", help=f"{words}default {default}")
    parser.add_argument("--short", action="store_true", help="as little as shows that it works, without HTTP")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows to this file, as they come")
    return parser


def _number(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most}")
        return int(text)

    return number


def _sizes(options: argparse.Namespace) -> Sizes:
    defaults = SHORT if options.short else FULL
    given = {field.name: getattr(options, field.name) for field in fields(Sizes)}
    asked: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    return replace(defaults, **{name: value for name, value in asked.items() if value is not None})


def _check(options: argparse.Namespace, sizes: Sizes) -> None:
    """
    Raises:
        ValueError, PlacementError, OSError: it cannot be measured so; the text names argument, value and cure.
    """
    for flag, named, known in (("contestants", sizes.contestants, CONTESTANTS), ("models", sizes.models, SIZES)):
        for name in named:
            if name not in known:
                raise ValueError(f"--{flag}: there is no {name!r}; take some of {', '.join(known)}")
    check_outputs({"--json": options.json}, {})
    for name in sizes.models:
        if sizes.prompt + sizes.tokens > SIZES[name].context:
            raise ValueError(
                f"--prompt {sizes.prompt} and --tokens {sizes.tokens} together exceed the {SIZES[name].context} tokens "
                f"that model {name} takes: ask for less, or leave it out of --models"
            )
        _check_memory(name, options.dtype, sizes)
    if found := machine.slowing(os.environ):
        raise ValueError(f"{found[0]} is set, which may slow `{BASELINE}` down: unset {found[0].partition('=')[0]}")


def _check_memory(name: str, dtype: Dtype, sizes: Sizes) -> None:
    available = machine.available_bytes()
    for stage in stages(sizes.contestants):
        needed = machine.needed_bytes(SIZES[name].parameters, ITEM_BYTES[dtype], len(teams(stage)))
        if needed > available:
            raise ValueError(
                f"--models {name} in {dtype} with --contestants {' '.join(stage)} needs about {needed / 1e9:.0f} GB of "
                f"memory at a time, and {available / 1e9:.0f} GB are available: name fewer contestants or another model"
            )


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a random model's gigabytes are removed then, too
    sys.exit(main())
