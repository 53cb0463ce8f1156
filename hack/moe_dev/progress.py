"""Says what a long step does, for how long it has been at it and what it waits for. Standard library only."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

HEARTBEAT_SECONDS = 15.0

_started = time.monotonic()
_print_lock = threading.Lock()
_waits: list[str] = []


def elapsed() -> float:
    """Seconds since the program started."""
    return time.monotonic() - _started


def say(text: str) -> None:
    """Print one line stamped with the seconds since the program started; safe to call from several threads."""
    with _print_lock:
        print(f"[{elapsed():6.1f} s] {text}", file=sys.stdout, flush=True)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """While the block lasts, steps under way say that they wait for `what`; safe to use in several threads."""
    _waits.append(what)
    try:
        yield
    finally:
        _waits.remove(what)


@contextmanager
def step(text: str) -> Iterator[None]:
    """Announce a step, repeat every HEARTBEAT_SECONDS that it still runs, and say how long it took when it was long."""
    begun = time.monotonic()
    done = threading.Event()

    def heartbeat() -> None:
        while not done.wait(HEARTBEAT_SECONDS):
            what = f", waiting for {' and '.join(_waits)}" if _waits else ""
            say(f"  … still {text} ({time.monotonic() - begun:.0f} s{what})")

    say(text)
    thread = threading.Thread(target=heartbeat, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    if time.monotonic() - begun > HEARTBEAT_SECONDS:
        say(f"  done: {text} ({time.monotonic() - begun:.0f} s)")
