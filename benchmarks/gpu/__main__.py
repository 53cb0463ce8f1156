"""Measure on this machine's GPU what only one can show, in at most eight minutes; install nothing.

make gpu-check                                       all of it, the most important first; JSON in build/gpu.json
python -m benchmarks.gpu --json FILE                 the same
TRITON_INTERPRET=1 python -m benchmarks.gpu --size smallest --json FILE     only whether it works, on a CPU

Needs torch with CUDA, transformers, Triton, and what else the data plane imports (``make environment`` has all). The
model is made on the device. The file is written anew after each figure: what ran before an end stays. Exit code: 0; 1
if answers are wrong or a part failed; 2 without a GPU or something that it needs.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NEEDED = ("numba", "numpy", "pydantic", "safetensors", "torch", "transformers", "triton")
SIZES = ("12-layer", "smallest")
SECONDS = 450
"""After which no part begins, nor a figure of one."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        return _cannot(f"this Python has no {', '.join(missing)}: `make environment` makes one that has, in .venv")
    from benchmarks.gpu.card import NoCardError, find  # noqa: PLC0415 - imports torch, which may not be there

    try:
        card = find()
    except NoCardError as error:
        return _cannot(str(error))
    return _run(card, options.size, options.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default=SIZES[0], help=f"of the model (default {SIZES[0]})")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="written as figures come")
    return parser


def _cannot(why: str) -> int:
    print(f"gpu-check did not run: {why}", file=sys.stderr)
    return 2


def _run(card: Any, name: str, file: Path) -> int:
    from benchmarks.gpu.models import SIZES as KNOWN  # noqa: PLC0415 - as above
    from benchmarks.gpu.parts import PARTS  # noqa: PLC0415

    size, begun, failed = KNOWN[name], time.monotonic(), False
    bandwidth = card.bandwidth(size.read_bytes, size.rounds)
    told: dict[str, Any] = {**card.facts(), "model": size.words, "bandwidth_bytes_s": bandwidth, "parts": {}}
    _write(file, told)
    print(f"{card.name}: {bandwidth / 1e12:.2f} TB/s; {size.words}", flush=True)
    for part, measure in PARTS.items():
        rows = told["parts"][part] = {}
        try:
            for row in measure(card, size, bandwidth):
                key = next(iter(row))
                rows[f"{key} {row[key]}"] = row
                failed |= bool(row.get("wrong"))
                _write(file, told)
                print(f"{part}: {_words(row)}", flush=True)
                if time.monotonic() - begun > SECONDS:
                    break
        except Exception as error:  # noqa: BLE001 - other parts are worth having, whatever one raises
            failed, rows["failed"] = True, f"{type(error).__name__}: {error}"
            print(f"{part}: {rows['failed']}", flush=True)
        if time.monotonic() - begun > SECONDS:
            rows["not run"] = f"more than {SECONDS} s had passed"
        _write(file, told)
    return int(failed)


def _words(row: dict[str, Any]) -> str:
    return ", ".join(f"{key} {f'{value:.3g}' if isinstance(value, float) else value}" for key, value in row.items())


def _write(file: Path, told: dict[str, Any]) -> None:
    beside = file.with_name(file.name + ".new")
    beside.write_text(json.dumps(told, indent=1) + "\n")
    os.replace(beside, file)


if __name__ == "__main__":
    sys.exit(main())
