"""`make demo`: from `kubectl apply` of examples/01-tiny.yaml to streamed tokens, to a placement that follows the
traffic, and a shard that is killed, on real parts; then it stays up.

DEMO_PARTS=3 does that part alone. DEMO_EXIT=1 ends it after the job; otherwise Ctrl-C or `make demo-stop` does. Its
exit code is 0 where the job was done, whatever signal ended it then, 128 + signal where one came before, and 1 where
something failed.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any

import openai
import yaml

from moe_dev import demo_view
from moe_dev.binaries import BinariesError
from moe_dev.demo_client import COUNTS_SECONDS, condition, settled_report, stream_completion
from moe_dev.demo_cluster import demo_cluster
from moe_dev.demo_loss import lose_a_shard
from moe_dev.demo_parts import PARTS, PartsError, chosen_parts
from moe_dev.demo_paste import paste_lines
from moe_dev.demo_run import EXAMPLE, Demo, DemoError
from moe_dev.demo_shift import follow_the_traffic
from moe_dev.demo_state import DemoRunsError, DemoState
from moe_dev.kube import KubectlError
from moe_dev.own_cluster import ClusterRefusedError
from moe_dev.paths import CLONE
from moe_dev.processes import ProcessError, port_or_free
from moe_dev.progress import elapsed, say, step, waiting
from moe_dev.raylocal import LocalRay

# Where the example looks for Ray: taken if they are free, so that it can be applied as it is.
DASHBOARD_PORT, SERVE_PORT = 8265, 8000
READY_SECONDS = 300.0
DELETE_SECONDS = 90.0
POLL_SECONDS = 1.0
PROMPT = "def read_lines(path):\n"
TOKENS = 96
# Ctrl-C, `make demo-stop`, a terminal that closes.
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
NOT_SEEN = {"status": "Unknown", "reason": "Waiting", "message": "the operator has not seen it yet"}
STAYS_UP = "It stays up. In another shell:"


# Each with a message for whoever runs the demo; any other is a defect and shows its traceback.
EXPECTED_ERRORS = (
    DemoError,
    DemoRunsError,
    PartsError,
    ClusterRefusedError,
    BinariesError,
    KubectlError,
    ProcessError,
    openai.OpenAIError,
)


def main() -> int:
    """Run the demo; its exit code."""
    for number in ENDING_SIGNALS:
        signal.signal(number, _interrupt)
    done = False
    try:
        with DemoState() as state, ExitStack() as running:
            running.callback(say, f"stopped; its logs stay in {state.directory.name}")
            parts = chosen_parts(os.environ.get("DEMO_PARTS", ""))
            demo = _start(state.directory, running)
            _job(demo, parts)
            done = True
            if os.environ.get("DEMO_EXIT") == "1":
                _ignore_signals()
            else:
                _show_how_to_go_on(demo)
                _stay_up(demo)
    except KeyboardInterrupt as interrupt:
        return 0 if done else 128 + int(interrupt.args[0])
    except EXPECTED_ERRORS as error:
        print(f"demo failed: {error}", file=sys.stderr)
        return 1
    return 0


def _start(directory: Path, running: ExitStack) -> Demo:
    """Bring everything up; the stack ends it in reverse."""
    ports = [
        _told(what, wanted, running.enter_context(port_or_free(wanted)))
        for what, wanted in (("Ray's dashboard", DASHBOARD_PORT), ("Ray Serve", SERVE_PORT))
    ]
    ray = LocalRay(dashboard_port=ports[0], serve_port=ports[1], log=directory / "ray.log")
    running.callback(ray.stop)
    with ThreadPoolExecutor(max_workers=1) as pool, step("starting Kubernetes, Ray and the operator"):
        ray_is_up = pool.submit(ray.up)
        try:
            cluster = running.enter_context(demo_cluster(directory))
            operator = cluster.start_operator(directory)
            running.callback(operator.stop)
            say(f"the operator runs as {operator.user}")
            ray_is_up.result()
        except BaseException:
            ray.stop()  # or the pool would wait for it
            raise
    say(f"Ray Serve answers at {ray.serve_url}, Ray's dashboard at {ray.dashboard_url}")
    processes = (*cluster.processes, *filter(None, [ray.process]), operator.process)
    deployment = _example(ray)
    demo = Demo(cluster, processes, ray.token, deployment, _manifest(deployment, directory))
    running.callback(_remove, demo)
    _apply(demo)
    return demo


def _told(what: str, wanted: int, port: int) -> int:
    if port != wanted:
        say(f"port {wanted} is in use: {what} gets {port}, and the example is applied with that address")
    return port


def _example(ray: LocalRay) -> dict[str, Any]:
    """The example, with the addresses of this Ray where the usual ports were taken."""
    deployment: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    deployment["spec"]["runtime"]["rayCluster"] |= {"dashboardURL": ray.dashboard_url, "serveURL": ray.serve_url}
    return deployment


def _manifest(deployment: Mapping[str, Any], directory: Path) -> Path:
    """The example's file, or one of what was applied in its place: whoever applies the other names another's Ray."""
    if deployment == yaml.safe_load(EXAMPLE.read_text()):
        return EXAMPLE
    changed = directory / EXAMPLE.name
    changed.write_text(yaml.safe_dump(deployment, sort_keys=False))
    return changed


def _apply(demo: Demo) -> None:
    ray = demo.deployment["spec"]["runtime"]["rayCluster"]
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": ray["tokenSecretRef"]["name"],
            "labels": {"moe-operator.io/use": "ray-token"},
            "annotations": {"moe-operator.io/allowed-addresses": ray["dashboardURL"]},
        },
        "stringData": {"token": demo.token},
    }
    demo.cluster.kubectl.apply(secret, demo.deployment, namespace=demo.cluster.namespace)
    say(f"$ kubectl apply -f {demo.manifest.relative_to(CLONE)}")


def _job(demo: Demo, parts: Sequence[int]) -> None:
    """Wait for Ready, then do the parts that were asked for."""
    todo = {1: _first_tokens, 2: follow_the_traffic, 3: lose_a_shard}
    _wait_ready(demo)
    for number in parts:
        say(f"part {number}: {PARTS[number]}")
        todo[number](demo)


def _first_tokens(demo: Demo) -> None:
    """Stream a completion, show what the operator and the data plane know."""
    _stream(demo, demo.url)
    kubectl, namespace = demo.cluster.kubectl, demo.cluster.namespace
    report = settled_report(demo.report)
    _wait_counted(demo)
    print(f"\n$ kubectl get moe\n{kubectl.run('get', 'moe', '--namespace', namespace)}")
    print("\n".join(demo_view.report_lines(report)), flush=True)


def _stream(demo: Demo, url: str) -> None:
    times: list[float] = []

    def show(text: str) -> None:
        times.append(elapsed())
        print(text, end="", flush=True)

    say(f"asking {url} to complete {PROMPT!r}")
    begun = elapsed()
    print(f"\n{PROMPT}", end="", flush=True)
    stream_completion(url, demo.name, PROMPT, TOKENS, show)
    print("\n")
    if not times:
        raise DemoError(f"{url} answered without a token")
    say(f"first token {times[0] - begun:.2f} s after the question, {times[0]:.1f} s after the start of the demo")
    say(f"{len(times)} pieces in {times[-1] - begun:.2f} s")


def _wait_ready(demo: Demo) -> dict[str, Any]:
    """The Ready MoEDeployment; each change of what it says about itself is shown."""
    said = ""
    deadline = time.monotonic() + READY_SECONDS
    while True:
        demo.check()
        live = demo.live()
        ready = condition(live, "Ready") or NOT_SEEN
        if ready["status"] == "True":
            say(f"Ready: {ready['message']}")
            return live
        words = f"{ready['reason']}: {ready['message']}"
        if words != said:
            say(f"not Ready: {words}")
            said = words
        stalled = condition(live, "Stalled")
        if stalled and stalled["status"] == "True":
            raise DemoError(f"{demo.name} will not be Ready: {stalled['reason']}: {stalled['message']}")
        if time.monotonic() > deadline:
            raise DemoError(f"{demo.name} is not Ready after {READY_SECONDS:.0f} s: {said}; see .demo/*.log")
        time.sleep(0.5)


def _wait_counted(demo: Demo) -> None:
    """Wait until the status has figures of the tokens just routed: the operator asks the directory now and then."""
    deadline = time.monotonic() + COUNTS_SECONDS
    while "balance" not in demo.live()["status"].get("placement", {}) and time.monotonic() < deadline:
        demo.check()
        time.sleep(0.5)


def _show_how_to_go_on(demo: Demo) -> None:
    lines = paste_lines(demo.cluster.shell, demo.cluster.namespace, demo.name, demo.url, demo.manifest)
    print(
        f"\n{STAYS_UP}", *(f"  {line}" for line in lines), "Ctrl-C or `make demo-stop` ends it.", sep="\n", flush=True
    )


def _stay_up(demo: Demo) -> None:
    """Wait for the signal that ends it; DemoError if something ends by itself."""
    while True:
        demo.check()
        time.sleep(POLL_SECONDS)


def _remove(demo: Demo) -> None:
    """Take the deployment back while the operator still runs, so that its applications leave Ray; in order."""
    with step("stopping"):
        if demo.ended() is None or demo.cluster.own:
            delete = ("delete", "moe", demo.name, "--namespace", demo.cluster.namespace)
            demo.cluster.kubectl.run(*delete, "--ignore-not-found", "--wait=false")
            _wait_removed(demo)


def _wait_removed(demo: Demo) -> None:
    """Until the operator let it go; where something that this takes has ended, nobody would, and it goes at once."""
    deadline = time.monotonic() + DELETE_SECONDS
    with waiting("the deployment's applications to leave Ray"):
        while demo.ended() is None:
            if demo.cluster.kubectl.get("moe", demo.name, demo.cluster.namespace) is None:
                return
            if time.monotonic() > deadline:
                raise DemoError(
                    f"{demo.name} is still there {DELETE_SECONDS:.0f} s after its deletion: see .demo/*.log"
                )
            time.sleep(0.2)
    if demo.cluster.own:
        _release(demo)


def _release(demo: Demo) -> None:
    """Take the finalizer off: nobody is left to do its work, and what it would tidy ends with Ray."""
    kubectl, namespace = demo.cluster.kubectl, demo.cluster.namespace
    if kubectl.get("moe", demo.name, namespace) is not None:
        nothing = json.dumps({"metadata": {"finalizers": None}})
        kubectl.run("patch", "moe", demo.name, "--namespace", namespace, "--type=merge", f"--patch={nothing}")


def _interrupt(number: int, _frame: FrameType | None) -> None:
    _ignore_signals()  # one is enough; the end is not to be disturbed by a second
    raise KeyboardInterrupt(number)


def _ignore_signals() -> None:
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main())
