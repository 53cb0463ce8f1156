"""Errors of offloaded work.

OffloadError
├── JobTooHeavyError   it took more time or memory than it may: it would again
├── JobDelayedError    it did not get its turn in time: others took it
└── JobLostError       the process ended for another reason: it may succeed next time
"""

from __future__ import annotations

from moe_operator.errors import OperatorError


class OffloadError(OperatorError):
    """A job did not come to its end."""


class JobTooHeavyError(OffloadError):
    """It took more time or memory than it may; the message says which, as in ``took more than 5 s``."""


class JobDelayedError(OffloadError):
    """It was not begun in time, since others had their turn."""


class JobLostError(OffloadError):
    """The process ended under it."""
