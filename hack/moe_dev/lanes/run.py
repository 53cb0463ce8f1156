"""Runs lanes side by side; each line says of which it is, the last one is the sum in pytest's own words.

With `check` as first argument: the fast lane, in three parts. With `long`: the tests that are marked so. Else what
both leave of all tests, side by side since those on a Ray or a control plane mostly wait. Two of these start Rays:
three that share two cores exceed bounds of tens of seconds. A control plane each costs a hundredth of a core. What
computes runs in the pauses of the others. Before them, alone, comes what judges figures. After them, alone, come tests
whose failure says little, if there are few and nothing else failed; the last lines name those that then passed.
"""

import collections
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from moe_dev.lanes import rerun
from moe_dev.lanes.plugin import ALONE, CHECK, CLUSTER, LONG, RAY, REST, WAITS
from moe_dev.paths import CLONE


class Part(NamedTuple):
    """Tests of one lane that one pytest process runs: those that `arguments` leave."""

    title: str
    lane: str | None
    niceness: int = 0
    arguments: tuple[str, ...] = ()


Turns = Sequence[Sequence[Part]]
"""One after the other; the parts of each side by side."""


def _without(*folders: str) -> tuple[str, ...]:
    return tuple(f"--ignore={folder}" for folder in folders)


# Thirds of the fast tests, by their time: what computes is mixed with what waits.
BRAIN = (
    "tests/placement", "tests/operator/rebalance", "tests/operator/offload", "tests/contract", "tests/serving/fetching",
)  # fmt: skip
OPERATOR, SERVING = "tests/operator", "tests/serving"
FAST: Turns = [
    [
        Part("brain", CHECK, 0, BRAIN),
        Part("operator", CHECK, 0, (OPERATOR, *_without(*BRAIN))),
        Part("others", CHECK, 0, _without(*BRAIN, OPERATOR)),
    ]
]
# In two, since each is one process, and the others end before them.
COMPUTES = (Part("torch", REST, 5, (SERVING,)), Part("rest", REST, 5, _without(SERVING)))
# End-to-end tests have promises in seconds to judge.
SLOW: Turns = [
    [Part("alone", ALONE)],
    [Part("ray", RAY), Part("cluster", CLUSTER), Part("waits", WAITS), *COMPUTES],
]
CLOSING = re.compile(r"^(?:=+ )?(\d+ \w+(?:, \d+ \w+)*) in [0-9.]+s(?: \([0-9:]+\))?(?: =+)?$")
COUNT = re.compile(r"(\d+) (\w+)")
# pytest's with -ra: how many, where, and why. What failed in one lane is far above the last line of the last one.
ODD = re.compile(r"^(?:SKIPPED \[\d+\]|FAILED|ERROR) \S.*$")
# pytest's, of lanes with nothing to run.
NO_TESTS = 5
FAILED = 1
FAILURES = ("failed", "error", "errors")
# More have a cause in common, that is not found by running them again.
MOST_AGAIN = 5
# In place of what pyproject.toml has pytest leave out.
ONLY_LONG = ("-m", "long and not whole")
# After Ctrl-C: a session's fixtures end a Ray and a control plane.
END_SECONDS = 60.0


class Lane:
    """One pytest process. Its lines go to our output; remembered are its closing line and what it skipped or failed."""

    def __init__(self, part: Part, arguments: Sequence[str] = ()) -> None:
        self.counts: Mapping[str, int] = {}
        self.odd: list[str] = []
        self.rerun: list[str] = []
        self._title = part.title
        lane = [f"--lane={part.lane}"] if part.lane else []
        command = [sys.executable, "-m", "pytest", *lane, "-o", f"cache_dir=.pytest_cache/{part.title}"]
        self._process = subprocess.Popen(
            ["nice", f"-n{part.niceness}", *command, *part.arguments, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=CLONE,
            # Where no bytecode is kept, each lane writes the assertions of all files anew: a tenth of a check.
            env={name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
            # A terminal's Ctrl-C comes to us alone, and is passed on once.
            process_group=0,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def wait(self, timeout: float | None = None) -> int:
        """pytest's exit code, once all it printed is printed."""
        code = self._process.wait(timeout)
        self._reader.join(timeout)
        return 0 if code == NO_TESTS else code

    def interrupt(self) -> None:
        """As Ctrl-C does: the test under way fails, fixtures end what they started."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """What has not ended when it was asked to."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - it is piped
        for line in self._process.stdout:
            print(f"{self._title:9} | {line}", end="", flush=True)
            if closing := CLOSING.match(line):
                self.counts = {what: int(count) for count, what in COUNT.findall(closing[1])}
            elif ODD.match(line):
                self.odd.append(line.rstrip())
            elif named := rerun.LINE.match(line):
                self.rerun.append(named[1])


def main(arguments: Sequence[str]) -> int:
    """The exit code: 0 where all lanes passed. All but a first word `check` or `long` goes to pytest."""
    which = arguments[0] if arguments and arguments[0] in {CHECK, LONG} else None
    asked = [*(ONLY_LONG if which == LONG else ()), *arguments[which is not None :]]
    started = time.monotonic()
    # Also where a script's `make test &` has it ignored: whoever sends one means it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    lanes: list[Lane] = []
    codes: list[int] = []
    try:
        for turn in FAST if which == CHECK else SLOW:
            lanes += [Lane(part, asked) for part in turn]
            codes += [lane.wait() for lane in lanes[len(codes) :]]
        first, names = list(lanes), may_run_again(lanes, codes)
        if names:
            options = [each for each in asked if not Path(each).is_dir()]  # the names are all to be run
            lanes.append(Lane(Part("rerun", None, 0, names), options))
            lanes[-1].wait()
            codes = [0 if lanes[-1].counts.get("passed") == len(names) else FAILED]  # a test that skips has not passed
    except KeyboardInterrupt:
        _end(lanes)
        return 128 + signal.SIGINT
    total = sum((collections.Counter(lane.counts) for lane in first), collections.Counter[str]())
    for line in sorted({line for lane in lanes for line in lane.odd}, reverse=True):  # skips first
        print(line)
    if names and not max(codes):
        total = collections.Counter({what: count for what, count in total.items() if what not in FAILURES})
        total["rerun"] = len(names)
        print(*(f"RERUN, passed alone: {name}" for name in names), sep="\n")
    print(closing_line(total, time.monotonic() - started))
    return max(codes)


def may_run_again(lanes: Sequence[Lane], codes: Sequence[int]) -> tuple[str, ...]:
    """Tests whose failure says little, where nothing else failed; none where they are many."""
    names = tuple(name for lane in lanes for name in lane.rerun)
    failures = [sum(lane.counts.get(what, 0) for what in FAILURES) for lane in lanes]
    # A lane that died has no count of its own.
    told = all(code == (FAILED if count else 0) for code, count in zip(codes, failures, strict=True))
    return names if told and sum(failures) == len(names) <= MOST_AGAIN else ()


def closing_line(counts: Mapping[str, int], seconds: float) -> str:
    """As pytest would close one run of all: what was deselected is in another lane, or in none."""
    order = ("failed", "rerun", "passed", "skipped", "xfailed", "xpassed", "warnings", "warning", "errors", "error")
    told = ", ".join(f"{counts[what]} {what}" for what in order if counts.get(what)) or "no tests ran"
    minutes, rest = divmod(int(seconds), 60)
    return f" {told} in {seconds:.2f}s ({minutes // 60}:{minutes % 60:02}:{rest:02}) ".center(80, "=")


def _end(lanes: list[Lane]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who is impatient would leave a Ray behind
    for lane in lanes:
        lane.interrupt()
    for lane in lanes:
        try:
            lane.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            lane.kill()
            lane.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
