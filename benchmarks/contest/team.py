"""A process with contestants of one model, so that none has threads or memory in the baseline's. One runs at a time."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from importlib import import_module
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

from benchmarks.contest.limit import read_bandwidth
from benchmarks.contest.runs import Setting

OPEN_S, CALL_S, CLOSE_S = 1800.0, 3600.0, 90.0
"""For loading, for one run of the largest batch, and for the end of a Ray."""

_context = multiprocessing.get_context("spawn")


class TeamError(Exception):
    """A contestant has failed; the text says which and why."""


class Team:
    """Starts at once; ``wait_open`` says when it is ready. A context manager, at whose end the process has ended."""

    def __init__(self, module: str, setting: Setting, wanted: Sequence[str]) -> None:
        self._name = module
        self._pipe, theirs = _context.Pipe()
        self._process = _context.Process(target=_serve, args=(theirs, module, setting, tuple(wanted)), name=module)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pipe.close()  # which it takes for the end
        self._process.join(CLOSE_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def wait_open(self) -> int:
        """Until the contestants are ready; returns the threads that torch computes with there.

        Raises:
            TeamError: they cannot be.
        """
        return int(self._answer(OPEN_S, "its contestants to be ready"))

    def bandwidth(self) -> float:
        """See ``limit.read_bandwidth``."""
        return float(self.call("", "bandwidth"))

    def call(self, contestant: str, method: str, *arguments: Any) -> Any:
        """Of a ``Runner``.

        Raises:
            TeamError: it has failed.
        """
        with suppress(OSError):  # it has ended: the answer says so
            self._pipe.send((contestant, method, arguments))
        return self._answer(CALL_S, f"{contestant or 'it'} to {method}")

    def _answer(self, limit_s: float, what: str) -> Any:
        if not self._pipe.poll(limit_s):
            raise TeamError(f"waited {limit_s:g} s for {what} in process {self._name}")
        try:
            failed, said = self._pipe.recv()
        except EOFError:
            self._process.join(CLOSE_S)
            raise TeamError(f"process {self._name} has ended, exit code {self._process.exitcode}") from None
        if failed:
            raise TeamError(f"{self._name}: {said}")
        return said


def _serve(pipe: Connection, module: str, setting: Setting, wanted: Sequence[str]) -> None:
    try:
        opened: AbstractContextManager[dict[str, Any]] = import_module(f"benchmarks.contest.{module}").opened(
            setting, wanted
        )
        with opened as runners:
            import torch  # noqa: PLC0415 - is there by now

            pipe.send((False, torch.get_num_threads()))
            _answer_all(pipe, runners)
    except Exception as error:  # noqa: BLE001 - told to whoever waits
        _tell(pipe, error)


def _answer_all(pipe: Connection, runners: dict[str, Any]) -> None:
    while True:
        try:
            name, method, arguments = pipe.recv()
        except EOFError:
            return
        try:
            said = read_bandwidth() if method == "bandwidth" else getattr(runners[name], method)(*arguments)
        except Exception as error:  # noqa: BLE001 - told to whoever asked
            _tell(pipe, error)
        else:
            pipe.send((False, said))


def _tell(pipe: Connection, error: Exception) -> None:
    traceback.print_exception(error)
    pipe.send((True, f"{type(error).__name__}: {error}"))
