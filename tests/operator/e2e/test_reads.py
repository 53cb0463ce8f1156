"""What settled objects cost the API server, by its own count."""

import re
import time

import pytest
from fake_ray import FakeRay

from moe_dev.kube import Kubectl

pytestmark = pytest.mark.e2e

MANY = 20
MINUTES = 1.0
READS = {"GET", "LIST", "WATCH"}
_SAMPLE = re.compile(r"^apiserver_request_total\{(?P<labels>[^}]*)\} (?P<value>\S+)$", re.M)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


def reads_of(kube: Kubectl, resource: str) -> float:
    """Requests that only read ``resource``, since the API server began; those of kubectl by this process are known."""
    total = 0.0
    for sample in _SAMPLE.finditer(kube.run("get", "--raw", "/metrics")):
        labels = dict(_LABEL.findall(sample["labels"]))
        if labels["resource"] == resource and labels["verb"] in READS:
            total += float(sample["value"])
    return total


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
    time.sleep(10)
    before = {resource: reads_of(objects.kube, resource) for resource in ("moedeployments", "secrets", "events")}
    gets = ray.gets
    time.sleep(60 * MINUTES)
    assert ray.gets > gets, "nobody looked at the objects meanwhile"
    reads = {resource: reads_of(objects.kube, resource) - count for resource, count in before.items()}
    print(f"reads in {MINUTES:g} min of {MANY} settled objects: {reads}")
    # A stream of the watch each 40 s, and a listing each five minutes, whatever the number of objects.
    assert reads["moedeployments"] <= 4
    assert sum(reads.values()) <= MANY * MINUTES
