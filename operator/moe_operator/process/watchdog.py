"""A thread that ends the process where its event loop cannot.

A loop that is blocked renews no Lease, hears no signal and ends nothing; threads that hang keep Python from ending.
What must not outlast its time is therefore judged here, by a clock of its own and without anything that the rest could
hold: no lock, no logging, no loop.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from moe_operator.leader.elector import boot_clock
from moe_operator.process.exits import ExitCode, leave_without_a_word
from moe_operator.telemetry.logs import last_words

LOOK_SECONDS = 0.5
LOOP_SECONDS = 55.0
"""For which the event loop may give no sign of life."""
END_SECONDS = 15.0
"""Bound on the orderly end of the process."""


class Watchdog:
    """One per process.

    Args:
        leave: ends the process with a code, at once; called in the watchdog's thread.
        clock: in seconds, those in which the machine slept included.
    """

    def __init__(
        self, leave: Callable[[int], object] = leave_without_a_word, clock: Callable[[], float] = boot_clock
    ) -> None:
        self._leave = leave
        self._clock = clock
        self._seen = clock()
        self._end_by: float | None = None
        self._overstayed: Callable[[], bool] = lambda: False
        self._stopped = threading.Event()

    def start(self) -> None:
        """From now on."""
        self._seen = self._clock()
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """No more; for tests, since the thread ends with the process."""
        self._stopped.set()

    def loop_lives(self) -> None:
        """A sign of life of the event loop."""
        self._seen = self._clock()

    def guard_lease(self, overstayed: Callable[[], bool]) -> None:
        """End the process when ``overstayed`` says that others may lead; it is called in the watchdog's thread."""
        self._overstayed = overstayed

    def ending(self) -> None:
        """The process is about to end, and is ended if it takes too long."""
        if self._end_by is None:
            self._end_by = self._clock() + END_SECONDS

    def judge(self) -> None:
        """End the process if it is time."""
        now = self._clock()
        if self._overstayed():
            self._go(ExitCode.LEADERSHIP_LOST, "the Lease has run out and the process had not ended by itself")
        elif self._end_by is not None and now > self._end_by:
            self._go(ExitCode.FAILED, f"the process did not end within {END_SECONDS:.0f} s")
        elif now - self._seen > LOOP_SECONDS:
            self._go(ExitCode.FAILED, f"the event loop gave no sign of life for {now - self._seen:.0f} s")

    def _run(self) -> None:
        while not self._stopped.wait(LOOK_SECONDS):
            self.judge()

    def _go(self, code: ExitCode, why: str) -> None:
        last_words(f"{why}: ended with code {code:d}")
        self._leave(code)
