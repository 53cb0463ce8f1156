"""Keeps the rules of every node as the NetworkPolicies of the cluster say: `moe_dev.node.netpol` with I/O.

Run by `hub` as `python -m moe_dev.node.enforce KUBECONFIG NODE…`; the network namespaces are named after the nodes.
Pods, namespaces and policies are watched; each change has all three listed anew, and a table that differs is written.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import urllib3
from kubernetes import client, config, watch

from moe_dev.node.netpol import World, ruleset
from moe_dev.progress import say

# Changes come in bursts.
SETTLE_SECONDS = 0.1
# A watch that ended, or a server that was not there.
RETRY_SECONDS = 1.0
WATCH_SECONDS = 300
LIST_SECONDS = 30


def main() -> None:
    config.load_kube_config(sys.argv[1])  # type: ignore[no-untyped-call]
    core, networking = client.CoreV1Api(), client.NetworkingV1Api()
    lists: list[Callable[..., Any]] = [
        core.list_pod_for_all_namespaces,
        core.list_namespace,
        networking.list_network_policy_for_all_namespaces,
    ]
    changed = threading.Event()
    changed.set()
    for each in lists:
        threading.Thread(target=_watch, args=(each, changed), daemon=True).start()
    written = ""
    while True:
        changed.wait()
        time.sleep(SETTLE_SECONDS)
        changed.clear()
        try:
            rules = ruleset(World(*map(_items, lists)))
            if rules != written:
                _write(rules, sys.argv[2:])
                written = rules
                say(f"{rules.count('counter drop')} chains")
        except (client.ApiException, urllib3.exceptions.HTTPError, subprocess.CalledProcessError) as error:
            say(f"not written: {error}")
            time.sleep(RETRY_SECONDS)
            changed.set()


def _items(each: Callable[..., Any]) -> list[Any]:
    listed: list[Any] = json.loads(each(_preload_content=False, _request_timeout=LIST_SECONDS).data)["items"]
    return listed


def _watch(each: Callable[..., Any], changed: threading.Event) -> None:
    while True:
        try:
            for _ in watch.Watch().stream(each, timeout_seconds=WATCH_SECONDS):  # type: ignore[no-untyped-call]
                changed.set()
        except (client.ApiException, urllib3.exceptions.HTTPError) as error:
            say(f"watching again: {error}")
            time.sleep(RETRY_SECONDS)
        changed.set()


def _write(rules: str, nodes: Sequence[str]) -> None:
    for node in nodes:
        command = ["nsenter", f"--net=/run/netns/{node}", "nft", "-f", "-"]
        subprocess.run(command, input=rules, text=True, check=True)


if __name__ == "__main__":
    main()
