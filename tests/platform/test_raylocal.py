"""The local Ray: guarded by a token, reachable from this machine only, and its end is nobody else's."""

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

import psutil
import pytest

from moe_dev.raylocal import LocalRay

pytestmark = pytest.mark.e2e

DRIVER = """
import os, ray
ray.init(address=os.environ["RAY_ADDRESS"], logging_level="ERROR")
print(ray.get(ray.remote(num_cpus=0)(lambda: "a task ran").remote()))
"""
DRIVER_SECONDS = 120.0


def get(url: str, headers: Mapping[str, str]) -> Any:
    with urllib.request.urlopen(urllib.request.Request(url, headers=dict(headers)), timeout=30) as answer:
        return json.load(answer)


def listening_addresses(process: psutil.Process) -> set[str]:
    try:
        connections = process.net_connections(kind="inet")
    except psutil.NoSuchProcess:  # Ray ends workers as it likes
        return set()
    return {c.laddr.ip.removeprefix("::ffff:") for c in connections if c.status == psutil.CONN_LISTEN}


def test_serve_knows_its_address_and_asks_for_the_token(ray_cluster: LocalRay) -> None:
    url = f"{ray_cluster.dashboard_url}/api/serve/applications/"
    details = get(url, {"Authorization": f"Bearer {ray_cluster.token}"})
    assert details["http_options"]["host"] == "127.0.0.1"
    assert ray_cluster.serve_url.endswith(f":{details['http_options']['port']}")
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        with pytest.raises(urllib.error.HTTPError, match=r"40[13]") as refused:
            get(url, headers)
        refused.value.close()


def test_all_its_listeners_are_on_loopback(ray_cluster: LocalRay) -> None:
    listening = set().union(*map(listening_addresses, psutil.Process().children(recursive=True)))
    assert listening == {"127.0.0.1"}


@pytest.mark.long
def test_another_ray_lives_on(ray_cluster: LocalRay) -> None:
    with LocalRay.start(cpus=1) as other:
        directory = other.directory
    assert not directory.exists()
    driver = [sys.executable, "-c", DRIVER]
    environment = {"PATH": "/usr/bin:/bin", **ray_cluster.environment}
    ended = subprocess.run(driver, env=environment, capture_output=True, text=True, timeout=DRIVER_SECONDS)
    assert ended.stdout == "a task ran\n", ended.stderr
