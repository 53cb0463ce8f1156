"""What a real API server says to a manifest: one line per rule, through ``kubectl apply`` as a user has it."""

import json
from copy import deepcopy
from typing import Any

import pytest
from kstatus import kstatus

from moe_dev.kube import Kubectl, KubectlError
from moe_operator.api import MoEDeployment
from moe_operator.errors import InvalidObjectError

pytestmark = pytest.mark.e2e

MODEL = {
    "digest": "sha256:0",
    "architecture": "Mixtral",
    "dtype": "bfloat16",
    "layers": 6,
    "experts": 16,
    "topK": 2,
    "bytesPerExpert": 393216,
    "maxContext": 1024,
}
DASHBOARD = "http://127.0.0.1:8265"
ABSENT = None


def manifest(name: str = "tiny", **changes: Any) -> dict[str, Any]:
    """A good manifest with ``changes``, whose keys are paths below spec with ``__`` between."""
    spec: dict[str, Any] = {
        "model": {"source": {"path": "models/tiny"}},
        "experts": {"shards": 4, "copies": {"min": 2}},
        "runtime": {"rayCluster": {"dashboardURL": DASHBOARD, "serveURL": "http://127.0.0.1:8000"}},
    }
    for path, value in changes.items():
        *parents, last = path.split("__")
        at = spec
        for parent in parents:
            at = at.setdefault(parent, {})
        if value is ABSENT:
            del at[last]
        else:
            at[last] = value
    return {
        "apiVersion": "moe-operator.io/v1alpha1",
        "kind": "MoEDeployment",
        "metadata": {"name": name},
        "spec": spec,
    }


# Spellings of an address of which the rules and the types must think the same: what the one takes the other can read.
URLS = [
    # the URL, whether it is taken
    ("http://10.0.0.1:8265", True),
    ("HTTPS://Ray.Example.ORG:443/ray/", True),
    ("http://ray_1.svc", True),
    ("http://[fd00::1]:8265", True),
    ("http://[FD00::1]:65535", True),
    ("http://ray/a%20b/~c", True),
    ("http://ray:00080", True),
    ("http://ray-1a.0x.svc:1", True),
    ("http://[::ffff:127.0.0.1]:1", False),
    ("http://[::ffff:7f00:1]:1", False),
    ("http://[0:0:0:0:0:ffff:7f00::]:1", False),
    ("http://[::7f00:1]:1", False),
    ("http://[0::7F00:0001]:1", False),
    ("http://[0:0:0:0:0:0:7f00:1]:1", False),
    ("http://[0:0:0:0:0:0:7f00::]:1", False),
    ("http://[::1]:1", True),
    ("http://[0:0:0:0:0:0:0:1]:1", True),
    ("http://[7f00:1::]:1", True),
    ("http://[::7f00:0:1]:1", True),
    ("http://[fe80::1%25eth0]:1", False),
    ("http://[1.2.3.4]:1", False),
    ("http://[fd00::zz]:1", False),
    ("http://2130706433", False),
    ("http://017700000001:1", False),
    ("http://0x7f000001:1", False),
    ("http://0177.0.0.1:1", False),
    ("http://0x7f.1:1", False),
    ("http://127.0.0.1.:1", False),
    ("http://1.2.3.4.5:1", False),
    ("http://256.0.0.1:1", False),
    ("http://127.0.0.1 :1", False),
    ("http://ray.svc.:1", False),
    ("http://ray..svc:1", False),
    ("http://ray:", False),
    ("http://-ray:1", False),
    ("http://r%61y:1", False),
    ("http://ray:65536", False),
    ("http://ray:1/%zz", False),
    ("http://ray:1/a b", False),
    ("http://ray:1/é", False),
    ("http://ray:1\\@other:2/", False),
    ("http://httpſ", False),
    ("httpſ://ray", False),
    ("http://ｒａｙ:1", False),
    ("http://ray\n:1", False),
    ("http://ray:1\n", False),
]


@pytest.mark.parametrize(("url", "taken"), URLS, ids=lambda value: ascii(value))
def test_what_the_rules_take_the_operator_can_read(installed: Kubectl, namespace: str, url: str, taken: bool) -> None:
    body = manifest(runtime__rayCluster__dashboardURL=url)
    if taken:
        installed.apply(body, namespace=namespace)
    else:
        assert f"dashboardURL is {json.dumps(url, ensure_ascii=False)}" in refusal(installed, body, namespace)
    assert readable(url) == taken


def readable(url: str) -> bool:
    stored = manifest(runtime__rayCluster__dashboardURL=url)
    stored["metadata"] |= {"namespace": "default", "uid": "u"}
    try:
        MoEDeployment.parse(stored)
    except InvalidObjectError:
        return False
    return True


def refusal(kube: Kubectl, body: dict[str, Any], namespace: str = "default") -> str:
    with pytest.raises(KubectlError) as caught:
        kube.apply(body, namespace=namespace)
    return str(caught.value)


SCHEDULE = {"cron": "0 7 * * 1-5", "duration": "12h", "minShards": 2, "maxShards": 4}

REFUSED = [
    # what changes in a good manifest, what the answer must say: the field, the value and the cure
    ({"runtime": ABSENT}, ["spec.runtime is missing", "write e.g. runtime: {rayCluster:"]),
    ({"runtime": {}}, ["spec.runtime must name exactly one of: rayCluster", "dashboardURL: http://127.0.0.1:8265"]),
    ({"model": ABSENT}, ["spec.model is missing", "write e.g. model: {source: {path: models/tiny}}"]),
    ({"model__source": ABSENT}, ["spec.model.source is missing", "write e.g. source: {path: models/tiny}"]),
    (
        {"model__source": {}},
        [
            "spec.model.source must name exactly one of: path, huggingFace, download, pvc, image",
            "write e.g. source: {path:",
        ],
    ),
    (
        {"model__source__huggingFace": {"repo": "a/b", "revision": "0" * 40}},
        ["spec.model.source must name exactly one of: path, huggingFace, download, pvc, image"],
    ),
    (
        {"model__source": {"huggingFace": {"repo": "a/b"}}},
        ["spec.model.source.huggingFace.revision is missing", "40 hexadecimal digits"],
    ),
    (
        {"model__source": {"huggingFace": {"repo": "a/b", "revision": "main"}}},
        ['spec.model.source.huggingFace.revision is "main"', "what a branch or tag names may change"],
    ),
    (
        {"model__source": {"huggingFace": {"repo": "tiny", "revision": "0" * 40}}},
        ['spec.model.source.huggingFace.repo is "tiny"', "write organisation/model"],
    ),
    (
        {"model__source": {"huggingFace": {"repo": "a/b", "revision": "0" * 40, "tokenSecretRef": {"name": "t"}}}},
        ["spec.model.source.huggingFace.tokenSecretRef needs runtime.kubeRay", "set HF_TOKEN on its nodes"],
    ),
    (
        {"model__source": {"download": {"url": "https://a/b"}}},
        ["spec.model.source.download.sha256 is missing: write what sha256sum SHA256SUMS prints"],
    ),
    (
        {"model__source": {"download": {"url": "http://a/b", "sha256": "0" * 64}}},
        ['spec.model.source.download.url is "http://a/b": it must be the https:// or s3:// URL of a folder'],
    ),
    (
        {"model__source": {"download": {"url": "https://u:p@a/b?c", "sha256": "0" * 63}}},
        ["without query, fragment or credentials", "spec.model.source.download.sha256 is"],
    ),
    (
        {"model__source": {"download": {"url": "s3://a/b", "sha256": "0" * 64}}},
        ["spec.model.source.download.endpoint: an s3:// URL needs the address of its store"],
    ),
    (
        {"model__source": {"download": {"url": "https://a/b", "endpoint": "https://c", "sha256": "0" * 64}}},
        ["and an https:// URL has none"],
    ),
    (
        {"model__source": {"download": {"url": "https://a", "sha256": "0" * 64, "secretRef": {"name": "t"}}}},
        ["spec.model.source.download.secretRef needs runtime.kubeRay", "give source.path"],
    ),
    (
        {"model__source": {"pvc": {"claimName": "a"}}},
        ["spec.model.source.pvc needs runtime.kubeRay", "give source.path"],
    ),
    (
        {"model__source": {"image": {"reference": "a"}}},
        ["spec.model.source.image needs runtime.kubeRay", "give source.path"],
    ),
    (
        {"model__source": {"pvc": {"claimName": "a", "path": "b/../c"}}, "runtime": {"kubeRay": {"image": "x"}}},
        ['path is "b/../c": write a folder relative to the root of the volume'],
    ),
    (
        {"model__source": {"image": {"reference": "a b"}}, "runtime": {"kubeRay": {"image": "x"}}},
        ['spec.model.source.image.reference is "a b": it is no name of an image'],
    ),
    (
        {"model__source": {"pvc": {}}, "runtime": {"kubeRay": {"image": "x"}}},
        ["spec.model.source.pvc.claimName is missing"],
    ),
    ({"model__source__path": ""}, ["spec.model.source.path", "at least 1 chars long"]),
    ({"model__servedName": "a name"}, ["spec.model.servedName", '"a name"', "should match"]),
    ({"model__dtype": "int4"}, ["spec.model.dtype", '"int4"', '"auto", "float32", "bfloat16", "float16"']),
    ({"experts__shardz": 3}, ['unknown field "spec.experts.shardz"']),
    ({"experts__shards": -1}, ["spec.experts.shards", "-1", "greater than or equal to 0"]),
    ({"experts__shards": 1025}, ["spec.experts.shards", "1025", "less than or equal to 1024"]),
    ({"experts__shards": "two"}, ["spec.experts.shards", "must be of type integer"]),
    ({"experts__slotsPerShard": 0}, ["spec.experts.slotsPerShard", "0", "greater than or equal to 1"]),
    (
        {"experts__autoscaling": {"minShards": 5, "maxShards": 4}},
        ["spec.experts.autoscaling.minShards is 5 but spec.experts.autoscaling.maxShards is 4", "raise maxShards"],
    ),
    ({"experts__autoscaling": {}}, ["spec.experts.autoscaling.maxShards is missing", "autoscaling: {minShards: 2"]),
    (
        {"experts__autoscaling": {"maxShards": 4, "targetUtilization": 96}},
        ["spec.experts.autoscaling.targetUtilization", "less than or equal to 95"],
    ),
    (
        {"experts__autoscaling": {"maxShards": 4, "scaleDownAfter": "1s"}},
        ['spec.experts.autoscaling.scaleDownAfter is "1s"', "from 5s to 24h, such as 5m"],
    ),
    (
        {"experts__autoscaling": {"maxShards": 4, "schedules": [{"cron": "0 7 * * *", "duration": "12h"}]}},
        ["schedules[0].minShards", "Required"],
    ),
    (
        {"cost": {"pricePerAcceleratorHour": "1e3"}},
        ['spec.cost.pricePerAcceleratorHour is "1e3"', "a decimal number below a million", "such as '2.50'"],
    ),
    ({"cost": {"pricePerAcceleratorHour": 2.5}}, ["spec.cost.pricePerAcceleratorHour", "must be of type string"]),
    (
        {"cost": {"currency": "EUR"}},
        ["spec.cost.pricePerAcceleratorHour is missing", 'pricePerAcceleratorHour: "2.50"'],
    ),
    ({"cost": {"currency": "€", "pricePerAcceleratorHour": "1"}}, ["spec.cost.currency", "should match"]),
    ({"experts__copies__min": 0}, ["spec.experts.copies.min", "0", "greater than or equal to 1"]),
    (
        {"attention__minReplicas": 3, "attention__maxReplicas": 2},
        ["spec.attention.minReplicas is 3 but spec.attention.maxReplicas is 2", "raise maxReplicas"],
    ),
    ({"attention__minReplicas": 2}, ["spec.attention.maxReplicas is 1", "raise maxReplicas"]),
    (
        {"experts__resources__gpus": 2},
        ["spec.experts.resources.gpus", "resources.gpus is 2", "each process computes on one GPU", "use more shards"],
    ),
    ({"attention__resources__gpus": 0.00001}, ["spec.attention.resources.gpus", "at least 0.0001"]),
    ({"experts__resources__gpus": -1}, ["spec.experts.resources.gpus", "resources.gpus is -1"]),
    (
        {"experts__resources__accelerator": "H100 "},
        ["spec.experts.resources.accelerator", 'resources.accelerator is "H100 "', "such as H100"],
    ),
    (
        {"attention__resources__labelSelector": {"zone": "in(a,"}},
        ["spec.attention.resources.labelSelector", "cannot be read", "write e.g. zone: a"],
    ),
    ({"experts__resources__labelSelector": {"-zone": "a"}}, ["spec.experts.resources.labelSelector", "cannot be read"]),
    ({"attention__targetOngoingRequests": 0}, ["spec.attention.targetOngoingRequests", "greater than or equal to 1"]),
    (
        {"attention__limits": {"maxRunning": 513}},
        ["spec.attention.limits.maxRunning is 513 but spec.attention.limits.maxBatchTokens is 512", "lower maxRunning"],
    ),
    ({"attention__limits": {"maxBatchTokens": 0}}, ["spec.attention.limits.maxBatchTokens", "greater than or equal"]),
    ({"attention__limits": {"maxRunning": 0}}, ["spec.attention.limits.maxRunning", "greater than or equal to 1"]),
    ({"attention__limits": {"kvCacheTokens": "auto"}}, ["spec.attention.limits.kvCacheTokens", "of type integer"]),
    ({"attention__limits": {"kvCacheTokens": 2**25}}, ["limits.kvCacheTokens", "less than or equal to 16777216"]),
    ({"api__minReplicas": 5}, ["spec.api.minReplicas is 5 but spec.api.maxReplicas is 4", "raise maxReplicas"]),
    ({"api__maxReplicas": 1}, ["spec.api.minReplicas is 2 but spec.api.maxReplicas is 1", "lower minReplicas"]),
    ({"api__maxReplicas": 65}, ["spec.api.maxReplicas", "65", "less than or equal to 64"]),
    ({"api__targetOngoingRequests": 0}, ["spec.api.targetOngoingRequests", "greater than or equal to 1"]),
    ({"serving__routePrefix": "tiny"}, ['spec.serving.routePrefix is "tiny"', "begin with '/'", "try e.g. /tiny"]),
    ({"serving__routePrefix": "/tiny/"}, ['spec.serving.routePrefix is "/tiny/"', "not end with one"]),
    ({"serving__routePrefix": "/-/routes"}, ['spec.serving.routePrefix is "/-/routes"', "begin with a letter"]),
    ({"serving__routePrefix": "/a/../b"}, ['spec.serving.routePrefix is "/a/../b"', "begin with a letter"]),
    ({"serving__routePrefix": "/a\n"}, [r'spec.serving.routePrefix is "/a\n"', "begin with '/'"]),
    ({"serving__maxContext": 1}, ["spec.serving.maxContext", "greater than or equal to 2"]),
    ({"serving__generationDefaults": "Auto"}, ["spec.serving.generationDefaults", '"Auto"', '"Model", "None"']),
    ({"serving__allowedOrigins": ["*"]}, ['spec.serving.allowedOrigins has "*"', "without a path or *"]),
    ({"serving__allowedOrigins": ["https://a.b/"]}, ['has "https://a.b/"', "e.g. https://chat.example.com"]),
    ({"serving__allowedOrigins": ["http://a.b:80"]}, ['has "http://a.b:80"', "a port unless it is the scheme's own"]),
    ({"serving__queue__maxRequests": 0}, ["spec.serving.queue.maxRequests", "greater than or equal to 1"]),
    ({"serving__queue__maxTokens": 1}, ["spec.serving.queue.maxTokens", "greater than or equal to 2"]),
    ({"serving__apiKeysSecretRef": {}}, ["spec.serving.apiKeysSecretRef.name", "Required value"]),
    ({"runtime__rayCluster__serveURL": ABSENT}, ["rayCluster.serveURL is missing", "http://127.0.0.1:8000"]),
    ({"runtime__rayCluster__dashboardURL": ABSENT}, ["rayCluster.dashboardURL is missing", DASHBOARD]),
    ({"runtime__rayCluster__dashboardURL": "ftp://ray"}, ['dashboardURL is "ftp://ray"', "http:// or https://"]),
    ({"runtime__rayCluster__dashboardURL": "127.0.0.1:8265"}, ['dashboardURL is "127.0.0.1:8265"', "such as http://"]),
    ({"runtime__rayCluster__dashboardURL": "http://"}, ['dashboardURL is "http://"', "with a host"]),
    ({"runtime__rayCluster__dashboardURL": "http://a:b@ray"}, ['"http://a:b@ray"', "no query or credentials"]),
    ({"runtime__rayCluster__serveURL": "http://ray?x=1"}, ['serveURL is "http://ray?x=1"', "no query"]),
    ({"runtime__rayCluster__dashboardURL": "http://①②⑦.0.0.1:1"}, ['is "http://①②⑦.0.0.1:1"', "host in ASCII"]),
    ({"runtime__rayCluster__serveURL": "http://127。0。0。1:1"}, ['is "http://127。0。0。1:1"', "host in ASCII"]),
    ({"runtime__rayCluster__dashboardURL": "http://ray:99999"}, ['is "http://ray:99999"', "port must be from 1 to"]),
    ({"runtime__rayCluster__serveURL": "http://ray:0"}, ['is "http://ray:0"', "port must be from 1 to 65535"]),
    ({"runtime__rayCluster__serveURL": f"http://ray:{'9' * 30}"}, ["port must be from 1 to 65535"]),
    ({"runtime__rayCluster__dashboardURL": "http://127.1:1"}, ['is "http://127.1:1"', "four decimal numbers"]),
    ({"model__source__path": "models\n/tiny"}, [r'spec.model.source.path is "models\n/tiny"', "write it without"]),
    ({"model__source__path": "models\0"}, ["spec.model.source.path is", "a NUL, a line end"]),
    ({"model__source__path": "a\u2028b"}, ["spec.model.source.path is", "a NUL, a line end"]),
    ({"model__source__path": "a\u0085b"}, ["spec.model.source.path is", "a NUL, a line end"]),
    ({"model__source__path": "a\u202eb"}, ["spec.model.source.path is", "one that is not seen"]),
    ({"model__source__path": "a\u2069b"}, ["spec.model.source.path is", "one that is not seen"]),
    ({"model__source__path": "a\u200bb"}, ["spec.model.source.path is", "one that is not seen"]),
    ({"runtime__rayCluster__serveURL": f"http://{'a.' * 130}org"}, ["serveURL is", "at most 253 characters"]),
    ({"rebalance__mode": "Manual"}, ["spec.rebalance.mode", '"Manual"', '"Off", "Propose", "Auto"']),
    ({"sleep": {}}, ["spec.sleep.afterIdle is missing: write e.g. sleep: {afterIdle: 30m}"]),
    ({"sleep__afterIdle": "30s"}, ['spec.sleep.afterIdle is "30s"', "a duration from 1m to 720h, such as 30m"]),
    ({"sleep__afterIdle": "never"}, ['spec.sleep.afterIdle is "never"', "such as 30m"]),
    ({"rebalance__interval": "9s"}, ['spec.rebalance.interval is "9s"', "a duration from 10s to 24h, such as 5m"]),
    ({"rebalance__interval": ""}, ['spec.rebalance.interval is ""', "a duration from 10s"]),
    ({"rebalance__interval": "5 minutes"}, ['spec.rebalance.interval is "5 minutes"', "such as 5m"]),
    ({"rebalance__interval": 300}, ["spec.rebalance.interval", "must be of type string"]),
    ({"rebalance__minGainPercent": 100}, ["spec.rebalance.minGainPercent", "100", "less than or equal to 99"]),
    ({"rebalance__cooldown": "1m"}, ["cooldown is 1m but spec.rebalance.interval is 5m", "raise cooldown or lower"]),
    ({"rebalance__horizon": "60s"}, ["horizon is 60s but spec.rebalance.interval is 5m", "raise horizon or lower"]),
    ({"rebalance__horizon": "1d"}, ['spec.rebalance.horizon is "1d"', "such as 1h"]),
    ({"rebalance__maxBytesPerSecond": "fast"}, ['maxBytesPerSecond is "fast"', "an amount of bytes from 64Ki"]),
    ({"rebalance__maxBytesPerSecond": "1Ki"}, ['maxBytesPerSecond is "1Ki"', "from 64Ki to 1Ti, such as 100Mi"]),
    ({"rebalance__rollback": "Sometimes"}, ["spec.rebalance.rollback", '"Sometimes"', '"Auto", "Always", "Never"']),
    ({"rebalance__record": {}}, ["spec.rebalance.record.path is missing", "record: {path: /var/lib/moe-traces}"]),
    ({"rebalance__record": {"path": "traces"}}, ['record.path is "traces"', "must be absolute, such as /var/lib"]),
    ({"rebalance__record": {"path": "/t\n"}}, ["spec.rebalance.record.path", "write it without"]),
    ({"rebalance__record": {"path": "/t", "sampleRows": 0}}, ["record.sampleRows", "greater than or equal to 1"]),
    ({"rebalance__record": {"path": "/t", "maxBytes": "1Ki"}}, ['record.maxBytes is "1Ki"', "1Mi to 1Ti, such as 1Gi"]),
    (
        {"rebalance__windows": [{"cron": "0 2 * * *", "duration": "5s"}]},
        ['spec.rebalance.windows[].duration is "5s"', "a duration from 1m to 168h, such as 3h"],
    ),
    ({"rebalance__windows": [{"duration": "3h"}]}, ["spec.rebalance.windows[0].cron", "Required value"]),
    (
        {"rebalance__windows": [{"cron": "0 2 * *", "duration": "3h"}]},
        ["spec.rebalance.windows[0].cron", 'spec.rebalance.windows[].cron is "0 2 * *"', "five fields, minute, hour"],
    ),
    (
        {"rebalance__windows": [{"cron": "@daily", "duration": "3h"}]},
        ['spec.rebalance.windows[].cron is "@daily"', "such as 0 2 * * *"],
    ),
    (
        {"experts__autoscaling": {"maxShards": 4, "schedules": [SCHEDULE | {"cron": "0 0 7 * * 1-5"}]}},
        ['spec.experts.autoscaling.schedules[].cron is "0 0 7 * * 1-5"', "such as 0 7 * * 1-5"],
    ),
    ({"runtime": {"kubeRay": {}}}, ["spec.runtime.kubeRay.image is missing", "image: registry.example.org"]),
    ({"runtime": {"kubeRay": {"image": "a b"}}}, ['spec.runtime.kubeRay.image is "a b"', "no name of an image"]),
    (
        {"runtime__kubeRay": {"image": "x"}},
        ["spec.runtime must name exactly one of: rayCluster, kubeRay"],
    ),
    (
        {"runtime": {"kubeRay": {"image": "x"}}, "deletionPolicy": "Orphan"},
        ["spec.deletionPolicy is Orphan", "goes with it"],
    ),
    (
        {"runtime": {"kubeRay": {"image": "x", "head": {"gcsFaultTolerance": {"redisAddress": "redis"}}}}},
        ['redisAddress is "redis"', "write e.g. redis:6379"],
    ),
    (
        {"runtime": {"kubeRay": {"image": "x", "expertWorkers": {"resources": {"requests": {"cpu": "much"}}}}}},
        ["expertWorkers.resources.requests.cpu", "should match"],
    ),
    (
        {"runtime": {"kubeRay": {"image": "x", "volumes": 2 * [{"name": "a", "claimName": "b", "mountPath": "/c"}]}}},
        ["volumes has a name twice"],
    ),
    ({"suspend": "yes"}, ["spec.suspend", "must be of type boolean"]),
    ({"deletionPolicy": "Keep"}, ["spec.deletionPolicy", '"Keep"', '"Delete", "Orphan"']),
]


@pytest.mark.parametrize(("changes", "fragments"), REFUSED, ids=lambda value: "-".join(value)[:60])
def test_refused_at_apply(installed: Kubectl, changes: dict[str, Any], fragments: list[str]) -> None:
    said = refusal(installed, manifest(**deepcopy(changes)))
    assert [fragment for fragment in fragments if fragment not in said] == [], said


def test_a_negative_number_of_shards_is_called_that_and_nothing_else(installed: Kubectl, namespace: str) -> None:
    """By the bound and by the scale subresource, which the API server checks on its own; no rule adds to it."""
    installed.apply(manifest(), namespace=namespace)
    know_the_model(installed, namespace, slots=8)
    said = refusal(installed, manifest(experts__shards=-1), namespace)
    assert said.count("\n* ") == 2, said
    assert "copies" not in said


@pytest.mark.parametrize(("name", "size"), [("a.b", 3), ("9b", 2), ("a" * 41, 41)])
def test_a_name_its_children_could_not_carry_is_refused(installed: Kubectl, name: str, size: int) -> None:
    said = refusal(installed, manifest(name))
    assert f"metadata.name is '{name}' ({size} characters): use at most 40 lower-case letters" in said


GOOD = [
    {"sleep": {"afterIdle": "1h30m"}},
    {},
    {"model__source": {"huggingFace": {"repo": "org-1/Model_2.5", "revision": "0123456789abcdef" * 2 + "01234567"}}},
    {"experts": ABSENT},
    {"experts__shards": 0, "experts__copies__min": 4},
    {"experts__shards": 4, "experts__copies__min": 4, "experts__slotsPerShard": 16},
    {"experts__shards": 1, "experts__copies__min": 3},
    {
        "model__source__path": "/data/models/Mixtral 8x7B",
        "model__servedName": "mistralai/Mixtral-8x7B",
        "suspend": True,
    },
    {"serving": {"routePrefix": "/", "maxContext": 1024, "apiKeysSecretRef": {"name": "keys"}}},
    {"serving__routePrefix": "/team_a/v1.5/tiny-2"},
    {"serving__generationDefaults": "None", "serving__allowedOrigins": ["http://localhost:3000", "https://[::1]:8443"]},
    {"runtime__rayCluster__dashboardURL": "https://[::1]:8265/ray", "deletionPolicy": "Orphan"},
    {
        "experts__resources": {"gpus": 1, "accelerator": "H100", "labelSelector": {"ray.io/zone": "!in(a, b)"}},
        "attention__resources": {"gpus": 0.3333, "labelSelector": {"tier": "fast"}},
    },
    {
        "rebalance": {
            "mode": "Auto",
            "interval": "10s",
            "cooldown": "10s",
            "horizon": "10s",
            "maxBytesPerSecond": "1.5Gi",
        }
    },
    {"rebalance__windows": [{"cron": "0 2 * * *", "duration": "1h30m", "timeZone": "Europe/Berlin"}]},
    {"rebalance__windows": [{"cron": "0 2 * * *\n", "duration": "1h"}]},
    {"rebalance__windows": [{"cron": " */5  0-4,22 L jan-MAR\tMON#1 ", "duration": "1h"}]},
    {"experts__autoscaling": {"maxShards": 4, "schedules": [SCHEDULE]}},
    {"runtime": {"kubeRay": {"image": "registry.example.org:5000/moe/serving@sha256:0a1b"}}},
    {"attention__limits": {"maxBatchTokens": 2048, "maxRunning": 2048, "kvCacheTokens": 1048576}},
    {"model__source": {"download": {"url": "https://a.example.org:8443/b/c%20d/", "sha256": "0" * 64}}},
    {
        "model__source": {
            "download": {"url": "s3://b/c", "endpoint": "http://c:9", "sha256": "0" * 64, "secretRef": {"name": "t"}}
        },
        "runtime": {"kubeRay": {"image": "x"}},
    },
    {
        "model__source": {"huggingFace": {"repo": "a/b", "revision": "0" * 40, "tokenSecretRef": {"name": "t"}}},
        "runtime": {"kubeRay": {"image": "x"}},
    },
    {"rebalance__record": {"path": "/var/lib/moe traces", "sampleRows": 10000, "maxBytes": "1Mi"}},
]


@pytest.mark.parametrize("changes", GOOD, ids=lambda value: "-".join(value) or "as it is")
def test_taken_at_apply(installed: Kubectl, namespace: str, changes: dict[str, Any]) -> None:
    installed.apply(manifest("a" * 40, **deepcopy(changes)), namespace=namespace)


def test_defaults_are_stored(installed: Kubectl, namespace: str) -> None:
    installed.apply(manifest(experts=ABSENT), namespace=namespace)
    stored = installed.get("moe", "tiny", namespace)
    assert stored is not None
    assert stored["spec"]["experts"] == {"shards": 1, "copies": {"min": 1}}
    assert stored["spec"]["api"] == {"minReplicas": 2, "maxReplicas": 4, "targetOngoingRequests": 64}
    limits = {"maxBatchTokens": 512, "kvCacheTokens": 65536}
    attention = {"minReplicas": 1, "maxReplicas": 1, "targetOngoingRequests": 8, "limits": limits}
    assert stored["spec"]["attention"] == attention
    assert stored["spec"]["serving"]["queue"] == {"maxRequests": 12, "maxTokens": 262144}
    assert (stored["spec"]["model"]["dtype"], stored["spec"]["suspend"]) == ("auto", False)
    assert stored["spec"]["deletionPolicy"] == "Delete"
    rebalance = {"mode": "Off", "interval": "5m", "minGainPercent": 3, "historyLimit": 10, "rollback": "Auto"}
    assert stored["spec"]["rebalance"] == rebalance | {"windows": []}


def patch(kube: Kubectl, namespace: str, body: dict[str, Any], *flags: str) -> None:
    kube.run("patch", "moe", "tiny", "--namespace", namespace, "--type=merge", f"--patch={json.dumps(body)}", *flags)


def patch_status(kube: Kubectl, namespace: str, **status: Any) -> None:
    patch(kube, namespace, {"status": status}, "--subresource=status")


def know_the_model(kube: Kubectl, namespace: str, slots: int) -> None:
    """What the operator writes once it knows that 16 experts have ``slots`` slots on each shard."""
    patch_status(kube, namespace, slotsPerShard=slots, model=MODEL)


def test_the_kind_of_runtime_cannot_change(installed: Kubectl, namespace: str) -> None:
    installed.apply(manifest(), namespace=namespace)
    said = refusal(installed, manifest(runtime={"kubeRay": {"image": "x"}}), namespace)
    assert "spec.runtime cannot change from one kind to another: create another MoEDeployment" in said


def test_a_mounted_source_changes_while_nothing_runs(installed: Kubectl, namespace: str) -> None:
    kube_ray = {"kubeRay": {"image": "x"}}
    one, other = ({"image": {"reference": name}} for name in "ab")
    installed.apply(manifest(runtime=kube_ray, model__source=one), namespace=namespace)
    said = refusal(installed, manifest(runtime=kube_ray, model__source=other), namespace)
    assert "a claim or an image that pods mount can change while nothing runs: set spec.experts.shards to 0" in said
    installed.apply(manifest(runtime=kube_ray, model__source=one, experts__shards=8), namespace=namespace)
    installed.apply(manifest(runtime=kube_ray, model__source=other, experts__shards=0), namespace=namespace)
    installed.apply(manifest(runtime=kube_ray, model__source=other), namespace=namespace)


def test_the_address_of_ray_cannot_change(installed: Kubectl, namespace: str) -> None:
    installed.apply(manifest(), namespace=namespace)
    said = refusal(installed, manifest(runtime__rayCluster__dashboardURL="http://10.0.0.1:8265"), namespace)
    assert "dashboardURL is immutable: it is 'http://127.0.0.1:8265' and cannot become 'http://10.0.0.1:8265'" in said
    assert "create another MoEDeployment" in said
    installed.apply(manifest(runtime__rayCluster__serveURL="http://127.0.0.1:9000"), namespace=namespace)


def test_scale_changes_shards_and_wakes_from_zero_to_one(installed: Kubectl, namespace: str) -> None:
    installed.apply(manifest(), namespace=namespace)
    installed.run("scale", "moe", "tiny", "--namespace", namespace, "--replicas=3")
    stored = installed.get("moe", "tiny", namespace)
    assert stored is not None
    assert stored["spec"]["experts"]["shards"] == 3
    # Autoscalers go from 0 to 1 first, whatever copies.min and the slots known may need.
    know_the_model(installed, namespace, slots=1)
    for shards in (0, 1):
        installed.run("scale", "moe", "tiny", "--namespace", namespace, f"--replicas={shards}")


def scale(kube: Kubectl, namespace: str, shards: int) -> None:
    kube.run("scale", "moe", "tiny", "--namespace", namespace, f"--replicas={shards}")


@pytest.mark.parametrize(
    ("experts", "slots", "shards", "sum_"),
    [
        ({"shards": 4, "copies": {"min": 2}}, 9, 3, ("3 x 9 = 27", "16 experts x 2 (copies.min) need 32", 4)),
        ({"shards": 4, "copies": {"min": 2}}, 99, 1, ("1 x 16 = 16", "16 experts x 2 (copies.min) need 32", 2)),
        ({"shards": 4, "slotsPerShard": 5}, 16, 3, ("3 x 5 = 15", "16 experts x 1 (copies.min) need 16", 4)),
    ],
)
def test_a_scale_below_what_holds_the_model_is_refused_with_the_sum(
    installed: Kubectl, namespace: str, experts: dict[str, Any], slots: int, shards: int, sum_: tuple[str, str, int]
) -> None:
    body = manifest(experts=experts)
    installed.apply(body, namespace=namespace)
    know_the_model(installed, namespace, slots)
    wished = deepcopy(body)
    wished["spec"]["experts"]["shards"] = shards
    with pytest.raises(KubectlError) as refused:
        scale(installed, namespace, shards)
    for said in (str(refused.value), refusal(installed, wished, namespace)):
        assert f"spec.experts.shards is {shards}: they have {sum_[0]} slots per layer, and {sum_[1]}" in said
        assert f"use at least {sum_[2]} shards" in said
    # More is nearer to enough; and what has too little may be written otherwise, and may go.
    scale(installed, namespace, 5)
    scale(installed, namespace, 4)
    know_the_model(installed, namespace, slots=1)
    patch(installed, namespace, {"metadata": {"finalizers": ["a.b/c"]}})
    patch(installed, namespace, {"spec": {"suspend": True}})
    patch_status(installed, namespace, readyShards=1)
    patch(installed, namespace, {"metadata": {"finalizers": None}})
    scale(installed, namespace, 6)
    scale(installed, namespace, 0)


@pytest.mark.parametrize(
    ("status", "change"),
    [
        ({}, {"experts": {"shards": 1}}),
        ({"model": MODEL}, {"experts": {"shards": 1}}),
        ({"model": MODEL, "slotsPerShard": 4}, {"experts": {"shards": 1, "slotsPerShard": 32}, "suspend": True}),
        ({"model": MODEL, "slotsPerShard": 4}, {"experts": {"shards": 1}, "model": {"source": {"path": "other"}}}),
        ({"model": MODEL, "slotsPerShard": -(2**40)}, {"experts": {"shards": 1}}),
        ({"model": MODEL | {"experts": 2**62}, "slotsPerShard": 4}, {"experts": {"shards": 1}}),
        ({"model": MODEL | {"experts": 0}, "slotsPerShard": 4}, {"experts": {"shards": 1}}),
    ],
)
def test_what_the_sum_cannot_be_made_of_is_no_hindrance(
    installed: Kubectl, namespace: str, status: dict[str, Any], change: dict[str, Any]
) -> None:
    installed.apply(manifest(experts__copies__min=1), namespace=namespace)
    if status:
        patch_status(installed, namespace, **status)
    patch(installed, namespace, {"spec": change})


def test_columns_and_categories(installed: Kubectl, namespace: str) -> None:
    installed.apply(manifest(), namespace=namespace)
    know_the_model(installed, namespace, slots=8)
    ready = {"type": "Ready", "status": "True", "reason": "Available", "message": "", "observedGeneration": 1}
    patch_status(
        installed,
        namespace,
        readyShards=4,
        url="http://h/v1",
        placement={"revision": 1, "epoch": 1, "balance": "0.96"},
        conditions=[ready | {"lastTransitionTime": "2026-01-02T03:04:05Z"}],
    )
    head, row = installed.run("get", "moe", "--namespace", namespace, "-o", "wide").splitlines()
    always = ["NAME", "MODEL", "SHARDS", "READY-SHARDS", "BALANCE", "READY", "REASON"]
    assert head.split() == [*always, "URL", "TOKENS/S", "COST/M-TOKENS", "CURRENCY", "AGE"]
    assert row.split()[:-1] == ["tiny", "Mixtral", "4", "4", "0.96", "True", "Available", "http://h/v1"]
    installed.run("wait", "--for=condition=Ready", "moe/tiny", "--namespace", namespace, "--timeout=5s")
    for category in ("all", "moe-operator"):
        assert "moedeployment.moe-operator.io/tiny" in installed.run("get", category, "-n", namespace, "-o", "name")


def test_right_after_apply_kstatus_sees_that_nobody_has_looked_yet(installed: Kubectl, namespace: str) -> None:
    """By the default of the status, which is filled in although nobody may write there at creation."""
    installed.apply(manifest(), namespace=namespace)
    stored = installed.get("moe", "tiny", namespace)
    assert stored is not None
    assert stored["status"] == {"observedGeneration": -1}
    assert kstatus(stored) == "InProgress"
    patch_status(installed, namespace, observedGeneration=1)
    stored = installed.get("moe", "tiny", namespace)
    assert stored is not None
    assert (stored["status"], kstatus(stored)) == ({"observedGeneration": 1}, "Current")
