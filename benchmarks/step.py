"""Print where a step of decoding goes, section by section: wall time of the engine's thread, with experts in shards.

python -m benchmarks.step                                     models/tiny, 2 shards over unix sockets, batch 1, 8 and 32
python -m benchmarks.step --model tiny --network tcp --batches 16 --steps 500

A section is what it takes without those inside it; reading the clock, 0.1 us a section, is in them. *compute* is what
the busiest shard worked, reading requests and writing answers included; *wire* is what else the engine waited: for the
sockets, for its turn on a core, and in layers in which another shard was the slowest. Counted are steps in which every
sequence decodes, without what is scheduled between them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.arguments import positive
from benchmarks.contest.models import SIZES, checkpoint
from benchmarks.contest.rounds import prompts
from benchmarks.contest.runs import Setting
from benchmarks.contest.sections import Sections
from moe_placement.cli.outputs import check_outputs
from moe_placement.errors import PlacementError

REST, COMPUTE, WIRE = "Python, norms", "compute", "wire"
NAMES = ("gate", "choose", "pack", WIRE, COMPUTE, "unpack", "statistics", "attention", "head", "sampling", REST)
"""In the order in which they are printed."""
PROMPT = 16
"""Tokens of each prompt."""


@dataclass(frozen=True, slots=True)
class Row:
    """Attributes:
    batch: sequences that decode.
    microseconds: of a step, the mean.
    calls: in a step.
    """

    batch: int
    section: str
    microseconds: float
    calls: float


def rows(batch: int, steps: int, sections: Sections, busy_s: float) -> list[Row]:
    """Of ``steps`` steps together.

    Args:
        busy_s: seconds that the busiest shard worked in them.
    """
    waited = sections.seconds[WIRE]
    seconds = {**sections.seconds, COMPUTE: min(busy_s, waited), WIRE: max(0.0, waited - busy_s)}
    return [
        Row(
            batch, name, seconds.get(name, 0.0) / steps * 1e6, sections.calls[WIRE if name == COMPUTE else name] / steps
        )
        for name in NAMES
    ]


def table(found: Sequence[Row]) -> str:
    """Of one batch."""
    whole = sum(row.microseconds for row in found)
    lines = [f"batch {found[0].batch}: {whole:,.0f} us a step, {found[0].batch / whole * 1e6:,.0f} tokens/s"]
    for row in found:
        lines.append(
            f"  {row.section:<14}{row.microseconds:>10,.0f} us{row.microseconds / whole:>7.1%}{row.calls:>8.0f}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        check_outputs({"--json": options.json}, {})
        if PROMPT + options.steps + 1 > SIZES[options.model].context:
            raise ValueError(
                f"--steps {options.steps} behind prompts of {PROMPT} tokens exceeds the {SIZES[options.model].context} "
                f"tokens that model {options.model} takes: ask for less"
            )
    except (ValueError, PlacementError, OSError) as error:
        parser.error(str(error))
    with checkpoint(options.model) as path:
        found = measure(path, options)
    for batch in options.batches:
        print(table([row for row in found if row.batch == batch]))
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(row) for row in found], indent=1) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(SIZES), default="tiny", help="default tiny")
    parser.add_argument("--network", choices=["unix", "tcp"], default="unix", help="to the shards (default unix)")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="default float32")
    parser.add_argument("--shards", type=positive, default=2, metavar="N", help="default 2")
    parser.add_argument("--batches", type=positive, nargs="+", default=[1, 8, 32], metavar="N", help="default 1 8 32")
    parser.add_argument("--steps", type=positive, default=200, metavar="N", help="of each batch (default 200)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows to this file")
    return parser


def measure(path: Path, options: argparse.Namespace) -> list[Row]:
    """The sections of each batch."""
    from benchmarks.contest import sharded  # noqa: PLC0415 - imports torch, which whoever asks for help need not

    setting = Setting(path, options.dtype, options.shards, max(options.batches), PROMPT, options.steps + 1)
    found: list[Row] = []
    with sharded.processes(setting) as shards, sharded.engine(shards, setting, options.network) as runner:
        for batch in options.batches:
            asked, sections = prompts(batch, PROMPT, SIZES[options.model].vocabulary), Sections()
            runner.warm_up(asked)
            begun = _busy_s(shards)
            runner.run(asked, 1)  # the prefill, which is in the other run too
            prefilled = _busy_s(shards)
            with instrumented(sections, runner.engine, batch):
                runner.run(asked, options.steps + 1)
            ended = _busy_s(shards)
            busy = max(c - 2 * b + a for a, b, c in zip(begun, prefilled, ended, strict=True))
            found += rows(batch, sections.calls[REST], sections, busy)
    return found


def _busy_s(shards: Any) -> list[float]:
    """Of each shard, since its start."""
    return [shard.call("describe").counts["busy_us"] / 1e6 for shard in shards.shards]


@contextmanager
def instrumented(sections: Sections, engine: Any, batch: int) -> Iterator[None]:
    """Steps of ``engine`` in which ``batch`` sequences decode are counted inside."""

    def decodes(chunks: Sequence[Any]) -> bool:
        return len(chunks) == batch and all(chunk.count == 1 and chunk.sequence.computed for chunk in chunks)

    with ExitStack() as stack:
        for name, places in _places(engine).items():
            for owner, method in places:
                call = getattr(owner, method)
                stack.enter_context(mock.patch.object(owner, method, sections.timed(name, call)))
        step = sections.root(REST, engine._step, decodes)
        stack.enter_context(mock.patch.object(engine, "_step", step))
        yield


def _places(engine: Any) -> Mapping[str, list[tuple[Any, str]]]:
    """What belongs to each section: who has the method, and its name."""
    from moe_serving.engine import runner  # noqa: PLC0415 - these import torch, see above
    from moe_serving.engine.lean.step import LeanStep  # noqa: PLC0415
    from moe_serving.engine.penalty import RepetitionPenalty  # noqa: PLC0415
    from moe_serving.experts.messages import ComputeRequest  # noqa: PLC0415
    from moe_serving.routing.dispatch import LayerDispatch  # noqa: PLC0415
    from moe_serving.routing.layer import LayerWork  # noqa: PLC0415
    from moe_serving.wire import transport  # noqa: PLC0415

    module = engine.model.module
    parts = dict(module.named_modules())
    return {
        "gate": [
            (LeanStep, "_choose"),
            *((part, "forward") for name, part in parts.items() if name.endswith(".mlp.gate")),
        ],
        "attention": [
            (LeanStep, "_attend"),
            *((part, "forward") for name, part in parts.items() if name.endswith(".self_attn")),
        ],
        "head": [(module.get_output_embeddings(), "forward")],
        "choose": [(LayerDispatch, "_choose")],
        "pack": [
            (LayerWork, "__init__"),
            (LayerWork, "parts"),
            (ComputeRequest, "to_message"),
            (transport, "encode_frame"),
        ],
        WIRE: [(transport.SocketTransport, "submit"), (transport.SocketFabric, "wait")],
        "unpack": [
            (transport, "decode_frame"),
            (LayerDispatch, "_read"),
            (LayerWork, "accept"),
            (LayerWork, "result"),
        ],
        "statistics": [(LayerDispatch, "_record"), (engine, "_on_step")],
        "sampling": [(runner, "choose_tokens"), (RepetitionPenalty, "apply")],
    }


if __name__ == "__main__":
    sys.exit(main())
