"""What the process ends with, and the way out that waits for nothing."""

from __future__ import annotations

import contextlib
import logging
import os
from enum import IntEnum
from typing import NoReturn

from moe_operator.kube.credentials import forget_files


class ExitCode(IntEnum):
    """What the process ends with; 2 is the command line's."""

    OK = 0
    """Stopped by a signal."""
    FAILED = 1
    """Something broke down; start it again."""
    NO_ACCESS = 3
    """No access to Kubernetes, or the port is taken: starting again helps only once that is mended."""
    LEADERSHIP_LOST = 4
    """Another process leads, or the Lease could not be renewed; start it again as a standby."""


def leave_at_once(code: ExitCode) -> NoReturn:
    """End the process now, whatever its threads and tasks do; only what was logged is still written."""
    for handler in logging.getLogger().handlers:
        with contextlib.suppress(OSError, ValueError):
            handler.flush()
    leave_without_a_word(code)


def leave_without_a_word(code: int) -> NoReturn:
    """The same where not even the log may be waited for."""
    forget_files()
    os._exit(code)
