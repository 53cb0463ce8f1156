"""How a command ends: exit codes, and the errors that lead to them.

PluginError          1  kubectl or the API server refused, for a reason of its own
├── UsageError       2  the command line cannot be meant so
├── NotThereError    3  there is no such MoEDeployment or revision, or the kinds are not installed
├── RightError       4  the user lacks a right, or is not let in
├── UnreachableError 5  the API server, or the deployment, does not answer
└── RefusedError     6  it cannot be done as things are
    ├── TakenError      there is an object of that name already
    └── ChangedError    somebody else changed the object meanwhile
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar

from moe_operator.errors import OperatorError


class Exit(IntEnum):
    """Exit codes of ``kubectl moe``; scripts may rely on them."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_THERE = 3
    RIGHT_MISSING = 4
    UNREACHABLE = 5
    REFUSED = 6


class PluginError(OperatorError):
    """A command failed; the message is for whoever typed it."""

    exit: ClassVar[Exit] = Exit.FAILED


class UsageError(PluginError):
    """The command line cannot be meant so."""

    exit = Exit.USAGE


class NotThereError(PluginError):
    """What the command is about does not exist."""

    exit = Exit.NOT_THERE


class RightError(PluginError):
    """The user may not do this; the message names what gives the right."""

    exit = Exit.RIGHT_MISSING


class UnreachableError(PluginError):
    """No answer."""

    exit = Exit.UNREACHABLE


class RefusedError(PluginError):
    """It cannot be done as things are."""

    exit = Exit.REFUSED


class TakenError(RefusedError):
    """There is an object of that name already."""


class ChangedError(RefusedError):
    """Somebody else changed the object meanwhile."""
