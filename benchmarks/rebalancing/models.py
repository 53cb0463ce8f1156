"""What is served: the trained model of this repository, and a larger one with random weights."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving.judge import use_tests

TINY = Path(__file__).resolve().parents[2] / "models" / "tiny"
LARGER = {
    "vocab_size": 4096, "hidden_size": 256, "num_hidden_layers": 8, "num_experts": 64, "num_experts_per_tok": 8,
    "intermediate_size": 64,
}  # fmt: skip
"""Over the tests' ``olmoe``: 101 MB of experts in float32, five times those of ``models/tiny``. The vocabulary is
tiny's, so that both read the same text."""


@dataclass(frozen=True, slots=True)
class Model:
    """A checkpoint, and on how many shards with how many copies of each expert it is served.

    Attributes:
        width: values of a row.
    """

    name: str
    path: Path
    shards: int
    copies: int
    width: int = 256


@contextmanager
def models(names: Sequence[str]) -> Iterator[list[Model]]:
    """``tiny`` and ``larger``, as far as they are asked for; the files of a random one go with the block."""
    with tempfile.TemporaryDirectory(prefix="moe-bench-") as folder:
        made = {
            "tiny": lambda: Model("tiny", TINY, shards=4, copies=2),
            "larger": lambda: Model("larger", _random(Path(folder)), shards=4, copies=1),
        }
        yield [made[name]() for name in names]


def _random(folder: Path) -> Path:
    use_tests()
    from reference import build_checkpoint  # noqa: PLC0415 - imports torch

    return build_checkpoint("olmoe", folder, **LARGER)
