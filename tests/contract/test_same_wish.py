"""The operator and ``moe-serve`` make the same Serve configuration of the same wish."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from moe_facts import FACTS

from moe_contract.applications import DIRECTORY, ModelArgs, RecordConfig, key_digest, key_digests
from moe_contract.base import CONTRACT
from moe_contract.report import DirectoryReport, Progress, ShardReport
from moe_contract.serve.merge import Change, body
from moe_contract.serve.state import ServeState
from moe_operator.api import MoEDeployment
from moe_operator.kube.secrets import KeyHashes
from moe_operator.reconcile.intent import next_intent
from moe_operator.reconcile.world import World
from moe_operator.runtimes.ray_cluster.render import change_of
from moe_operator.runtimes.ray_cluster.state import runtime_state
from moe_serving.standalone.desired import Wanted, desired_applications

INTERNAL_KEY = "internal"
OWN = {"term", "revision"}
"""Of the directory's configuration: the operator counts leaders and placements, ``moe-serve`` makes one of each."""


@st.composite
def wishes(draw: st.DrawFn) -> Wanted:
    shards = draw(st.integers(1, 6))
    return Wanted(
        model=ModelArgs(
            path="/models/m",
            dtype=draw(st.sampled_from(["auto", "float32", "bfloat16", "float16"])),
            weights=draw(st.sampled_from(["Checkpoint", "FP8"])),
        ),
        served_name=draw(st.sampled_from(["tiny", "org/model"])),
        route_prefix=draw(st.sampled_from(["/", "/tiny", "/team/tiny"])),
        shards=shards,
        copies=draw(st.integers(1, min(3, shards))),
        api_replicas=draw(st.integers(1, 4)),
        attention_replicas=draw(st.integers(1, 4)),
        max_context=draw(st.none() | st.integers(2, 512)),
        generation_defaults=draw(st.sampled_from(["Model", "None"])),
        allowed_origins=draw(st.sampled_from([(), ("http://localhost:3000",), ("https://a.test", "https://b.test")])),
        queue_requests=draw(st.integers(1, 100)),
        queue_tokens=draw(st.integers(2, 5000)),
        record=draw(
            st.none()
            | st.builds(RecordConfig, path=st.just("/r"), sample_rows=st.integers(1, 99), max_bytes=st.just(1 << 21))
        ),
        routing=None,
        wire=draw(st.sampled_from(["Model", "FP8"])),
        api_keys=tuple(draw(st.lists(st.text("ab", min_size=1, max_size=2), max_size=4))),
        internal_key=INTERNAL_KEY,
    )


def by_moe_serve(wish: Wanted, gpus: int) -> Any:
    applications = desired_applications(wish, FACTS, gpus)
    change = Change(wish.application, applications, {"host": "127.0.0.1", "port": 8000}, "HeadOnly")
    return without_own(json.loads(body(ServeState(), applications, [change])), wish.application)


def by_operator(wish: Wanted, resources: Any) -> Any:
    """What it writes once the directory has told what the model is, and on which nodes shards are.

    ``resources``: that shards and attention replicas ask for.
    """
    moe = MoEDeployment.parse(
        {
            "apiVersion": "moe-operator.io/v1alpha1",
            "kind": "MoEDeployment",
            "metadata": {"name": "tiny", "namespace": "team", "uid": "u-1"},
            "spec": {
                "model": {
                    "source": {"path": wish.model.path},
                    "servedName": wish.served_name,
                    "dtype": wish.model.dtype,
                },
                "experts": {
                    "shards": wish.shards,
                    "copies": {"min": wish.copies},
                    "resources": resources,
                    "wire": wish.wire,
                    "weights": wish.model.weights,
                },
                "api": {"minReplicas": wish.api_replicas, "maxReplicas": wish.api_replicas},
                "attention": {
                    "minReplicas": wish.attention_replicas,
                    "maxReplicas": wish.attention_replicas,
                    "resources": resources,
                },
                "serving": {
                    "routePrefix": wish.route_prefix,
                    "generationDefaults": wish.generation_defaults,
                    "allowedOrigins": list(wish.allowed_origins),
                    "queue": {"maxRequests": wish.queue_requests, "maxTokens": wish.queue_tokens},
                    **({} if wish.max_context is None else {"maxContext": wish.max_context}),
                },
                "rebalance": {"record": asked(wish.record)} if wish.record else {},
                "runtime": {"rayCluster": {"dashboardURL": "http://ray:8265", "serveURL": "http://127.0.0.1:8000"}},
            },
        }
    )
    world = World(
        moe=moe,
        now=datetime(2026, 1, 2, tzinfo=UTC),
        runtime=replace(
            runtime_state(ServeState(), moe),
            report=DirectoryReport(
                term=1,
                revision=0,
                epoch=0,
                model=FACTS,
                shards=tuple(ShardReport(index=index, phase="Ready") for index in range(wish.shards)),
                progress=Progress(copied=0, total=0, settled=True),
                contract=CONTRACT,
            ),
        ),
        keys=KeyHashes(key_digest(INTERNAL_KEY), key_digests(wish.api_keys)),
    )
    change = change_of(moe, next_intent(world).desired)
    return without_own(json.loads(body(ServeState(), change.applications, [change])), world.core_name)


def asked(record: RecordConfig) -> Any:
    return {"path": record.path, "sampleRows": record.sample_rows, "maxBytes": str(record.max_bytes)}


def without_own(config: Any, core: str) -> Any:
    """A configuration without what each of the two has of its own: the applications' name, and ``OWN``."""
    assert core in json.dumps(config)
    config = json.loads(json.dumps(config).replace(core, "core"))
    for application in config["applications"]:
        for deployment in application["deployments"]:
            if deployment["name"] == DIRECTORY:
                assert deployment["user_config"].keys() >= OWN
                deployment["user_config"] = {k: v for k, v in deployment["user_config"].items() if k not in OWN}
    return config


@given(wishes(), st.integers(0, 4))
def test_the_same_wish_is_the_same_configuration(wish: Wanted, gpus: int) -> None:
    """``gpus``: of the machine, of which ``moe-serve`` gives each process an equal part."""
    each = -(-(wish.shards + wish.attention_replicas) // gpus) if gpus else 0
    asked = {"gpus": int(10_000 / each) / 10_000} if gpus else None
    mine, theirs = by_moe_serve(wish, gpus), by_operator(wish, asked)
    # On a Ray of its own there is one node; on somebody's cluster every node answers, as Serve has it by default.
    assert mine.pop("proxy_location") == "HeadOnly"
    assert mine == theirs
