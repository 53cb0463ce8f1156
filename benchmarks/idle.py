"""Print what a deployment costs that nobody asks anything: processor time of each process of an idle demo.

python -m benchmarks.idle [--rest 60] [--seconds 120] [--json build/idle.json]

Runs the demo of this repository (examples/01-tiny.yaml: a small model on four shards, two copies of each expert), rests
after its one answer, and reads the times of all its processes from /proc before and after. What Ray, Serve and
Kubernetes take stands beside it; and what a replica takes on the same Ray that does nothing at all, for that is in each
of ours. The aim that our own (api, attention, directory, shards, operator) together take 3% of a core cannot be
met by processes of Ray: replicas that do nothing take more (docs/architecture.md, Idle).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from moe_contract.serve.merge import Change
from moe_serving.standalone.serve_rest import ServeRest

ROOT = Path(__file__).resolve().parents[1]
AIM_PERCENT = 3.0
RAY_START = ["-m", "ray.scripts.scripts", "start"]
READY_S, END_S = 400.0, 90.0
OURS = {
    "api": r"ray::\S*:api\b",
    "attention": r"ray::\S*:attention\b",
    "directory": r"ray::\S*:directory\b",
    "shards": r"ray::\S*:experts\b",
    "operator": r"-m moe_operator run",
}
NOTHING = "nothing"
OTHERS = {
    NOTHING: r"ray::\S*:nothing\b",
    "Serve's controller": r"ray::ServeController",
    "Serve's proxies": r"ray::ProxyActor",
    "Ray: raylet": r"/raylet/raylet ",
    "Ray: gcs_server": r"/gcs_server ",
    "Ray: dashboard": r"dashboard/dashboard\.py|ray-dashboard|ray::DashboardHead",
    "Ray: agents": r"dashboard/agent\.py|runtime_env/agent|ray::DashboardAgent|ray::RuntimeEnvAgent",
    "Ray: idle workers": r"ray::IDLE",
    "Kubernetes: API server": r"kube-apiserver",
    "Kubernetes: etcd": r"\betcd ",
}
REST = "all else"


@dataclass(frozen=True, slots=True)
class Row:
    """Processes of one kind.

    Attributes:
        ours: whether they count.
        processes: how many.
        percent: of one core, of all of them together.
    """

    what: str
    ours: bool
    processes: int
    percent: float


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rest", type=float, default=60, help="seconds between the demo's answer and the measurement")
    parser.add_argument("--seconds", type=float, default=120, help="measured")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args(arguments)
    rows = measure(options.rest, options.seconds)
    total = sum(row.percent for row in rows if row.ours)
    replicas = sum(row.processes for row in rows if row.ours and row.what != "operator")
    floor = replicas * next(row.percent for row in rows if row.what == NOTHING)
    print(f"{'':<26}{'processes':>10}{'% of a core':>14}")
    for row in rows:
        print(f"{row.what:<26}{row.processes:>10}{row.percent:>14.2f}{'' if row.ours else '   not counted'}")
    print(f"{'ours together':<36}{total:>14.2f}")
    print(f"{f'{replicas} replicas that do nothing':<36}{floor:>14.2f}")
    print(f"{'ours beyond those':<36}{total - floor:>14.2f}   the aim for all of ours is {AIM_PERCENT:g}")
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return 0


def measure(rest: float, seconds: float) -> list[Row]:
    """Start a demo, let it rest, measure, end it."""
    command = [sys.executable, "-m", "moe_dev.demo"]
    # The path is for Serve to find this module; the other parts would have the operator look at traffic ever after.
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DEMO_PARTS": "1"}
    demo = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        _deploy_nothing(demo.pid, _wait_for(demo, "It stays up"))
        time.sleep(rest)
        before = _times(demo.pid)
        time.sleep(seconds)
        after = _times(demo.pid)
    finally:
        demo.send_signal(signal.SIGINT)
        demo.communicate(timeout=END_S)
    other = {
        process: kind for process, (kind, _) in (before | after).items() if (process in before) != (process in after)
    }
    if not OURS.keys().isdisjoint(other.values()):
        raise RuntimeError(f"not idle: processes came or went meanwhile: {', '.join(sorted(other.values()))}")
    lasting = before.keys() & after.keys()
    return table([(before[each][0], after[each][1] - before[each][1]) for each in lasting], seconds)


class Nothing:
    """A deployment without a method."""


def build_nothing(args: dict[str, str]) -> Any:
    """For Serve: an application of one replica of it, looked after as ours are."""
    from ray import serve  # noqa: PLC0415 - takes a second, and only Serve calls this

    options = {"ray_actor_options": {"num_cpus": 0}, "health_check_period_s": 2.0}
    return serve.deployment(name=NOTHING, **options)(Nothing).bind()


def _deploy_nothing(root: int, said: str) -> None:
    (url,) = re.findall(r"Ray Serve answers at \S+, Ray's dashboard at (\S+)", said)
    (head,) = [each for each in psutil.Process(root).children(recursive=True) if each.cmdline()[1:4] == RAY_START]
    rest = ServeRest(url, Path(head.environ()["RAY_AUTH_TOKEN_PATH"]).read_text())
    application = {"name": NOTHING, "route_prefix": None, "import_path": "benchmarks.idle:build_nothing"}
    rest.apply(Change(NOTHING, (application | {"args": {"any": "thing"}},)))
    end = time.monotonic() + READY_S
    while rest.status()[NOTHING]["status"] != "RUNNING":
        if time.monotonic() > end:
            raise RuntimeError(f"{NOTHING} does not run: {rest.status()[NOTHING]}")
        time.sleep(0.5)


def table(used: Iterable[tuple[str, float]], seconds: float) -> list[Row]:
    """Rows of (kind, processor seconds of a process)."""
    spent: dict[str, list[float]] = {what: [] for what in (*OURS, *OTHERS, REST)}
    for what, time_used in used:
        spent[what].append(time_used)
    return [
        Row(what, what in OURS, len(each), 100 * sum(each) / seconds)
        for what, each in spent.items()
        if each or what in OURS
    ]


def kind_of(command: str) -> str:
    """Which of the kinds a command line is."""
    return next((what for what, pattern in (OURS | OTHERS).items() if re.search(pattern, command)), REST)


def _times(root: int) -> dict[tuple[int, float], tuple[str, float]]:
    """Kind and processor seconds of each process below ``root``, by its id and start."""
    found = {}
    for process in psutil.Process(root).children(recursive=True):
        try:
            spent = process.cpu_times()
            kind = kind_of(" ".join(process.cmdline()))
        except psutil.NoSuchProcess:
            continue
        found[process.pid, process.create_time()] = (kind, spent.user + spent.system)
    return found


def _wait_for(demo: subprocess.Popen[str], text: str) -> str:
    """All that it has said once ``text`` is in it."""
    end, said = time.monotonic() + READY_S, ""
    for line in demo.stdout or ():
        said += line
        if text in line:
            return said
        if time.monotonic() > end:
            break
    raise RuntimeError(f"the demo has not said {text!r}:\n{said}")


if __name__ == "__main__":
    sys.exit(main())
