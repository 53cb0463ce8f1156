"""Ours in one process: the engine, and all experts beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from benchmarks.contest.engine import running
from benchmarks.contest.runs import Runner, Setting
from moe_serving.engine.local_experts import LocalExperts


@contextmanager
def opened(setting: Setting, wanted: Sequence[str]) -> Iterator[dict[str, Runner]]:
    """The contestant ``local``, ready."""
    with running(setting, LocalExperts(setting.model, setting.dtype, "cpu")) as runner:
        yield {"local": runner}
