"""What ``moe-serve`` hands to Ray Serve, and what it refuses before anything starts."""

from typing import Any

import pytest

from moe_contract.applications import (
    AttentionConfig,
    CoreArgs,
    DirectoryConfig,
    ModelArgs,
    RecordConfig,
    RoutingConfig,
    ShardArgs,
)
from moe_contract.model import ModelFacts
from moe_placement.encoding import decode_placement
from moe_serving import cli
from moe_serving.standalone.desired import Wanted, desired_applications
from moe_serving.standalone.errors import UsageError

FACTS = ModelFacts(
    digest="sha256:00",
    architecture="Mixtral",
    layers=3,
    experts=16,
    top_k=2,
    bytes_per_expert=1024,
    dtype="float32",
    max_context=64,
)


def wanted(**fields: Any) -> Wanted:
    defaults: dict[str, Any] = {
        "model": ModelArgs(path="/m"),
        "served_name": "tiny",
        "route_prefix": "/",
        "shards": 4,
        "copies": 2,
        "api_replicas": 2,
        "attention_replicas": 1,
        "max_context": None,
        "generation_defaults": "Model",
        "allowed_origins": (),
        "queue_requests": 9,
        "queue_tokens": 5000,
        "record": None,
        "routing": None,
        "wire": "Model",
        "api_keys": (),
        "internal_key": "secret",
    }
    return Wanted(**(defaults | fields))


def deployment(application: dict[str, Any], name: str) -> dict[str, Any]:
    return next(entry for entry in application["deployments"] if entry["name"] == name)


def test_one_core_and_an_application_per_shard() -> None:
    core, *shards = desired_applications(wanted(), FACTS, gpus=0)
    assert CoreArgs.model_validate(core["args"]).model.path == "/m"
    assert [shard["route_prefix"] for shard in (core, *shards)] == ["/", None, None, None, None]
    assert [ShardArgs.model_validate(shard["args"]).index for shard in shards] == [0, 1, 2, 3]
    directory = DirectoryConfig.model_validate(deployment(core, "directory")["user_config"])
    assert [ref.application for ref in directory.shards] == [shard["name"] for shard in shards]
    assert directory.min_copies == 2
    placement = decode_placement(directory.placement or "")
    assert (placement.layers, placement.experts, placement.shard_slots) == (3, 16, (8, 8, 8, 8))
    assert (placement.copies == 2).all()


def test_bounds_of_the_queue_reach_attention_and_the_api() -> None:
    core, *_ = desired_applications(wanted(), FACTS, gpus=0)
    attention = AttentionConfig.model_validate(deployment(core, "attention")["user_config"])
    assert (attention.queue_requests, attention.queue_tokens) == (9, 5000)
    assert deployment(core, "api")["user_config"]["queue_tokens"] == 5000


def test_what_is_recorded_is_told_to_attention() -> None:
    def record(wish: Wanted) -> RecordConfig | None:
        core, *_ = desired_applications(wish, FACTS, gpus=0)
        return AttentionConfig.model_validate(deployment(core, "attention")["user_config"]).record

    config = RecordConfig(path="/r", sample_rows=7, max_bytes=1 << 21)
    assert record(wanted(record=config)) == config
    assert record(wanted()) is None


def test_adaptive_routing_is_told_to_attention_and_named_by_the_api() -> None:
    config = RoutingConfig(calibration="/c.json", pairs_saved=12.5)
    core, *_ = desired_applications(wanted(routing=config), FACTS, gpus=0)
    assert AttentionConfig.model_validate(deployment(core, "attention")["user_config"]).routing == config
    assert deployment(core, "api")["user_config"]["pairs_saved"] == 12.5


def test_exact_routing_is_told_to_nobody() -> None:
    core, *_ = desired_applications(wanted(), FACTS, gpus=0)
    assert "routing" not in deployment(core, "attention")["user_config"]
    assert "pairs_saved" not in deployment(core, "api")["user_config"]


def test_fp8_rows_are_told_to_attention_and_named_by_the_api_and_else_to_nobody() -> None:
    for wire in ("FP8", "Model"):
        core, *_ = desired_applications(wanted(wire=wire), FACTS, gpus=0)
        for name in ("attention", "api"):
            config = deployment(core, name)["user_config"]
            assert config.get("wire") == ("FP8" if wire == "FP8" else None)


def test_settings_of_the_api() -> None:
    core, *_ = desired_applications(
        wanted(generation_defaults="None", allowed_origins=("http://localhost:3000",)), FACTS, gpus=0
    )
    config = deployment(core, "api")["user_config"]
    assert (config["generation_defaults"], config["allowed_origins"]) == ("None", ["http://localhost:3000"])


def test_replicas_are_as_many_as_asked_for() -> None:
    core, *_ = desired_applications(wanted(api_replicas=3, attention_replicas=2), FACTS, gpus=0)
    scales = [deployment(core, name)["autoscaling_config"] for name in ("api", "attention")]
    assert [(scale["min_replicas"], scale["max_replicas"]) for scale in scales] == [(3, 3), (2, 2)]
    assert "autoscaling_config" not in deployment(core, "directory")


def test_keys_leave_only_as_digests() -> None:
    core, *_ = desired_applications(wanted(api_keys=("sk-clear",), internal_key="in-clear"), FACTS, gpus=0)
    assert "sk-clear" not in str(core)
    assert "in-clear" not in str(core)
    config = deployment(core, "api")["user_config"]
    assert [len(digest) for digest in (*config["api_key_sha256"], config["internal_key_sha256"])] == [64, 64]


@pytest.mark.parametrize(
    ("shards", "replicas", "gpus", "device", "share"),
    [
        (4, 1, 1, "auto", 0.2),
        (4, 2, 2, "cuda", 0.3333),
        (1, 1, 8, "auto", 1.0),
        (4, 1, 2, "cpu", None),
        (4, 1, 0, "auto", None),
    ],
)
def test_gpus_are_shared_evenly(shards, replicas, gpus, device, share) -> None:
    asked = wanted(shards=shards, copies=1, attention_replicas=replicas, model=ModelArgs(path="/m", device=device))
    core, *others = desired_applications(asked, FACTS, gpus)
    options = None if share is None else {"num_cpus": 0, "num_gpus": share}
    for entry in (deployment(core, "attention"), *(deployment(other, "experts") for other in others)):
        assert entry.get("ray_actor_options") == options
    assert "ray_actor_options" not in deployment(core, "api")


@pytest.mark.parametrize(
    ("fields", "gpus", "message"),
    [
        ({"shards": 2, "copies": 3}, 0, "--shards 2 --copies 3: 3 copies of an expert need 3 shards"),
        ({"model": ModelArgs(path="/m", device="cuda")}, 0, "--device cuda: Ray finds no GPU"),
    ],
    ids=str,
)
def test_what_cannot_work(fields, gpus, message) -> None:
    with pytest.raises(UsageError, match=message):
        desired_applications(wanted(**fields), FACTS, gpus)


@pytest.mark.parametrize(
    ("flags", "replicas", "defaults"),
    [
        ([], (2, 1), "Model"),
        (["--api-replicas", "3", "--attention-replicas", "2", "--generation-config", "none"], (3, 2), "None"),
        (["--generation-config", "model"], (2, 1), "Model"),
    ],
)
def test_flags_of_moe_serve_and_what_they_are_without(
    flags: list[str], replicas: tuple[int, int], defaults: str
) -> None:
    asked = cli._wanted(cli._parser().parse_args(["--model", "models/tiny", *flags]))
    core, *_ = desired_applications(asked, FACTS, gpus=0)
    scales = [deployment(core, name)["autoscaling_config"] for name in ("api", "attention")]
    assert tuple(scale["min_replicas"] for scale in scales) == replicas
    assert deployment(core, "api")["user_config"]["generation_defaults"] == defaults


def test_fp8_weights_are_an_argument_of_every_process_and_else_nobody_is_told() -> None:
    for weights in ("FP8", "Checkpoint"):
        model = wanted().model.model_copy(update={"weights": weights})
        for application in desired_applications(wanted(model=model), FACTS, gpus=0):
            told = application["args"]["model"]
            assert told.get("weights") == ("FP8" if weights == "FP8" else None)
            assert ModelArgs.model_validate(told).weights == weights
