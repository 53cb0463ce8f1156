"""The second part of `make demo`: traffic of one kind of text, then of another, and the placement follows."""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from moe_dev.demo_client import condition
from moe_dev.demo_run import Demo, DemoError
from moe_dev.demo_traffic import GERMAN, PYTHON, STREAMS, Traffic
from moe_dev.demo_view import table_lines
from moe_dev.progress import say, waiting
from moe_operator.api.reasons import PlacementConditionType, PlacementReason

# Where every expert is on half of the shards, as in the example, nearly any placement serves all traffic.
FEWER_COPIES = {"slotsPerShard": 5, "copies": {"min": 1}}
# Short, to be watched.
AUTO = {"mode": "Auto", "interval": "10s", "cooldown": "10s", "minGainPercent": 1, "maxBytesPerSecond": "100Mi"}
HEAD = ("traffic", "placement", "balance", "fan-out", "tokens/s", "price", "verified")
# Tokens come slowly beside other lanes of the tests, and a plan takes some hundred of them at each of two looks.
FOLLOW_SECONDS = 300.0
SETTLE_SECONDS = 120.0
RATE_SECONDS = 5.0
POLL_SECONDS = 0.5


def follow_the_traffic(demo: Demo) -> None:
    """Python first, then German; a table of what it brought. The example is as it was afterwards."""
    _patch(demo, {"experts": FEWER_COPIES})
    _wait_settled(demo)
    rows: list[tuple[str, ...]] = []
    for kind, prompts in (("Python", PYTHON), ("German", GERMAN)):
        say(f"{STREAMS} streams of {kind}")
        rows += _followed(demo, kind, prompts)
    print("\n" + "\n".join(table_lines(HEAD, rows)))
    shown = demo.cluster.kubectl.run("get", "xp", "--namespace", demo.cluster.namespace)
    print(f"\n$ kubectl get xp\n{shown}", flush=True)
    _patch(demo, {"experts": demo.deployment["spec"]["experts"], "rebalance": None})
    _wait_settled(demo)


def _followed(demo: Demo, kind: str, prompts: Sequence[str]) -> list[tuple[str, ...]]:
    """Two rows: before the placement followed, and after."""
    newest = max((_revision(each) for each in _placements(demo)), default=0)
    traffic = Traffic(demo.url, demo.name, prompts)
    with traffic.flowing():
        before = traffic.rate(RATE_SECONDS)
        if demo.live()["spec"]["rebalance"]["mode"] != AUTO["mode"]:
            _patch(demo, {"rebalance": AUTO})
        placement = _wait_verified(demo, traffic, newest)
        after = traffic.rate(RATE_SECONDS)
    return rows_of(kind, placement, before, after)


def _patch(demo: Demo, wish: Mapping[str, Any]) -> None:
    patch = json.dumps({"spec": wish})
    name = ("moe", demo.name, "--namespace", demo.cluster.namespace)
    demo.cluster.kubectl.run("patch", *name, "--type=merge", f"--patch={patch}")
    say(f"$ kubectl patch moe {demo.name} --type=merge -p '{patch}'")


def rows_of(kind: str, placement: Mapping[str, Any], before: float, after: float) -> list[tuple[str, ...]]:
    """Of the table, from a verified placement; the rates in tokens per second."""
    status = placement["status"]
    content, price = placement["spec"]["content"], status["price"]
    verified = condition(placement, PlacementConditionType.VERIFIED) or {}
    paid = f"{price['moves']} moves, {price['bytes'] / 1e6:.1f} MB, {price.get('seconds', '?')} s"
    verdict = f"{verified.get('status')}: {verified.get('reason')}"
    return [
        (kind, f"r{content['baseRevision']}", *_figures(status.get("before")), f"{before:.0f}", "", ""),
        (kind, f"r{content['revision']}", *_figures(status.get("measured")), f"{after:.0f}", paid, verdict),
    ]


def _figures(told: Mapping[str, str] | None) -> tuple[str, str]:
    return (f"{float(told['balance']):.2f}", f"{float(told['fanOut']):.2f}") if told else ("?", "?")


def _wait_verified(demo: Demo, traffic: Traffic, newest: int) -> dict[str, Any]:
    """The placement above revision `newest` that the operator proposed, once it was decided whether it stays."""
    said = ""
    deadline = time.monotonic() + FOLLOW_SECONDS
    with waiting("a placement that follows the traffic"):
        while time.monotonic() < deadline:
            demo.check()
            if traffic.failure:
                raise DemoError(f"a request failed: {traffic.failure}")
            later = (each for each in _placements(demo) if _revision(each) > newest)
            proposed = [each for each in later if "predicted" in each["status"]]
            words = _progress(proposed) or _decision(demo)
            if words and words != said:
                say(words)
                said = words
            if judged := next(filter(is_judged, proposed), None):
                return judged
            time.sleep(POLL_SECONDS)
    raise DemoError(f"the placement did not follow the traffic within {FOLLOW_SECONDS:.0f} s: {said}; see .demo/*.log")


def is_judged(placement: Mapping[str, Any]) -> bool:
    """Whether it was decided if it stays."""
    verified = condition(placement, PlacementConditionType.VERIFIED)
    return verified is not None and verified["reason"] != PlacementReason.OBSERVING


def _progress(proposed: Sequence[Mapping[str, Any]]) -> str:
    """What is told of the newest of them."""
    if not proposed:
        return ""
    newest = max(proposed, key=_revision)
    verified = condition(newest, PlacementConditionType.VERIFIED)
    return f"{newest['metadata']['name']} {newest['status'].get('phase')}" + (
        f": {verified['message']}" if verified else ""
    )


def _decision(demo: Demo) -> str:
    decision = demo.live()["status"].get("rebalance", {}).get("lastDecision")
    return f"{decision['result']}, {decision['reason']}: {decision['message']}" if decision else ""


def _placements(demo: Demo) -> list[dict[str, Any]]:
    """Those of the deployment that somebody has looked at."""
    found = json.loads(demo.cluster.kubectl.run("get", "xp", "--namespace", demo.cluster.namespace, "-o", "json"))
    own = [each for each in found["items"] if each["spec"]["deploymentRef"]["name"] == demo.name]
    return [each for each in own if each.get("status")]


def _revision(placement: Mapping[str, Any]) -> int:
    return int(placement["spec"]["content"]["revision"])


def _wait_settled(demo: Demo) -> None:
    """Until what runs is what the spec asks for now."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        demo.check()
        live = demo.live()
        progressing = condition(live, "Progressing") or {}
        generation = live["metadata"]["generation"]
        if (progressing.get("observedGeneration"), progressing.get("reason")) == (generation, "Settled"):
            return
        if time.monotonic() > deadline:
            raise DemoError(f"{demo.name} is not settled after {SETTLE_SECONDS:.0f} s: {progressing.get('message')}")
        time.sleep(POLL_SECONDS)
