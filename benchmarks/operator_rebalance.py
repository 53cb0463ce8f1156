"""Print what rebalancing costs the operator: memory, looks that came late, and how late its signs of life are.

python -m benchmarks.operator_rebalance [--deployments 20] [--interval 30] [--seconds 240] [--json build/operator.json]

One operator process, in an environment with the packages of its image, works on a real API server. The Ray clusters are
simulated over HTTP, at the edge: each directory tells statistics of traffic that goes on. First there are small
deployments (6 layers of 16 experts, 4 shards), with mode Off for comparison, then with Auto; then, beside them, one of
58 layers of 256 experts on 64 shards, whose plans take seconds. Memory is what is resident of the operator and its
processes, unchanged pages of a file that several have counted once; the sum that counts them for each stands beside it.
The aim for it is of the small ones with Auto.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# The fakes of the operator's tests.
sys.path[:0] = [str(ROOT / "hack"), str(ROOT / "tests" / "operator")]

import numpy as np  # noqa: E402
import psutil  # noqa: E402
from aiohttp import web  # noqa: E402
from fake_ray import FakeDirectory, FakeRay, running, told_directory  # noqa: E402

from benchmarks.brain.report import Row, conclude, print_rows  # noqa: E402
from moe_contract.model import ModelFacts  # noqa: E402
from moe_contract.report import INTERNAL_STATISTICS_PATH, DirectoryReport  # noqa: E402
from moe_dev.controlplane import ControlPlane  # noqa: E402
from moe_dev.environment import make_operator_environment  # noqa: E402
from moe_dev.kube import Kubectl  # noqa: E402
from moe_dev.operator_process import OperatorProcess, install  # noqa: E402
from moe_operator.leader.lease import LeaseSettings  # noqa: E402
from moe_placement.statistics import RoutingStatistics, encode_statistics  # noqa: E402

MOST_MEMORY_MB, MOST_LAG_S = 300.0, 1.0
WINDOW_S = 10.0
SMALL = (6, 16, 2, 4)
LARGE = (58, 256, 8, 64)
"""Layers, experts, experts of a token, shards."""
ROWS = {SMALL: 2000, LARGE: 1000}
"""In each window."""
NAMESPACE = "default"

Shape = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Look:
    """At the traffic of the deployment with a route; ``revision``: that it ran then."""

    route: str
    at: float
    revision: int


@dataclass
class Cluster:
    """A Ray on which deployments of one shape run, and the traffic that all of them have."""

    shape: Shape
    random: np.random.Generator
    looks: list[Look] = field(default_factory=list)
    fake: FakeRay = field(init=False)

    def __post_init__(self) -> None:
        layers, experts, top_k, _ = self.shape
        facts = ModelFacts(
            digest="sha256:" + "a" * 64, architecture="Mixtral", layers=layers, experts=experts, top_k=top_k,
            bytes_per_expert=393216, dtype="float32", max_context=1024,
        )  # fmt: skip
        self.fake = FakeRay(report=Busy(facts, nodes=("node-0", "node-1")), override=self._answer)
        self._rate = self.random.normal(size=(8, layers, experts))
        self._statistics = RoutingStatistics(layers, experts, top_k, seed=1, window_tokens=None)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        route = request.path.removesuffix(INTERNAL_STATISTICS_PATH)
        if route != request.path:
            core = next(each for each in self.fake.configs.values() if each.get("route_prefix") == route)
            self.looks.append(Look(route, time.monotonic(), told_directory(core).revision))
        return await self.fake.answer(request)

    def spec(self, mode: str, interval: float) -> dict[str, Any]:
        rebalance = {"mode": mode, "interval": f"{interval:.0f}s", "cooldown": f"{interval:.0f}s"}
        return self.fake.spec(self.shape[3], rebalance=rebalance)

    def pass_window(self) -> None:
        """Traffic of one more window: each row is about one of eight topics."""
        top_k = self.shape[2]
        topics = self._rate[self.random.integers(0, 8, ROWS[self.shape])]
        noisy = topics + self.random.gumbel(size=topics.shape)
        ids = np.argpartition(-noisy, top_k - 1, axis=2)[:, :, :top_k].astype(np.int16)
        self._statistics.decay(0.998)
        self._statistics.add(ids)
        self._statistics.close_window()
        self.fake.statistics = encode_statistics(self._statistics)


class Busy(FakeDirectory):
    """It has requests that run."""

    def __call__(self, config: dict[str, Any]) -> DirectoryReport | None:
        report = super().__call__(config)
        if report is None:
            return None
        attention = tuple(each.model_copy(update={"running": 8}) for each in report.attention)
        return report.model_copy(update={"attention": attention})


@dataclass
class Watcher:
    """What is seen of an operator from outside, at worst, until ``restart``.

    Attributes:
        memory, summed: MB, resident, of it and its children; pages of a file once, and for each.
        healthz: seconds until an answer.
        lease: seconds by which a renewal came later after the one before than it should.
        accepted: looks that ended so.
        failed: how those ended that did not end with a decision.
    """

    kubectl: Kubectl
    operator: OperatorProcess
    memory: float = 0.0
    summed: float = 0.0
    healthz: float = 0.0
    lease: float = 0.0
    failed: set[str] = field(default_factory=set)
    accepted: int = 0
    _renewed: float | None = None
    _last: dict[str, str] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._probe), threading.Thread(target=self._weigh)]
        streams = [
            self._stream(self._note_lease, "lease", "moe-operator", "-n", "moe-system"),
            self._stream(self._note_looks, "moe", "-n", NAMESPACE),
        ]
        for thread in (*threads, *(thread for thread, _ in streams)):
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread, process in streams:
                process.kill()
                thread.join()
                process.wait()
            for thread in threads:
                thread.join()

    def restart(self) -> None:
        """Forget what was worst so far."""
        self.memory = self.summed = self.healthz = self.lease = 0.0
        self.accepted = 0
        self.failed.clear()

    def _stream(
        self, note: Callable[[dict[str, Any]], None], *what: str
    ) -> tuple[threading.Thread, subprocess.Popen[str]]:
        """Every state of some objects, as it comes."""
        command = [
            str(self.kubectl.binary),
            f"--kubeconfig={self.kubectl.kubeconfig}",
            "get",
            *what,
            "-w",
            "-o",
            "json",
        ]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

        def read() -> None:
            text, decoder = "", json.JSONDecoder()
            for line in process.stdout or ():
                text += line
                if line.rstrip() == "}":
                    found, _ = decoder.raw_decode(text)
                    text = ""
                    for each in found.get("items", [found]):
                        note(each)

        return threading.Thread(target=read), process

    def _note_lease(self, lease: dict[str, Any]) -> None:
        renewed = _seconds(lease["spec"]["renewTime"])
        if self._renewed is not None:
            period = LeaseSettings("", "", "").retry_period
            self.lease = max(self.lease, renewed - self._renewed - period)
        self._renewed = renewed

    def _note_looks(self, moe: dict[str, Any]) -> None:
        name, told = moe["metadata"]["name"], moe.get("status", {}).get("rebalance", {})
        decision = told.get("lastDecision")
        if decision and decision["time"] != self._last.get(name):
            self._last[name] = decision["time"]
            self.accepted += decision["result"] == "Accepted"
            if decision["result"] == "Failed":
                self.failed.add(f"{name}: {decision['reason']}: {decision['message']}")

    def _probe(self) -> None:
        while not self._stop.wait(0.1):
            begun = time.monotonic()
            with urllib.request.urlopen(f"{self.operator.url}/healthz", timeout=60):
                self.healthz = max(self.healthz, time.monotonic() - begun)

    def _weigh(self) -> None:
        main = _operator(self.operator)
        while not self._stop.wait(0.5):
            once, each = _resident([main, *main.children(recursive=True)])
            self.memory, self.summed = max(self.memory, once), max(self.summed, each)


def _resident(processes: Sequence[psutil.Process]) -> tuple[float, float]:
    """MB of some processes, with unchanged pages of a file once, and for each of them."""
    own, of_file, summed = 0.0, dict[str, float](), 0.0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            for part in process.memory_maps():
                clean = part.shared_clean + part.private_clean if part.path.startswith("/") else 0
                own += part.rss - clean
                of_file[part.path] = max(of_file.get(part.path, 0.0), clean)
                summed += part.rss
    return (own + sum(of_file.values())) / 1e6, summed / 1e6


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def _operator(operator: OperatorProcess) -> psutil.Process:
    bind = f"--bind={operator.url.removeprefix('http://')}"
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.cmdline()[1:3] == ["-m", "moe_operator"] and bind in process.cmdline():
                return process
    raise LookupError(f"no operator runs with {bind}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deployments", type=int, default=20)
    parser.add_argument("--interval", type=float, default=30.0, help="seconds between two looks at each")
    parser.add_argument("--seconds", type=float, default=240.0, help="of each of the three parts")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args(arguments)
    rows = measure(options.deployments, options.interval, options.seconds)
    print_rows(rows)
    return conclude(rows, options.json)


def measure(deployments: int, interval: float, seconds: float) -> list[Row]:
    """The three parts, each for so many seconds; ``interval``: of ``spec.rebalance``."""
    random = np.random.default_rng(3)
    small, large = Cluster(SMALL, random), Cluster(LARGE, random)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        plane = stack.enter_context(ControlPlane.start(Path(folder), controllers=False))
        install(plane.kubectl)
        for cluster in (small, large):
            cluster.pass_window()
            stack.enter_context(running(cluster.fake))
        python = make_operator_environment(Path(folder) / "environment")
        operator = OperatorProcess.start(plane.kubectl, Path(folder), python=python)
        stack.callback(operator.stop)
        watcher = Watcher(plane.kubectl, operator)
        stack.enter_context(watcher.watching())
        names = [f"small-{number}" for number in range(deployments)]
        measured = partial(_part, watcher=watcher, interval=interval, seconds=seconds)
        _apply(plane.kubectl, names, small.spec("Off", interval))
        rows = measured(1, f"{deployments} small, Off", clusters=[small], looked_at=0)
        _apply(plane.kubectl, names, small.spec("Auto", interval))
        rows += measured(2, f"{deployments} small", clusters=[small], looked_at=len(names), most_memory=MOST_MEMORY_MB)
        _apply(plane.kubectl, ["large"], large.spec("Auto", interval))
        rows += measured(3, "and a large one", clusters=[small, large], looked_at=len(names) + 1)
    return rows


def _apply(kubectl: Kubectl, names: Sequence[str], spec: dict[str, Any]) -> None:
    kind = {"apiVersion": "moe-operator.io/v1alpha1", "kind": "MoEDeployment"}
    items = [{**kind, "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec} for name in names]
    kubectl.apply({"apiVersion": "v1", "kind": "List", "items": items})


def _part(
    part: int,
    what: str,
    watcher: Watcher,
    clusters: Sequence[Cluster],
    interval: float,
    seconds: float,
    looked_at: int,
    most_memory: float | None = None,
) -> list[Row]:
    """Traffic for so long; what was seen meanwhile. ``looked_at``: deployments whose traffic is to be looked at."""
    watcher.restart()
    for cluster in clusters:
        cluster.looks.clear()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        begun = time.monotonic()
        for cluster in clusters:
            cluster.pass_window()
        time.sleep(max(0.0, WINDOW_S - (time.monotonic() - begun)))
        watcher.operator.process.check()  # of one that has ended nothing is large, late or failed
    for failure in sorted(watcher.failed):
        print(failure)
    return [
        Row(part, f"{what}: memory, MB", watcher.memory, most_memory),
        Row(part, f"{what}: memory, each process by itself, MB", watcher.summed),
        Row(part, f"{what}: looks", sum(len(cluster.looks) for cluster in clusters)),
        Row(part, f"{what}: looked at twice or more", sum(map(_twice, clusters)), looked_at, at_most=looked_at == 0),
        Row(part, f"{what}: of them accepted", watcher.accepted),
        Row(part, f"{what}: of them failed, by deployment", len(watcher.failed), 0),
        Row(part, f"{what}: longest from look to look, s", max(map(_longest, clusters)), 2 * interval),
        Row(part, f"{what}: slowest answer of /healthz, s", watcher.healthz, MOST_LAG_S),
        Row(part, f"{what}: latest renewal of the Lease, s", watcher.lease, MOST_LAG_S),
    ]


def _twice(cluster: Cluster) -> int:
    """Deployments that were looked at more than once: of others no time from look to look is known."""
    return sum(times > 1 for times in Counter(look.route for look in cluster.looks).values())


def _longest(cluster: Cluster) -> float:
    """Seconds between two looks at a deployment that ran the same placement: after a move none is due for a while."""
    gaps = [0.0]
    for route in {look.route for look in cluster.looks}:
        for before, after in pairwise(look for look in cluster.looks if look.route == route):
            gaps.append(after.at - before.at if before.revision == after.revision else 0.0)
    return max(gaps)


if __name__ == "__main__":
    sys.exit(main())
