"""Commands of the set-up, run by several threads at once; `together` ends all when one fails. Only standard library."""

import contextlib
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

OUTPUT_CHARACTERS = 4000

_lock = threading.Lock()
_running: set[subprocess.Popen[str]] = set()
_stopped = threading.Event()


class SetupError(Exception):
    """A step of the set-up failed; the message ends with the output of what failed."""


class StoppedError(Exception):
    """Something beside it failed first: nothing to tell."""


def together(*tasks: Callable[[], object]) -> None:
    """Run all at once; when one fails, or on Ctrl-C, end the commands of the others and raise what came first."""
    with ThreadPoolExecutor(len(tasks)) as pool:
        under_way = [pool.submit(task) for task in tasks]
        try:
            for task in as_completed(under_way):
                task.result()
        except BaseException:
            _stop()
            raise


def run(command: Sequence[str], *, environment: Mapping[str, str], directory: Path | None = None) -> None:
    """SetupError with its last output when it fails, StoppedError when all is to end."""
    with tempfile.TemporaryFile("w+") as output:
        with _lock:
            check_stopped()
            process = subprocess.Popen(command, env=environment, cwd=directory, stdout=output, stderr=output, text=True)
            _running.add(process)
        try:
            status = process.wait()
        finally:
            with _lock:
                _running.discard(process)
        check_stopped()
        if status != 0:
            output.seek(0)
            said = output.read()[-OUTPUT_CHARACTERS:]
            raise SetupError(f"{' '.join(command)} failed with status {status}:\n{said}")


def check_stopped() -> None:
    """StoppedError when all is to end."""
    if _stopped.is_set():
        raise StoppedError


def _stop() -> None:
    with _lock:
        _stopped.set()
        for process in _running:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
