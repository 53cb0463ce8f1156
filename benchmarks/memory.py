"""Print what each process of a sharded model keeps in private memory after some requests, beside the whole model's.

python -m benchmarks.memory [--shards 4] [--layers 6] [--requests 100] [--json build/memory.json]

A random Mixtral with 101 MB of experts per layer is built in a temporary directory. Private memory is USS: what would
be freed if the process ended. Serve is not involved: shards and attention are plain processes, rows go over sockets.
Exit 1 when the attention process or a shard has grown by 75 MB more than what it has to hold, which is less than the
experts of one shard.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parents[1]
# The tests' checkpoints and process tree.
sys.path.insert(0, str(ROOT / "tests" / "serving"))

import psutil  # noqa: E402

PROMPT_TOKENS, ANSWER_TOKENS, AT_ONCE = 32, 16, 8
MB = 1_000_000
SHAPE = {"hidden_size": 512, "intermediate_size": 1024, "num_local_experts": 16}
ALLOWED = 75 * MB
"""Beyond its weights, for buffers, the cache, the allocator and the libraries' first use: 30 to 60 MB for any model."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Row:
    """One process, in bytes.

    Attributes:
        experts, weights: of the experts it holds, and of all else it holds.
        private: USS after the requests.
        grown: of that, since before it loaded anything (interpreter and libraries are in it by then).
    """

    process: str
    experts: int
    weights: int
    private: int
    grown: int

    @property
    def surplus(self) -> int:
        """Grown beyond what it has to hold."""
        return self.grown - self.experts - self.weights


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "memory.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="moe-memory-") as directory:
        path = _in_new_process(build, Path(directory), arguments.layers)
        rows = [
            _in_new_process(whole_model, path, arguments.requests),
            *_in_new_process(sharded, path, arguments.requests, arguments.shards),
        ]
    print_rows(rows)
    arguments.json.parent.mkdir(exist_ok=True)
    arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    excess = [row for row in rows[1:] if row.surplus > ALLOWED]
    for row in excess:
        print(f"{row.process} holds {row.surplus / MB:.0f} MB more than its own")
    return 1 if excess else 0


def print_rows(rows: list[Row]) -> None:
    print(f"{'process':<14}{'experts':>10}{'other weights':>15}{'USS':>10}{'of it grown':>13}{'surplus':>10}   (MB)")
    for row in rows:
        numbers = (row.experts, row.weights, row.private, row.grown, row.surplus)
        widths = (10, 15, 10, 13, 10)
        print(f"{row.process:<14}" + "".join(f"{n / MB:>{w}.0f}" for n, w in zip(numbers, widths, strict=True)))


def build(directory: Path, layers: int) -> Path:
    from reference import build_checkpoint  # noqa: PLC0415 - torch, only in the processes that need it

    return build_checkpoint("mixtral", directory, num_hidden_layers=layers, **SHAPE)


def whole_model(path: Path, requests: int) -> Row:
    """Plain transformers, all in one process."""
    import torch  # noqa: PLC0415
    from reference import prompts, reference_model  # noqa: PLC0415

    before = private_bytes()
    model = reference_model(path)
    with torch.inference_mode():
        for prompt in prompts(requests, longest=PROMPT_TOKENS):
            model.generate(torch.tensor([prompt]), max_new_tokens=ANSWER_TOKENS)
    experts, others = _weights(path)
    return _row("whole model", experts, others, before)


def sharded(path: Path, requests: int, shards: int) -> list[Row]:
    """This process is the attention process; the shards are its children."""
    from cluster import LocalCluster  # noqa: PLC0415
    from driver import complete, greedy, running_engine  # noqa: PLC0415
    from reference import prompts  # noqa: PLC0415

    _, others = _weights(path)
    with LocalCluster.start(path, shards) as cluster:
        before = private_bytes()
        shards_before = [private_bytes(shard.pid) for shard in cluster.shards]
        placement = cluster.place(shards, copies=1)
        with running_engine(path, experts=cluster.client()) as engine:
            complete(engine, prompts(requests, longest=PROMPT_TOKENS), greedy(ANSWER_TOKENS), AT_ONCE)
            rows = [_row("attention", 0, others, before)]
            each = cluster.facts.bytes_per_expert
            for index, shard in enumerate(cluster.shards):
                own = len(placement.holdings(index)) * each
                rows.append(_row(f"shard {index}", own, 0, shards_before[index], shard.pid))
    return rows


def private_bytes(pid: int | None = None) -> int:
    return int(psutil.Process(pid or os.getpid()).memory_full_info().uss)


def _row(process: str, experts: int, weights: int, before: int, pid: int | None = None) -> Row:
    private = private_bytes(pid)
    return Row(process, experts, weights, private, private - before)


def _weights(path: Path) -> tuple[int, int]:
    """Bytes of all experts and of all else."""
    from moe_serving.checkpoint import Checkpoint  # noqa: PLC0415

    checkpoint = Checkpoint.open(path)
    facts = checkpoint.facts("auto")
    experts = facts.layers * facts.experts * facts.bytes_per_expert
    return experts, sum(entry.end - entry.begin for entry in checkpoint.tensors.values()) - experts


def _in_new_process(function: Callable[..., T], *arguments: object) -> T:
    """A process that did nothing else before: what an earlier one left behind is not counted."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


if __name__ == "__main__":
    sys.exit(main())
