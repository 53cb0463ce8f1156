"""What settled objects cost the API server, by its own count."""

import re
import time
from collections import Counter

import pytest
from fake_ray import FakeRay

from moe_dev.kube import Kubectl

pytestmark = pytest.mark.e2e

MANY = 20
MINUTES = 1.0
READS = {"GET", "LIST", "WATCH"}
RESOURCES = {"moedeployments", "secrets", "events"}
_SAMPLE = re.compile(r"^apiserver_request_total\{(?P<labels>[^}]*)\} (?P<value>\S+)$", re.M)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


def reads(kube: Kubectl) -> Counter[str]:
    """Requests of anybody that only read, by verb and resource, since the API server began."""
    found: Counter[str] = Counter()
    for sample in _SAMPLE.finditer(kube.run("get", "--raw", "/metrics")):
        labels = dict(_LABEL.findall(sample["labels"]))
        if labels["resource"] in RESOURCES and labels["verb"] in READS:
            found[f"{labels['verb']} {labels['resource']}"] += int(float(sample["value"]))
    return found


def wait_for_the_garbage_collector(kube: Kubectl) -> None:
    """It asks once for the owner of each child that it meets before it has learned of a kind so new."""
    deadline, before = time.monotonic() + 120, reads(kube)
    while True:
        time.sleep(35)  # it looks for new kinds every 30 s
        now = reads(kube)
        if now["GET moedeployments"] == before["GET moedeployments"]:
            return
        assert time.monotonic() < deadline, f"somebody goes on reading single objects: {now - before}"
        before = now


def test_a_settled_object_costs_at_most_one_read_a_minute(start_operator, objects, ray: FakeRay) -> None:
    start_operator(f"--namespace={objects.namespace}")
    ray.token = "the-token"
    objects.ray_token("ray", ray.token, ray.url)
    objects.secret("keys", "api-keys", mine="k" * 40)
    secrets = {"runtime": {"tokenSecretRef": {"name": "ray"}}, "serving": {"apiKeysSecretRef": {"name": "keys"}}}
    for number in range(MANY):
        objects.apply(f"settled-{number}", ray.spec(**secrets))
    for number in range(MANY):
        objects.wait_ready(f"settled-{number}", 120.0)
    wait_for_the_garbage_collector(objects.kube)
    before, looks = reads(objects.kube), ray.gets
    time.sleep(60 * MINUTES)
    counted = reads(objects.kube) - before
    print(f"in {MINUTES:g} min of {MANY} settled objects: {dict(counted)}, and {ray.gets - looks} looks at Ray")
    assert ray.gets > looks, "nobody looked at the objects meanwhile"
    # A stream of the watch each 40 s, and a listing each five minutes, whatever the number of objects.
    assert sum(count for what, count in counted.items() if what.endswith("moedeployments")) <= 4
    assert counted.total() <= MANY * MINUTES
