"""What shall run, step by step: what an operator, a restart, or others left there."""

from dataclasses import replace
from typing import Any

import pytest
from intents import desired, shards, told
from moe_facts import FACTS

from moe_contract.applications import ReplicaScale, ShardConfig, application_name
from moe_contract.rendering import render
from moe_operator.kube.secrets import KeyHashes
from moe_operator.reconcile.intent import RETRY_SECONDS, Step
from moe_operator.runtimes.port import Application, ApplicationPhase
from moe_placement import balanced_placement
from moe_placement.encoding import decode_placement, encode_placement

CORE = application_name("team", "tiny", "u-1")


def test_settings_travel_in_user_config_only(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    before = plane.run()
    plane.change(
        shards=2,
        spec={
            "model": {"source": {"path": "models/tiny"}, "servedName": "other"},
            "api": {"minReplicas": 3, "maxReplicas": 5, "targetOngoingRequests": 7},
            "attention": {
                "minReplicas": 2,
                "maxReplicas": 3,
                "limits": {"maxBatchTokens": 64, "maxRunning": 5, "kvCacheTokens": 4096},
            },
            "serving": {
                "maxContext": 128,
                "generationDefaults": "None",
                "allowedOrigins": ["https://a.b"],
                "queue": {"maxRequests": 7, "maxTokens": 900},
            },
            "rebalance": {"maxBytesPerSecond": "100Mi", "interval": "10s"},
        },
    )
    plane.more = {"keys": KeyHashes("i" * 64, ("a" * 64,))}
    after = plane.run()
    was, now = desired(before), desired(after)
    assert now == replace(
        was,
        api=was.api.model_copy(
            update={
                "served_name": "other",
                "max_context": 128,
                "generation_defaults": "None",
                "allowed_origins": ("https://a.b",),
                "api_key_sha256": ("a" * 64,),
            }
        ),
        attention=was.attention.model_copy(
            update={
                "max_batch_tokens": 64,
                "max_running": 5,
                "kv_cache_tokens": 4096,
                "queue_requests": 7,
                "queue_tokens": 900,
                "statistics_seconds": 10.0,
            }
        ),
        api_scale=ReplicaScale(min_replicas=3, max_replicas=5, target_ongoing_requests=7),
        attention_scale=ReplicaScale(min_replicas=2, max_replicas=3, target_ongoing_requests=8),
        max_bytes_per_second=100 << 20,
    )
    # No request may exceed the cache of a replica, so each api is told of it.
    assert render(now)[0]["deployments"][0]["user_config"]["kv_cache_tokens"] == 4096
    assert was.max_bytes_per_second == 0
    for shard in render(now)[1:]:
        (experts,) = shard["deployments"]
        assert ShardConfig.model_validate(experts["user_config"]).max_bytes_per_second == 100 << 20
    assert was.api_scale == ReplicaScale(min_replicas=2, max_replicas=4, target_ongoing_requests=64)
    assert was.attention_scale == ReplicaScale.fixed(1, 8)
    assert was.api.internal_key_sha256 == "i" * 64


def test_without_keys_nothing_is_written(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.more = {"keys": None}
    assert plane.decide().step is Step.NOTHING


def test_a_restarted_operator_goes_on_where_the_former_was(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    before = plane.run()
    plane.more = {"term": 8}
    after = plane.run()
    assert told(after) == told(before)
    assert after.target.model_copy(update={"term": 1}) == before.target


def test_what_a_foreign_writer_removed_comes_back_as_it_was(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    before = plane.run().desired
    plane.applications = {}
    assert plane.decide().desired == before


def test_without_memory_applications_on_their_way_out_are_waited_for(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.applications = {CORE: Application(CORE, ApplicationPhase.STARTING, leaving=True)}
    assert plane.decide().step is Step.REPLACE


def test_without_a_report_everything_stays(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    before = plane.run().desired
    plane.answers = False
    plane.change(shards=4)
    assert plane.run().desired == before


def test_an_application_that_serve_gave_up_is_tried_anew(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    shard = f"{CORE}.experts-1"
    plane.set_phase(shard, ApplicationPhase.FAILED)
    assert shards(plane.decide()) == [0, 1]
    plane.more = {"failed_seconds": {shard: RETRY_SECONDS}}
    assert shards(plane.run()) == [0]
    plane.more = {}
    assert shards(plane.run()) == [0, 1]


@pytest.mark.parametrize(("serving", "kept"), [(True, True), (False, False)])
def test_a_core_that_failed_to_update_but_serves_is_left(make_plane, serving: bool, kept: bool) -> None:
    plane = make_plane(shards=1)
    plane.settle()
    plane.set_phase(CORE, ApplicationPhase.FAILED)
    plane.more = {"failed_seconds": {CORE: RETRY_SECONDS}}
    plane.answers = serving
    assert (CORE not in plane.decide().without) == kept


LARGEST = FACTS.model_copy(update={"layers": 61, "experts": 512})


def test_the_largest_deployment_is_placed(make_plane) -> None:
    plane = make_plane(shards=512)
    plane.facts = LARGEST
    plane.run()
    intent = plane.decide()
    placed = decode_placement(intent.target.placement)
    assert (intent.problem, placed.layers, placed.shards, placed.copies.min()) == (None, 61, 512, 1)


@pytest.mark.parametrize(
    ("layers", "experts", "wishes"),
    [
        (200, 1024, {"shards": 1}),
        (200, 1024, {"shards": 1024}),
        (61, 512, {"shards": 512, "slotsPerShard": 64}),
        (61, 512, {"shards": 512, "copies": {"min": 64}}),
        (1, 32767, {"shards": 1, "slotsPerShard": 1}),
        (1024, 32767, {"shards": 1024}),
    ],
)
def test_what_is_larger_than_can_be_placed_is_told_before_anything_is_computed(
    make_plane, layers: int, experts: int, wishes: dict[str, Any]
) -> None:
    plane = make_plane(**wishes)
    plane.facts = FACTS.model_copy(update={"layers": layers, "experts": experts})
    plane.run()
    problem = plane.decide().problem
    assert problem.reason == "PlacementTooLarge"
    assert f"{layers} MoE layers x " in problem.message
    assert "at most 200000" in problem.message


def test_a_placement_on_ray_that_no_operator_made_is_not_believed(make_plane) -> None:
    """Whoever may write to Ray could name thousands of shards, or slots, and have the operator keep them."""
    plane = make_plane()
    plane.run()
    plane.run()

    def edit(**fields: Any) -> None:
        told = plane.told[plane.name]
        plane.told[plane.name] = replace(told, directory=told.directory.model_copy(update=fields))

    edit(placement=encode_placement(balanced_placement(2, 8, [4, 4] + [0] * 2000)))
    assert len(plane.decide().target.shards) == 2
    edit(slots_per_shard=10**9, placement=encode_placement(balanced_placement(2, 8, [4, 4])))
    assert plane.decide().problem.reason == "PlacementTooLarge"
