"""What a real API server says to a manifest: one line per rule, through ``kubectl apply`` as a user has it."""

from copy import deepcopy
from typing import Any

import pytest
from applied import ABSENT, DASHBOARD, know_the_model, manifest, refusal

from moe_dev.kube import Kubectl

pytestmark = pytest.mark.e2e


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
    ({"rebalance__linkBytesPerSecond": "10Gb/s"}, ['linkBytesPerSecond is "10Gb/s"', "64Ki to 1Ti, such as 1250M"]),
    ({"rebalance__rollback": "Sometimes"}, ["spec.rebalance.rollback", '"Sometimes"', '"Auto", "Always", "Never"']),
    (
        {"routing": {"mode": "Adaptive"}},
        ["spec.routing.calibration is missing", "moe-serve calibrate", "calibration: {path: /models/tiny.calib"],
    ),
    ({"routing": {"mode": "Adaptive", "calibration": {}}}, ["spec.routing.calibration.path is missing", "write e.g."]),
    (
        {"routing": {"mode": "Adaptive", "calibration": {"path": "c.json"}}},
        ['spec.routing.calibration.path is "c.json"', "must be absolute, such as /models/tiny.calibration.json"],
    ),
    ({"routing": {"pairsSaved": 51}}, ["spec.routing.pairsSaved", "51", "less than or equal to 50"]),
    ({"routing": {"pairsSaved": 0}}, ["spec.routing.pairsSaved", "0", "greater than or equal to 1"]),
    (
        {"routing": {"maxLossIncrease": "0.0"}},
        ['spec.routing.maxLossIncrease is "0.0"', "a decimal number above 0 and below 1, in quotes, such as '0.005'"],
    ),
    ({"routing": {"maxLossIncrease": "5%"}}, ['spec.routing.maxLossIncrease is "5%"']),
    ({"experts__weights": "INT8"}, ["spec.experts.weights", '"INT8"', '"Checkpoint", "FP8"']),
    ({"experts__wire": "FP4"}, ["spec.experts.wire", '"FP4"', '"Model", "FP8"']),
    ({"routing": {"mode": "Sparse"}}, ["spec.routing.mode", '"Sparse"', '"Exact", "Adaptive"']),
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
            "linkBytesPerSecond": "64Ki",
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
    {"routing": {"mode": "Exact"}},
    {"experts__wire": "FP8", "experts__weights": "FP8"},
    {"routing": {"mode": "Adaptive", "maxLossIncrease": "0.000001", "calibration": {"path": "/models/c.json"}}},
]


@pytest.mark.parametrize("changes", GOOD, ids=lambda value: "-".join(value) or "as it is")
def test_taken_at_apply(installed: Kubectl, namespace: str, changes: dict[str, Any]) -> None:
    installed.apply(manifest("a" * 40, **deepcopy(changes)), namespace=namespace)
