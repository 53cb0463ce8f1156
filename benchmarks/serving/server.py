"""A ``moe-serve`` of our own to put load on."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from moe_serving.standalone.ports import free_ports

_START_S = 180.0
_END_S = 60.0


@contextmanager
def own_server(model: Path, options: Sequence[str] = ()) -> Iterator[str]:
    """``model`` in float32 on a free port of loopback, served under the name ``model``; ends with the block.

    Yields:
        The address of its API, with ``/v1`` at its end.

    Raises:
        RuntimeError: it ended, or was not ready within three minutes; the text is what it printed.
    """
    (port,) = free_ports(1)
    wanted = ["--model", str(model), "--served-name", "model", "--dtype", "float32", "--port", str(port), *options]
    with tempfile.TemporaryFile("w+") as printed:
        process = subprocess.Popen(
            [sys.executable, "-m", "moe_serving", *wanted], stdout=printed, stderr=subprocess.STDOUT
        )
        try:
            yield _wait_ready(process, printed.fileno())
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_ready(process: subprocess.Popen[bytes], printed: int) -> str:
    end = time.monotonic() + _START_S
    while True:
        text = Path(f"/proc/self/fd/{printed}").read_text()
        if ready := re.search(r"ready: (\S+)", text):
            return ready.group(1)
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"moe-serve did not become ready:\n{text}")
        time.sleep(0.2)
