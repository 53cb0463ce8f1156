"""Tells tests whose failure says little from those that judged something and found it false.

A bounded wait may come to its end on cores which other lanes share, and the garbage collector finds during one test
what another left behind. `moe_dev.lanes.run` has such tests run once more, alone. What was judged is never run again: a
wrong token that comes once in two runs is a wrong token.
"""

import os
import re
from collections.abc import Generator

import pytest

from moe_dev.ray_waits import ray_gave_up

MARK = "RERUN"
LINE = re.compile(rf"^{MARK} (\S.*)$")
"""As a lane's pytest prints them, with the test as an argument of the next run."""

# Bounded waits of the tests' own; what libraries raise has it in the name of a class.
WAITED = re.compile("waited [0-9.]+ s for ")
TIMEOUT = re.compile("Timeout")

_failed = pytest.StashKey[dict[str, bool]]()
"""By test that failed: whether all its failures (its own, and those of its fixtures) say little."""


def says_little(error: BaseException) -> bool:
    """Whether a wait came to its end, or what was found is of another test."""
    if isinstance(error, BaseExceptionGroup):
        return all(says_little(each) for each in error.exceptions)
    if isinstance(error, pytest.PytestUnraisableExceptionWarning):
        return True
    if any(TIMEOUT.search(kind.__name__) for kind in type(error).__mro__):
        return True
    said = str(error)
    # Ray's own wait, in what a test quotes of its output: whatever was to be judged never began.
    return WAITED.match(said) is not None or ray_gave_up(said)


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_failed] = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        failed = item.config.stash[_failed]
        # As an argument of the next run, also of a file outside the clone.
        name = f"{os.path.relpath(item.path)}::{item.nodeid.partition('::')[2]}"
        failed[name] = call.excinfo is not None and says_little(call.excinfo.value) and failed.get(name, True)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for name in sorted(name for name, again in config.stash[_failed].items() if again):
        terminalreporter.write_line(f"{MARK} {name}")
