"""Put load on a server that speaks OpenAI's API; print what became of the requests, and how soon they were answered.

python -m benchmarks.load                          moe-serve of models/tiny, started for it: a minute and a half
python -m benchmarks.load --url http://…/v1 --model NAME    another server; its key is read from OPENAI_API_KEY
python -m benchmarks.load --rate 4 --seconds 60    Poisson arrivals, four a second
python -m benchmarks.load --saturation             searches the highest rate that is kept up with, then offers half of
                                                   it, all, and twice as much: half an hour at --seconds 120

Greedy requests for random prompts of many lengths, streamed. *Failed*: anything but a complete answer within 120 s; a
429 with Retry-After is *refused* and counted apart. *Wrong*: other tokens than the unsharded model's (--reference).
*Saturation*: the highest rate of Poisson arrivals of which at least 98% are completed. *Goodput*: answers a second with
the first token within 5 s and a median gap of at most twice that at half of the saturation. Exit 1 when a request
failed or was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

from benchmarks.serving.client import Ask, Client
from benchmarks.serving.figures import Figures
from benchmarks.serving.judge import Judge
from benchmarks.serving.measurement import Measurement
from benchmarks.serving.saturation import find_saturation
from benchmarks.serving.server import own_server
from benchmarks.serving.traffic import Mix, Phase

TINY = Path(__file__).resolve().parents[1] / "models" / "tiny"
WARM_UP_S = 5.0
"""Before a steady phase, and not counted: its first answers have not ended yet."""
RECOVERY_S = 5.0
"""So long after an overload all should be as before."""
OVERLOAD = 2.0


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    server = nullcontext(options.url) if options.url else own_server(options.reference or TINY)
    with server as url:
        measurement = asyncio.run(_measure(options, url))
        rows = measurement.rows(_judge(options, url))
    print_rows(rows)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(row) | {"goodput": row.goodput} for row in rows], indent=1) + "\n")
    for row in rows:
        for reason, count in row.reasons.items():
            print(f"{row.phase}: {count} failed: {reason}")
    return int(any(row.failed or row.wrong for row in rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="of an API, with /v1 at its end; default: one of our own")
    parser.add_argument("--model", default="model", metavar="NAME", help="of the model there")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--rate", type=float, help="arrivals a second")
    how.add_argument("--saturation", action="store_true", help="search it, and go beyond it")
    how.add_argument("--known-saturation", type=float, metavar="RATE", help="go beyond it, without a search")
    parser.add_argument("--seconds", type=float, help="of each phase: 15, and 120 where saturation is searched")
    parser.add_argument("--streams", type=int, default=16, help="of the closed loop that all begins with (default 16)")
    parser.add_argument("--prompt-tokens", type=_range, default=(8, 256), metavar="LEAST:LARGEST", help="default 8:256")
    parser.add_argument("--answer-tokens", type=_range, default=(8, 128), metavar="LEAST:LARGEST", help="default 8:128")
    parser.add_argument("--distinct", type=int, default=32, help="different requests (default 32)")
    parser.add_argument("--vocabulary", type=int, default=4096, help="token ids are below it (default 4096)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--reference", type=Path, metavar="PATH", help="checkpoint to judge the tokens by; default: our own server's"
    )
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    return parser


def _range(text: str) -> tuple[int, int]:
    least, _, largest = text.partition(":")
    if not (least.isdecimal() and largest.isdecimal() and 1 <= int(least) <= int(largest)):
        raise argparse.ArgumentTypeError(f"{text!r} is not two whole numbers such as 8:256")
    return int(least), int(largest)


async def _measure(options: argparse.Namespace, url: str) -> Measurement:
    mix = Mix(options.prompt_tokens, options.answer_tokens, options.distinct, options.vocabulary, options.seed)
    seconds = options.seconds or (120.0 if options.saturation or options.known_saturation else 15.0)
    async with _client(options, url) as client:
        measurement = Measurement(client, mix, options.seed)
        if options.rate:
            await measurement.arrivals([Phase(f"{options.rate:g}/s", options.rate, seconds)])
        elif options.known_saturation:
            await _overload(measurement, options.known_saturation, seconds)
        else:
            possible = await measurement.closed(options.streams, min(WARM_UP_S, seconds), min(seconds, 30.0))
            if possible == 0:
                print("nothing was completed in that time: no rate follows from it; take more --seconds", flush=True)
            elif options.saturation:
                await _overload(measurement, await _saturation(measurement, possible, seconds), seconds)
            else:
                (half,) = await measurement.arrivals([Phase("half of it", possible / 2, seconds)])
                measurement.longest_gap_s = 2 * half.gap.p50
    return measurement


def _client(options: argparse.Namespace, url: str) -> Client:
    return Client(url, options.model, os.environ.get("OPENAI_API_KEY", "none"))


async def _saturation(measurement: Measurement, guess: float, seconds: float) -> float:
    print(f"searching the saturation from {guess:.2f}/s on", flush=True)
    rate = await find_saturation(lambda rate: measurement.share_completed(rate, WARM_UP_S, seconds), guess)
    print(f"saturation: {rate:.2f}/s", flush=True)
    return rate


async def _overload(measurement: Measurement, saturation: float, seconds: float) -> None:
    """Half of the saturation, all of it, and twice as much with what comes after it."""
    half, warm = saturation / 2, WARM_UP_S
    _, normal = await measurement.arrivals([Phase("warm-up", half, warm), Phase("50%", half, seconds)])
    measurement.longest_gap_s = 2 * normal.gap.p50
    await measurement.arrivals([Phase("warm-up", saturation, warm), Phase("100%", saturation, seconds)])
    beyond = OVERLOAD * saturation
    await measurement.arrivals(
        [
            Phase("warm-up", beyond, warm),
            Phase(f"{OVERLOAD:.0%}", beyond, seconds),
            Phase(f"{RECOVERY_S:.0f} s later 50%", half, RECOVERY_S),
            Phase("recovered, 50%", half, seconds / 2),
        ]
    )


def _judge(options: argparse.Namespace, url: str) -> Judge | None:
    model = options.reference or (None if options.url else TINY)

    def resume(ask: Ask) -> list[int]:
        async def answer() -> list[int]:
            async with _client(options, url) as client:
                return (await client.ask(ask)).token_ids

        return asyncio.run(answer())

    return Judge(model, resume) if model else None


def print_rows(rows: Sequence[Figures]) -> None:
    """A line per phase; times in milliseconds."""
    print(
        f"{'':<20}{'offered':>8}{'complete':>9}{'/s':>7}{'good/s':>7}{'failed':>7}{'refused':>8}{'wrong':>6}"
        f"{'first token p50':>17}{'p95':>7}{'p99':>7}{'gap p50':>9}{'p95':>6}{'p99':>6}{'client':>8}"
    )
    for row in rows:
        times = (row.first.p50, row.first.p95, row.first.p99, row.gap.p50, row.gap.p95, row.gap.p99)
        print(
            f"{row.phase:<20}{row.offered:>8}{row.complete:>9}{row.complete / row.seconds:>7.2f}{row.goodput:>7.2f}"
            f"{row.failed:>7}{row.refused:>8}{_or_dash(row.wrong):>6}"
            + "".join(f"{t * 1000:>{w}.0f}" for t, w in zip(times, (17, 7, 7, 9, 6, 6), strict=True))
            + f"{row.client_cpu:>7.0%}"
        )


def _or_dash(number: int | None) -> str:
    return "–" if number is None else str(number)


if __name__ == "__main__":
    sys.exit(main())
