"""Tells tests that failed since something was not there in time from those that failed in what they judge.

The first says little on cores which other lanes share, so `moe_dev.lanes.run` has such tests run once more, alone. What
was judged and found false is never run again: a wrong token that comes once in two runs is a wrong token.
"""

import os
import re
from collections.abc import Generator

import pytest

MARK = "LATE"
LINE = re.compile(rf"^{MARK} (\S.*)$")
"""As a lane's pytest prints them, with the test's id."""

# Bounded waits of the tests' own; what libraries raise has it in the name of a class.
WAITED = re.compile(r"^(Failed: |AssertionError: )?waited [\d.]+ s for ")
TIMEOUTS = re.compile("Timeout")

_lates = pytest.StashKey[dict[str, bool]]()
"""By test that failed: whether all its failures (its own, and those of its fixtures) were late."""


def is_late(error: BaseException) -> bool:
    """Whether a bounded wait came to its end."""
    if any(TIMEOUTS.search(kind.__name__) for kind in type(error).__mro__):
        return True
    return bool(WAITED.match(str(error)))


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_lates] = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        lates = item.config.stash[_lates]
        late = call.excinfo is not None and is_late(call.excinfo.value)
        # As an argument of the next run, also of a file outside the clone.
        name = f"{os.path.relpath(item.path)}::{item.nodeid.partition('::')[2]}"
        lates[name] = late and lates.get(name, True)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for name in sorted(name for name, late in config.stash[_lates].items() if late):
        terminalreporter.write_line(f"{MARK} {name}")
