"""Says what a long step does and for how long it has been at it. Standard library only."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

HEARTBEAT_SECONDS = 15.0

_started = time.monotonic()
_print_lock = threading.Lock()


def elapsed() -> float:
    """Seconds since the program started."""
    return time.monotonic() - _started


def say(text: str) -> None:
    """Print one line stamped with the seconds since the program started; safe to call from several threads."""
    with _print_lock:
        print(f"[{elapsed():6.1f} s] {text}", file=sys.stdout, flush=True)


@contextmanager
def step(text: str) -> Iterator[None]:
    """Announce a step, repeat every HEARTBEAT_SECONDS that it still runs, and say how long it took when it was long."""
    begun = time.monotonic()
    done = threading.Event()

    def heartbeat() -> None:
        while not done.wait(HEARTBEAT_SECONDS):
            say(f"  … still {text} ({time.monotonic() - begun:.0f} s)")

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
