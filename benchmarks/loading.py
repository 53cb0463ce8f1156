"""Print how fast a shard loads its experts, beside what the machine gives.

python -m benchmarks.loading                               a random checkpoint of 2 GB, of which a shard has one half
python -m benchmarks.loading --dtypes bfloat16 --rounds 9
python -m benchmarks.loading --cold                        files are dropped from the page cache before each reading
python -m benchmarks.loading --short                       whether it works: models/tiny

Ways take turns, round after round; figures are medians with quartiles of the rounds, and shares are of the plain way
in the same round. Plain is nothing but system calls on large buffers, by as many threads as read for a shard: `preadv`
of the same bytes into as much fresh memory, and into one buffer again and again; and a socket from another process into
fresh memory. A shard reads, makes checksums and publishes expert by expert, as it does on a cluster, without Ray and a
directory. Processor time hardly depends on what else runs, throughput does.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import quantiles
from typing import Any

from benchmarks.arguments import positive
from benchmarks.contest.machine import described
from benchmarks.contest.models import TINY, build
from benchmarks.reading import plain, shards
from benchmarks.reading.plain import Taken
from moe_placement.cli.outputs import check_outputs
from moe_placement.errors import PlacementError

ITEM_BYTES = {"float32": 4, "bfloat16": 2}
LAYERS = {"float32": 8, "bfloat16": 16}
"""Of a random model: 1 GB of experts a shard, in either dtype."""
PLAIN_OF = {
    "one buffer": "memory",
    "shard": "memory",
    "unix": "socket unix",
    "tcp": "socket tcp",
}
"""What each way is compared with; others are that."""
WORDS = {
    "memory": "plain: into as much memory",
    "one buffer": "plain: into one buffer",
    "shard": "a shard, from the checkpoint",
    "checksums": "of which checksums, on one thread",
    "socket unix": "plain: a unix socket",
    "unix": "a shard, from another by a unix socket",
    "socket tcp": "plain: TCP",
    "tcp": "a shard, from another by TCP",
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        check_outputs({"--json": options.json}, {})
    except PlacementError as error:
        parser.error(str(error))
    machine = described()
    print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    told: list[dict[str, Any]] = []
    for dtype in options.dtypes:
        with _checkpoint(dtype, short=options.short) as path:
            rounds = measure(path, dtype, options)
        print(f"\n{table(dtype, rounds, cold=options.cold)}", flush=True)
        told += [{"dtype": dtype, "cold": options.cold, **row} for row in rows(rounds)]
        if options.json is not None:
            options.json.write_text(json.dumps({"machine": machine, "rows": told}, indent=1) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtypes", choices=list(ITEM_BYTES), nargs="+", default=list(ITEM_BYTES), help="default all")
    parser.add_argument("--rounds", type=positive, default=7, metavar="N", help="default 7")
    parser.add_argument("--threads", type=positive, metavar="N", help="of the plain way; default: those of a shard")
    parser.add_argument("--cold", action="store_true", help="what is read is not in the page cache")
    parser.add_argument("--short", action="store_true", help="models/tiny; no figure to rely on")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows to this file")
    return parser


@contextmanager
def _checkpoint(dtype: str, *, short: bool) -> Iterator[Path]:
    if short:
        yield TINY
        return
    with tempfile.TemporaryDirectory(prefix="moe-loading-") as folder:
        build("1b", Path(folder), dtype, num_hidden_layers=LAYERS[dtype])
        yield Path(folder)


def measure(path: Path, dtype: str, options: argparse.Namespace) -> list[dict[str, Taken]]:
    """What each way took, for each round."""
    from moe_serving.checkpoint.reader import reading_threads  # noqa: PLC0415 - whoever asks for help need not wait

    keys, size, found = shards.keys_of(path, dtype, 2)
    spans = plain.merged(found)
    threads = options.threads or reading_threads()
    stored = sum(span.end - span.begin for span in spans)
    print(f"{dtype}: {len(keys)} experts, {stored / 1e9:.2f} GB stored, {size / 1e9:.2f} GB served, {threads} threads")

    def cold() -> None:
        if options.cold:
            plain.forget({span.file for span in spans})

    rounds = []
    with shards.peer(path, dtype, keys) as peer:
        for _ in range(options.rounds + 1):
            taken = {}
            cold()
            taken["memory"] = plain.read(spans, threads, keep=True)
            cold()
            taken["one buffer"] = plain.read(spans, threads, keep=False)
            cold()
            taken["shard"], taken["checksums"] = shards.load(path, dtype, keys, size)
            for network in ("unix", "tcp"):
                taken[f"socket {network}"] = plain.send(network, size)
                taken[network] = shards.copy(path, dtype, network, keys, size, peer)
            rounds.append(taken)
    return rounds[1:]  # the first one warms caches


def rows(rounds: Sequence[Mapping[str, Taken]]) -> list[dict[str, Any]]:
    """Medians with quartiles: GB/s, processor seconds for a GB, and of the plain way's GB/s and processor time."""
    told = []
    for way, words in WORDS.items():
        mine = [each[way] for each in rounds]
        beside = [each[PLAIN_OF[way]] for each in rounds] if way in PLAIN_OF else []
        told.append(
            {
                "way": words,
                "gb_per_s": spread([_rate(each) for each in mine]),
                "cpu_s_per_gb": spread([_cost(each) for each in mine]),
                "of_plain": spread([_rate(one) / _rate(other) for one, other in zip(mine, beside, strict=True)])
                if beside
                else None,
                "cpu_of_plain": spread([_cost(other) / _cost(one) for one, other in zip(mine, beside, strict=True)])
                if beside
                else None,
            }
        )
    return told


def table(dtype: str, rounds: Sequence[Mapping[str, Taken]], *, cold: bool) -> str:
    lines = [
        f"| {dtype}, {'not in the page cache' if cold else 'in the page cache'} | GB/s | CPU s a GB | of plain |"
        " by CPU time |",
        "|---|---|---|---|---|",
    ]
    for row in rows(rounds):
        cells = (_cell(row[name]) for name in ("gb_per_s", "cpu_s_per_gb", "of_plain", "cpu_of_plain"))
        lines.append(f"| {row['way']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: Sequence[float]) -> list[float]:
    """Median, then quartiles."""
    low, middle, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return [middle, low, high]


def _rate(taken: Taken) -> float:
    return taken.bytes / taken.seconds / 1e9


def _cost(taken: Taken) -> float:
    return taken.cpu / (taken.bytes / 1e9)


def _cell(values: Sequence[float] | None) -> str:
    return f"{values[0]:.2f} ({values[1]:.2f}–{values[2]:.2f})" if values is not None else ""


if __name__ == "__main__":
    sys.exit(main())
