"""Print what recording the traffic takes of an attention process, in CPU time of the threads that do it.

python -m benchmarks.recorder [--model models/tiny] [--steps 1000] [--json build/recorder.json]

A real engine decodes 8 sequences with its experts in 2 shard processes, and reports to a directory as on Ray. Counted
are the engine thread's part of each layer, filing and counting windows, gathering and packing statistics, and files of
traffic as ``spec.rebalance.record`` asks for them, of which one is written at the end of however short a run; beside
them what this process took, but for the thread of the directory and of all reports. Exit 1 where the recorder takes
more than 1% of it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# The tests' process tree.
sys.path.insert(0, str(ROOT / "tests" / "serving"))

import driver  # noqa: E402
from cluster import LocalCluster  # noqa: E402
from driver import complete, greedy, running_engine  # noqa: E402

from moe_contract.applications import AttentionConfig, RecordConfig  # noqa: E402
from moe_serving.routing.client import RemoteExperts  # noqa: E402

BATCH, SHARDS = 8, 2
driver.WAIT_S = 1800.0  # other work on the machine lengthens a run, and changes no figure
AIM = 0.01


@dataclass(frozen=True, slots=True)
class Row:
    """Seconds of CPU, and times called."""

    what: str
    seconds: float
    calls: int


class _Within(threading.local):
    """Seconds of the timed calls that the one under way has made, in each thread."""

    seconds = 0.0


class Clock:
    """Adds up what calls take of the thread that makes them, without what timed calls take that they make.

    A step leaves the clock's own way out of all caches, and one reading of it then takes 4 µs, as much as some of these
    calls: it is read once more before, so that only a warm reading is counted.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self._within = _Within()
        self._lock = threading.Lock()

    def time(self, owner: Any, method: str, what: str) -> None:
        call: Callable[..., Any] = getattr(owner, method)
        within = self._within

        def timed(*arguments: Any) -> Any:
            outer, within.seconds = within.seconds, 0.0
            time.thread_time()
            began = time.thread_time()
            try:
                return call(*arguments)
            finally:
                taken = time.thread_time() - began
                own, within.seconds = taken - within.seconds, outer + taken
                with self._lock:
                    self.seconds[what] += own
                    self.calls[what] += 1

        setattr(owner, method, timed)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "tiny")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "recorder.json")
    options = parser.parse_args(arguments)
    rows, process = measure(options.model, options.steps)
    for row in rows:
        print(f"{row.what:<34}{row.seconds:>9.3f} s {row.seconds / process:>8.2%} {row.calls:>8} calls")
    part = sum(row.seconds for row in rows) / process
    print(f"{'together':<34}{part * process:>9.3f} s {part:>8.2%}   of {process:.2f} s; aim {AIM:.0%}")
    options.json.parent.mkdir(exist_ok=True)
    options.json.write_text(json.dumps({"rows": [asdict(row) for row in rows], "process_seconds": process}) + "\n")
    return int(part > AIM)


def measure(model: Path, steps: int) -> tuple[list[Row], float]:
    """What recording took, and the process in all steps but the first ones, which load and compile."""
    clock = Clock()
    with LocalCluster.start(model, SHARDS) as cluster, tempfile.TemporaryDirectory() as folder:
        cluster.place(SHARDS, copies=1)
        experts = cluster.client()
        with running_engine(model, AttentionConfig(max_running=BATCH), experts, experts.note_step) as engine:
            prompts = [tuple(range(5 + 10 * row, 13 + 10 * row)) for row in range(BATCH)]
            complete(engine, prompts, greedy(8), BATCH)
            instrument(clock, experts)
            experts.traces.configure(RecordConfig(path=folder))
            before = attention_seconds(cluster)
            complete(engine, prompts, greedy(steps), BATCH)
            taken = attention_seconds(cluster) - before
            # The last window of statistics and the last file, which would end a little later.
            experts.take_windows()
            experts.take_statistics()
            experts.traces.close()
    return [Row(what, clock.seconds[what], clock.calls[what]) for what in clock.seconds], taken


def instrument(clock: Clock, experts: RemoteExperts[Any]) -> None:
    recorder, gatherer = experts._recorder, experts.gatherer
    for method in ("record", "record_again"):
        clock.time(recorder, method, "in the step: ids, gates, shards")
    clock.time(recorder, "note_step", "in the step: how long it took")
    clock.time(recorder, "_file", "filing a few steps at once")
    clock.time(recorder, "take", "off the step: windows and sets")
    clock.time(gatherer, "take", "off the step: statistics")
    clock.time(experts.traces, "_try", "off the step: files of traffic")


def attention_seconds(cluster: LocalCluster) -> float:
    """CPU time of this process without the thread in which the cluster's directory lives."""
    directory = time.clock_gettime(time.pthread_getcpuclockid(cluster.thread_ident))
    return time.process_time() - directory


if __name__ == "__main__":
    sys.exit(main())
