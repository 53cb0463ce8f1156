"""What a test of the fast lane must not do: import torch, or start a control plane, a Ray or a demo.

It would take seconds of everybody's minutes. Python's audit events tell of both before they happen.
"""

import os
import sys
from collections.abc import Sequence

MODULE = "torch"
# By the marker of those that may.
PROGRAMS = {
    "etcd": "e2e",
    "kube-apiserver": "e2e",
    "kube-controller-manager": "e2e",
    "prometheus": "e2e",
    "ray": "ray",
    "gcs_server": "ray",
}

_done: list[str] = []


class ForbiddenError(Exception):
    """A test of `make check` did what that does without; the message says what, and how to mark the test."""


def watch() -> None:
    """From now on, for the life of the process."""
    sys.addaudithook(_judge)


def forget() -> None:
    """Nothing was done so far."""
    _done.clear()


def check() -> None:
    """Raises ForbiddenError where something was done, and the error of that time was swallowed."""
    if _done:
        raise ForbiddenError("\n".join(_done))


def _judge(event: str, arguments: tuple[object, ...]) -> None:
    if event == "import" and arguments[0] == MODULE:
        _refuse("imports torch", "torch")
    elif event == "subprocess.Popen":
        _judge_command(arguments[1])


def _judge_command(words: object) -> None:
    command = [os.fsdecode(word) for word in words] if isinstance(words, Sequence) else []
    if "--version" in command:
        return
    # A bare name further on is something said about the program.
    names = {os.path.basename(word) for place, word in enumerate(command) if place == 0 or "/" in word}
    if started := names & PROGRAMS.keys():
        program = min(started)
        _refuse(f"starts {program}", PROGRAMS[program])
    elif "make" in names and "demo" in command:
        _refuse("starts a demo", "ray")


def _refuse(what: str, marker: str) -> None:
    message = f"a test of `make check` {what}: mark it pytest.mark.{marker}, or do without"
    _done.append(message)
    raise ForbiddenError(message)
