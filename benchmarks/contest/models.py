"""What is served: the trained model of this repository, and random ones of other sizes."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving.judge import use_tests

TINY = Path(__file__).resolve().parents[2] / "models" / "tiny"


@dataclass(frozen=True, slots=True)
class Size:
    """Attributes:
    parameters: all of them.
    vocabulary, context: tokens that there are, and of the longest sequence.
    fields: of the configuration of a random model, over the tests' ``olmoe``; None for the one in this repository.
    """

    words: str
    parameters: int
    vocabulary: int
    context: int
    fields: Mapping[str, int | float] | None = None


SIZES = {
    "tiny": Size("models/tiny: 6 layers of 16 experts, top-2", 13_000_000, 4096, 1024),
    "1b": Size(
        "random: 16 layers of 64 experts, top-8", 1_120_000_000, 32_000, 2048,
        {
            "num_hidden_layers": 16, "num_experts": 64, "num_experts_per_tok": 8, "hidden_size": 1024,
            "intermediate_size": 320, "num_attention_heads": 16, "num_key_value_heads": 8, "vocab_size": 32_000,
            "max_position_embeddings": 2048, "initializer_range": 0.05,
        },
    ),
}  # fmt: skip
"""A model more is a line more."""


@contextmanager
def checkpoint(name: str) -> Iterator[Path]:
    """Where the model is; the files of a random one, in bfloat16, go with the block."""
    fields = SIZES[name].fields
    if fields is None:
        yield TINY
        return
    with tempfile.TemporaryDirectory(prefix="moe-speed-") as folder:
        build(name, Path(folder), "bfloat16")
        yield Path(folder)


def build(name: str, folder: Path, dtype: str, **fields: int | float) -> None:
    """Write a random model in ``dtype``; ``fields`` take the place of its own."""
    # In a process of its own, which takes its memory with it.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        pool.submit(_build, folder, dtype, {**(SIZES[name].fields or {}), **fields}).result()


def _build(folder: Path, dtype: str, fields: Mapping[str, int | float]) -> None:
    use_tests()
    import torch  # noqa: PLC0415 - only in this process
    from reference import build_checkpoint  # noqa: PLC0415

    build_checkpoint("olmoe", folder, dtype=getattr(torch, dtype), **fields)
