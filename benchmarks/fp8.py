"""What FP8 costs in loss on held-out text, and what it saves in bytes.

python -m benchmarks.fp8 [--model models/tiny] [--text FILE ...] [--dtype float32] [--shards 4] [--json build/fp8.json]

The whole model in transformers, its experts computed by shards of this process: every request and every answer is cut,
packed, put into its message and read from it as a replica and shards do it. Losses are of the same windows with and
without FP8; intervals resample these. Without --text it is what models/held_out.py writes. Exit 1 when rows and sums
with their scales take more than 0.52 of bf16's bytes, or the wire costs more than 0.002 nats per token.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from moe_contract.applications import Weights, Wire
from moe_serving.adaptive.curve import LossIncrease
from moe_serving.adaptive.interval import loss_increase
from moe_serving.adaptive.measure import WholeModel
from moe_serving.adaptive.text import halves, read_texts
from moe_serving.api.tokenizer import ModelTokenizer
from moe_serving.checkpoint import Checkpoint
from moe_serving.checkpoint.reader import ExpertReader
from moe_serving.engine.experts import Computed, ExpertsClient
from moe_serving.experts.compute import answer_compute
from moe_serving.experts.messages import ComputeReply
from moe_serving.experts.pool import ExpertPool
from moe_serving.fp8.weights import PackingReader
from moe_serving.routing.layer import LayerWork

ROOT = Path(__file__).resolve().parents[1]
MOST_BYTES, MOST_LOSS = 0.52, 0.002
"""Aims of the wire: of bf16's bytes, and nats per token."""
BF16_BYTES = 2
CPU = torch.device("cpu")


@dataclass(slots=True)
class Bytes:
    """Of rows, sums or experts with their scales: bytes, and how many numbers these are."""

    taken: int = 0
    numbers: int = 0

    def add(self, rows: Tensor, scales: Tensor | None) -> None:
        self.taken += rows.nbytes + (0 if scales is None else scales.nbytes)
        self.numbers += rows.numel()

    @property
    def of_bf16(self) -> float:
        return self.taken / (BF16_BYTES * max(1, self.numbers))


class Shards(ExpertsClient):
    """All experts in this process, behind the messages of shards.

    Args:
        shards: expert ``e`` is on shard ``e`` modulo so many.
    """

    def __init__(self, reader: ExpertReader, shards: int, wire: Wire) -> None:
        config, self._shards, self._packed = reader.checkpoint.config, shards, wire == "FP8"
        layers = len(config.moe_layers)
        self._pool = ExpertPool(layers, config.experts, reader.form, CPU)
        self._pool.capacity = layers * config.experts
        self.rows, self.sums, self.weights = Bytes(), Bytes(), Bytes()
        self.weights.taken = layers * config.experts * reader.form.nbytes
        self.weights.numbers = layers * config.experts * 3 * config.hidden * config.intermediate
        for layer in range(layers):
            for expert in range(config.experts):
                with self._pool.reserve(layer, expert) as slot:
                    reader.read_into(slot.weights, layer, expert)
                    slot.publish()

    def submit(self, layer: int, hidden: Tensor, expert_ids: Tensor, weights: Tensor) -> Computed:
        work = LayerWork(layer, hidden, expert_ids, weights, per_pair=False, packed=self._packed)
        for _, part in work.parts((expert_ids % self._shards).numpy()):
            message = part.request.to_message()
            answer = answer_compute(self._pool, message, CPU)
            self.rows.add(part.request.hidden, part.request.scales)
            self.sums.add(answer.tensors[0], answer.tensors[2] if self._packed else None)
            work.accept(part, ComputeReply.from_message(answer, part.request))
        return Computed(work.result())


@dataclass(frozen=True, slots=True)
class Row:
    """Of one way.

    Attributes:
        rows, sums, weights: bytes of hidden rows, of sums and of experts, their scales among them, of those that they
            have in bf16.
        seconds: of this process' processor time.
    """

    name: str
    loss: LossIncrease
    rows: float
    sums: float
    weights: float
    seconds: float


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    rows, tokens, loss = measure(arguments)
    print(
        f"{arguments.model} in {arguments.dtype}, {arguments.shards} shards, {tokens} held-out tokens, loss {loss:.4f}"
    )
    print(table(rows))
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    told = {"model": str(arguments.model), "dtype": arguments.dtype, "tokens": tokens, "loss": loss}
    arguments.json.write_text(json.dumps(told | {"rows": [asdict(row) for row in rows]}, indent=1))
    missed = misses(rows)
    for each in missed:
        print(f"missed: {each}")
    return 1 if missed else 0


def measure(arguments: argparse.Namespace) -> tuple[list[Row], int, float]:
    """Of each way, the first without FP8; the tokens that are held out; the loss on them in the first."""
    checkpoint = Checkpoint.open(arguments.model)
    text = halves(
        read_texts(arguments.text or held_out()), ModelTokenizer.load(arguments.model), arguments.window,
        arguments.most_tokens,
    ).held_out  # fmt: skip
    reader = ExpertReader(arguments.model, arguments.dtype, "cpu")
    packing = PackingReader(arguments.model, arguments.dtype, "cpu")
    model = WholeModel(checkpoint, arguments.dtype, CPU)
    rows: list[Row] = []
    before = np.empty(0)
    for name, (weights, wire) in WAYS.items():
        shards = Shards(packing if weights == "FP8" else reader, arguments.shards, wire)
        began = time.process_time()
        losses = model.losses_by(text, shards)
        seconds = time.process_time() - began
        before = losses if not rows else before
        taken = (each.of_bf16 for each in (shards.rows, shards.sums, shards.weights))
        rows.append(Row(name, loss_increase(losses - before), *taken, seconds))
    return rows, text.size, float(before.mean())


WAYS: dict[str, tuple[Weights, Wire]] = {
    "as it is": ("Checkpoint", "Model"),
    "wire": ("Checkpoint", "FP8"),
    "weights": ("FP8", "Model"),
    "wire and weights": ("FP8", "FP8"),
}


def held_out() -> list[Path]:
    """Texts that models/tiny was not trained on."""
    folder = ROOT / "build" / "held-out"
    subprocess.run([sys.executable, str(ROOT / "models" / "held_out.py"), str(folder)], check=True)
    return sorted(folder.glob("*.txt"))


def table(rows: Sequence[Row]) -> str:
    lines = [f"{'FP8':<18} {'loss grows by, nats per token':<36} rows, sums, experts of bf16's bytes  CPU s"]
    for row in rows:
        taken = f"{row.rows:.3f}, {row.sums:.3f}, {row.weights:.3f}"
        lines.append(f"{row.name:<18} {row.loss!s:<36} {taken:<35} {row.seconds:6.1f}")
    return "\n".join(lines)


def misses(rows: Sequence[Row]) -> list[str]:
    """Which aims the wire misses."""
    (wire,) = (row for row in rows if row.name == "wire")
    found = []
    if max(wire.rows, wire.sums) > MOST_BYTES:
        found.append(f"rows {wire.rows:.3f} and sums {wire.sums:.3f} of bf16's bytes, aim {MOST_BYTES}")
    if wire.loss.mean > MOST_LOSS:
        found.append(f"the wire costs {wire.loss.mean:.4f} nats per token, aim {MOST_LOSS}")
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "tiny")
    parser.add_argument("--text", type=Path, action="append")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--most-tokens", type=int, default=400_000)
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "fp8.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
