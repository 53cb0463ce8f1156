"""Child processes that never outlive their owner, free ports, and bounded waits that say what they waited for.

Used by `controlplane`, `raylocal`, the demo and the tests. Each command runs below its own
`moe_serving.standalone.guard`.
"""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from moe_dev.progress import waiting
from moe_serving.standalone import guard
from moe_serving.standalone.guarded import start_guarded
from moe_serving.standalone.ports import free_ports

LOG_TAIL_BYTES = 3000


class ProcessError(Exception):
    """A child process did not come up, or ended when it should not have; the message ends with its last output."""


class HopelessError(Exception):
    """What is waited for will never come, such as an answer to a token that was refused; the message says why."""


@dataclass(slots=True)
class Guarded:
    """A command below its guard. `stop` ends it with everything it started."""

    name: str
    log: Path
    grace: float
    _guard: subprocess.Popen[bytes]

    @classmethod
    def start(
        cls,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
        grace: float = 5.0,
        remove: Path | None = None,
    ) -> "Guarded":
        """Start `command` with its output in `log`.

        `grace`: seconds between SIGTERM and SIGKILL when it is stopped. `remove`: a folder that goes
        when it is stopped, or when its owner dies.
        """
        process = start_guarded(command, log, grace=grace, remove=remove, environment=environment, directory=directory)
        return cls(name, log, grace, process)

    @property
    def pid(self) -> int:
        """The guard's: the command is its child."""
        return self._guard.pid

    @property
    def exit_code(self) -> int | None:
        """None while the command runs, 128 + signal for a killed one."""
        return self._guard.poll()

    def log_tail(self) -> str:
        with open(self.log, "rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - LOG_TAIL_BYTES))
            return log.read().decode(errors="replace")

    def wait(self, timeout: float) -> int:
        """The exit code; ProcessError when it still runs after `timeout` seconds."""
        try:
            code = self._guard.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ProcessError(f"{self.name} still runs after {timeout:.0f} s; {self._tail()}") from None
        self._close_pipe()
        return code

    def stop(self) -> None:
        """End the command and everything below it; does nothing when it has ended."""
        self._close_pipe()
        self.wait(self.grace + guard.KILL_SECONDS + 5.0)

    def kill(self) -> None:
        """End the command with SIGKILL, as a crash would, and then what it leaves behind."""
        self._guard.send_signal(guard.CRASH)
        self.wait(guard.KILL_SECONDS + 5.0)

    def wait_until(
        self, what: str, ready: Callable[[], str | None], timeout: float, beside: Sequence["Guarded"] = ()
    ) -> None:
        """Poll `ready`, which says what is still missing or None, until None.

        `beside`: other processes without which it will never come. ProcessError after `timeout`, and at once when one
        of the processes has ended or `ready` raises HopelessError.
        """
        deadline = time.monotonic() + timeout
        with waiting(what):
            while (missing := self._missing(what, ready)) is not None:
                for process in (self, *beside):
                    process.check(f" while waiting for {what}")
                if time.monotonic() > deadline:
                    raise ProcessError(f"waited {timeout:.0f} s for {what}: {missing}; {self._tail()}")
                time.sleep(0.1)

    def check(self, when: str = "") -> None:
        """ProcessError when the command has ended."""
        if self.exit_code is not None:
            raise ProcessError(f"{self.name} ended with {self.exit_code}{when}; {self._tail()}")

    def _missing(self, what: str, ready: Callable[[], str | None]) -> str | None:
        try:
            return ready()
        except HopelessError as error:
            raise ProcessError(f"waiting for {what} is of no use: {error}; {self._tail()}") from None

    def _close_pipe(self) -> None:
        if self._guard.stdin is not None:
            self._guard.stdin.close()

    def _tail(self) -> str:
        return f"the end of {self.log}:\n{self.log_tail()}"


@contextlib.contextmanager
def port_or_free(wanted: int) -> Iterator[int]:
    """`wanted` where nothing listens on it and nobody else has it from here, else a free port; others ask in vain until
    the end of the context, since a Ray needs many seconds until it listens.
    """
    with socket.socket(socket.AF_UNIX) as claim, socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            claim.bind(f"\0moe-operator-port-{wanted}")  # of the network namespace, as a port is
            probe.bind(("127.0.0.1", wanted))
            port = wanted
        except OSError:
            port = free_ports(1)[0]
        probe.close()
        yield port
