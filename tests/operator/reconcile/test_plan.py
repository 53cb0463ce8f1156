"""What shall run, step by step: exact sequences from what is observed."""

from typing import Any

import pytest
from moe_facts import FACTS

from moe_operator.api import Reason
from moe_operator.backends.serve_rest.merge import Change
from moe_operator.backends.serve_rest.state import Application
from moe_operator.reconcile.placing import impossible
from moe_operator.reconcile.plan import RETRY_SECONDS, Plan, Step, serve_http_options
from moe_placement import balanced_placement
from moe_placement.wire.applications import application_name
from moe_placement.wire.codec import decode_placement, encode_placement
from moe_placement.wire.model import ModelProblem
from moe_placement.wire.sizes import MOST_SLOTS

CORE = application_name("team", "tiny", "u-1")
ANOTHER_MODEL = FACTS.model_copy(update={"digest": "sha256:2"})


def shards(plan: Plan) -> list[int]:
    """Indices of the shard applications that shall run."""
    return [int(a["name"].rpartition("-")[2]) for a in plan.applications or () if ".experts-" in a["name"]]


def slots(plan: Plan) -> tuple[int, ...]:
    """Slots per layer of each shard in the placement wanted."""
    return decode_placement(plan.target.placement).shard_slots if plan.target.placement else ()


def told(plan: Plan) -> tuple[list[int], tuple[int, ...], int]:
    return shards(plan), slots(plan), plan.target.revision


def core(plan: Plan) -> Any:
    assert plan.applications is not None
    return plan.applications[0]


def user_config(plan: Plan, deployment: str) -> Any:
    return next(d["user_config"] for d in core(plan)["deployments"] if d["name"] == deployment)


def test_creation_core_first_then_all_shards_with_the_first_placement(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.facts = None
    assert told(plane.run()) == ([], (), 0)
    assert told(plane.run()) == ([], (), 0)
    plane.facts = type(plane).__dataclass_fields__["facts"].default
    assert told(plane.run()) == ([0, 1], (4, 4), 1)
    assert told(plane.run()) == ([0, 1], (4, 4), 1)


@pytest.mark.parametrize(
    ("before", "after", "steps"),
    [
        # Up: the new shards and the placement over all of them at once; the directory moves copies before it frees any.
        (1, 3, [([0, 1, 2], (8, 8, 8), 2)] * 2),
        (2, 4, [([0, 1, 2, 3], (4, 4, 4, 4), 2)] * 2),
        # Down: first those that leave must hold nothing, then they go.
        (4, 2, [([0, 1, 2, 3], (4, 4, 0, 0), 2), ([0, 1], (4, 4), 3), ([0, 1], (4, 4), 3)]),
        (3, 1, [([0, 1, 2], (8, 0, 0), 2), ([0], (8,), 3), ([0], (8,), 3)]),
    ],
)
def test_scaling(make_plane, before: int, after: int, steps: list[Any]) -> None:
    kept = 8 if 1 in (before, after) else 4
    plane = make_plane(shards=before, slotsPerShard=kept)
    plane.settle()
    plane.change(shards=after, slotsPerShard=kept)
    assert [told(plane.run()) for _ in steps] == steps


def test_a_shard_leaves_only_when_it_holds_nothing_and_the_directory_has_settled(make_plane) -> None:
    plane = make_plane(shards=3, slotsPerShard=8)
    plane.settle()
    plane.change(shards=1, slotsPerShard=8)
    plane.settled = False
    for _ in range(3):
        assert told(plane.run()) == ([0, 1, 2], (8, 0, 0), 2)
    plane.settled = True
    assert told(plane.run()) == ([0], (8,), 3)


def test_a_lost_shard_may_leave(make_plane) -> None:
    plane = make_plane(shards=2, slotsPerShard=8)
    plane.settle()
    plane.change(shards=1, slotsPerShard=8)
    plane.run()
    held = plane.report().shards[1].model_copy(update={"held": 7, "phase": "Lost"})
    report = plane.report()
    plane.more = {"report": report.model_copy(update={"shards": (report.shards[0], held)})}
    assert told(plane.plan()) == ([0], (8,), 3)
    plane.more = {
        "report": report.model_copy(update={"shards": (report.shards[0], held.model_copy(update={"phase": "Ready"}))})
    }
    assert told(plane.plan()) == ([0, 1], (8, 0), 2)


def test_a_change_of_mind_while_shards_are_leaving(make_plane) -> None:
    plane = make_plane(shards=4)
    plane.settle()
    plane.change(shards=4, slotsPerShard=4)
    plane.settle()
    plane.change(shards=2, slotsPerShard=4)
    plane.settled = False
    assert told(plane.run()) == ([0, 1, 2, 3], (4, 4, 0, 0), 3)
    plane.change(shards=3, slotsPerShard=4)
    assert told(plane.run()) == ([0, 1, 2, 3], (4, 4, 4, 0), 4)
    plane.settled = True
    assert told(plane.run()) == ([0, 1, 2], (4, 4, 4), 5)


def test_removing_empty_shards_moves_no_expert(make_plane) -> None:
    plane = make_plane(shards=5, slotsPerShard=3)
    plane.settle()
    plane.change(shards=3, slotsPerShard=3)
    draining = decode_placement(plane.run().target.placement)
    trimmed = decode_placement(plane.run().target.placement)
    assert trimmed.slots.tolist() == draining.slots.tolist()


def test_slots_are_kept_from_creation(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    plane.change(shards=4)
    assert slots(plane.run()) == (4, 4, 4, 4)
    plane.settle()
    assert plane.moe.status.slots_per_shard == 4
    # Of four slots each, no fewer than two hold eight experts.
    plane.change(shards=1)
    plane.settle()
    assert plane.moe.status.shards == 2


WOKEN = [
    # asked for, and how many run: an autoscaler that wakes goes from 0 to 1 first
    ({"shards": 1, "copies": {"min": 2}}, (8, 8)),
    ({"shards": 3, "copies": {"min": 2}}, (6, 6, 6)),
    ({"shards": 1, "slotsPerShard": 3}, (3, 3, 3)),
    ({"shards": 2, "slotsPerShard": 3, "copies": {"min": 2}}, (3, 3, 3, 3, 3, 3)),
    ({"shards": 1, "slotsPerShard": 100, "copies": {"min": 2}}, (100, 100)),
    ({"shards": 5, "slotsPerShard": 3}, (3, 3, 3, 3, 3)),
]


@pytest.mark.parametrize(("experts", "runs"), WOKEN)
def test_what_runs_is_at_least_what_the_copies_need(make_plane, experts: Any, runs: tuple[int, ...]) -> None:
    plane = make_plane(**experts)
    plane.settle()
    assert slots(plane.run()) == runs
    status = plane.tell()
    assert (status.shards, status.ready_shards) == (len(runs), len(runs))
    progressing = status.condition("Progressing")
    assert progressing.reason == "Settled"
    more = f"spec.experts.shards is {experts['shards']}, and {len(runs)} run"
    assert progressing.message.startswith(more if len(runs) > experts["shards"] else "what runs is what the spec")


def test_it_stays_so_when_it_is_scaled_below(make_plane) -> None:
    plane = make_plane(shards=4, copies={"min": 2}, slotsPerShard=8)
    plane.settle()
    plane.change(shards=1, copies={"min": 2}, slotsPerShard=8)
    plane.settle(8)
    assert (slots(plane.run()), plane.moe.status.shards) == ((8, 8), 2)
    plane.change(shards=0, copies={"min": 2}, slotsPerShard=8)
    assert plane.run().applications == ()


@pytest.mark.parametrize("told", [-1, 0, 1, 3, 8, 2**40])
def test_slots_that_a_status_tells_are_believed_only_without_ray_and_within_reason(make_plane, told: int) -> None:
    """Anybody with the right to write a status may have written it."""
    plane = make_plane(shards=2)
    plane.settle()
    forged = plane.moe.status.model_copy(update={"slots_per_shard": told})
    plane.moe = plane.moe.model_copy(update={"status": forged})
    assert slots(plane.run()) == (4, 4)
    plane.applications, plane.remembered = {}, None
    plane.moe = plane.moe.model_copy(update={"status": forged})
    plane.run()
    assert slots(plane.run())[0] == {-1: 4, 0: 4, 2**40: 8}.get(told, told)


@pytest.mark.parametrize(("told", "revision"), [(7, 8), (-7, 1), (2**63 - 1, 1)])
def test_a_revision_that_a_status_tells(make_plane, told: int, revision: int) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    placed = plane.moe.status.placement.model_copy(update={"revision": told})
    forged = plane.moe.status.model_copy(update={"placement": placed})
    plane.moe = plane.moe.model_copy(update={"status": forged})
    assert plane.run().target.revision == 1
    plane.applications, plane.remembered, plane.placement = {}, None, None
    plane.run()
    assert plane.run().target.revision == revision


@pytest.mark.parametrize(
    ("prefix", "reserved"),
    [
        ("/b", False),
        ("/", False),
        ("/team", False),
        ("/team/other/deep", False),
        ("/Team/x", False),
        ("/v1.0/x", False),
        ("/other", False),
        ("/other/tiny", True),
        ("/other/tiny/v1", True),
        ("/kube-system/x", True),
    ],
)
def test_what_is_below_the_name_of_another_namespace_is_its_own(make_plane, prefix: str, reserved: bool) -> None:
    plane = make_plane(shards=2, spec={"serving": {"routePrefix": prefix}})
    plan = plane.run()
    assert (plan.step, plan.applications is None) == ((Step.NOTHING, True) if reserved else (Step.RUN, False))
    status = plane.tell()
    assert (status.condition("Degraded").reason == "RoutePrefixReserved") == reserved


def test_what_runs_goes_on_when_its_prefix_becomes_another_namespaces(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    plane.change(shards=2, spec={"serving": {"routePrefix": "/other/tiny"}})
    plane.settle()
    status = plane.tell()
    assert (status.condition("Ready").status, status.condition("Degraded").reason) == ("True", "RoutePrefixReserved")
    assert status.url == "http://ray:8000/team/tiny/v1"
    assert "one below /team" in status.condition("Degraded").message


def test_slots_follow_another_model(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    plane.change(shards=2, spec={"model": {"source": {"path": "models/other"}}})
    plane.candidate = plane.facts.model_copy(update={"digest": "sha256:2", "experts": 16})
    assert [plane.run().step for _ in range(2)] == [Step.RUN, Step.REPLACE]
    plane.facts = plane.candidate
    plane.run()
    assert slots(plane.run()) == (8, 8)


def test_more_copies_and_more_slots(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    plane.change(shards=2, copies={"min": 16})
    refused = plane.run()
    assert refused.problem.reason == Reason.INSUFFICIENT_SLOTS
    assert refused.problem.message == (
        "spec.experts: 8 experts in 16 copies do not fit on shards of 4 slots per layer, of which there can be 8, as "
        "many as experts: use fewer copies"
    )
    assert told(refused) == ([0, 1], (4, 4), 1)
    plane.change(shards=2, copies={"min": 2}, slotsPerShard=8)
    accepted = plane.run()
    assert told(accepted) == ([0, 1], (8, 8), 2)
    assert accepted.target.min_copies == 2
    assert decode_placement(accepted.target.placement).copies.min() == 2


@pytest.mark.parametrize(
    ("experts", "copies", "cure"),
    [
        (MOST_SLOTS, 1, "use fewer shards, or fewer slotsPerShard"),
        (MOST_SLOTS, 2, "use fewer copies"),
        (MOST_SLOTS + 1, 1, "use a smaller model"),
        (MOST_SLOTS + 1, 2, "use a smaller model"),
    ],
)
def test_of_what_is_too_large_only_cures_that_help_are_named(make_plane, experts: int, copies: int, cure: str) -> None:
    facts = FACTS.model_copy(update={"layers": 1, "experts": experts})
    moe = make_plane(shards=2, copies={"min": copies}).moe
    problem = impossible(moe, facts, slots=MOST_SLOTS)
    assert problem is not None
    assert problem.reason == Reason.PLACEMENT_TOO_LARGE
    assert problem.message.endswith(f" shards: {cure}")


def test_fewer_copies_leave_the_placement_as_it_is(make_plane) -> None:
    plane = make_plane(shards=2, copies={"min": 2}, slotsPerShard=8)
    plane.settle()
    plane.change(shards=2, slotsPerShard=8)
    plan = plane.run()
    assert told(plan) == ([0, 1], (8, 8), 1)
    assert plan.target.min_copies == 1


def test_a_shard_keeps_its_slots_until_fewer_are_settled(make_plane) -> None:
    plane = make_plane(shards=2, slotsPerShard=8)
    plane.settle()

    def given() -> list[int]:
        return [a["deployments"][0]["user_config"]["slots_per_shard"] for a in plane.run().applications[1:]]

    plane.change(shards=2, slotsPerShard=4)
    plane.settled = False
    assert given() == [8, 8]
    assert given() == [8, 8]
    plane.settled = True
    assert given() == [4, 4]


@pytest.mark.parametrize(
    ("experts", "reason", "says"),
    [
        ({"shards": 9}, Reason.TOO_MANY_SHARDS, "spec.experts.shards is 9, but the model has 8 experts"),
        (
            {"shards": 2, "slotsPerShard": 1, "copies": {"min": 2}},
            Reason.INSUFFICIENT_SLOTS,
            "set slotsPerShard to at least 2",
        ),
        ({"shards": 2, "slotsPerShard": 20, "copies": {"min": 2}}, None, ""),
    ],
)
def test_what_the_model_cannot_do(make_plane, experts: Any, reason: Reason | None, says: str) -> None:
    plane = make_plane(**experts)
    plane.run()
    plan = plane.run()
    assert (plan.problem.reason if plan.problem else None) == reason
    if plan.problem:
        assert says in plan.problem.message
        assert told(plan) == ([], (), 0)


def test_a_bad_edit_leaves_what_runs(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    before = plane.run().applications
    plane.change(shards=9)
    assert plane.run().applications == before


def test_asleep_and_awake(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    plane.change(shards=0)
    plan = plane.run()
    assert (plan.step, plan.applications) == (Step.SLEEP, ())
    plane.change(shards=2)
    assert told(plane.run()) == ([], (), 0)
    # Revisions never go back, although Ray has forgotten all of them.
    assert told(plane.run()) == ([0, 1], (4, 4), 2)


def test_suspended_nothing_is_written(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    plane.change(shards=4, spec={"suspend": True})
    assert (plane.plan().step, plane.plan().applications) == (Step.NOTHING, None)


OTHER_MODEL = {"model": {"source": {"path": "models/other"}, "servedName": "other"}}


def test_another_model_starts_when_nothing_of_the_former_is_left(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    plane.change(shards=2, spec=OTHER_MODEL)
    plane.run()
    plan = plane.run()
    assert (plan.step, plan.applications) == (Step.REPLACE, ())
    plane.applications = {CORE: Application(CORE, "DELETING")}
    assert plane.run().step is Step.REPLACE
    plane.applications = {}
    assert told(plane.run()) == ([], (), 0)
    assert core(plane.run())["args"]["model"]["path"] == "models/other"


@pytest.mark.parametrize(
    ("candidate", "shards", "reason"),
    [
        (None, 2, None),
        (ModelProblem(reason="PathNotFound", message="no models/other"), 2, Reason.PATH_NOT_FOUND),
        (ANOTHER_MODEL, 9, Reason.TOO_MANY_SHARDS),
    ],
)
def test_what_runs_goes_on_until_the_new_model_is_found_good(make_plane, candidate, shards: int, reason) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    before = plane.run()
    plane.candidate = candidate
    plane.change(shards=shards, spec=OTHER_MODEL)
    for _ in range(3):
        plan = plane.run()
    assert (plan.problem.reason if plan.problem else None) == reason
    assert plan.applications[1:] == before.applications[1:]
    assert core(plan)["args"] == core(before)["args"]
    assert user_config(plan, "api") == user_config(before, "api")
    assert user_config(plan, "directory") == user_config(before, "directory") | {
        "candidate": user_config(plan, "directory")["candidate"]
    }
    assert user_config(plan, "directory")["candidate"]["path"] == "models/other"
    # Settings that say nothing of a model need not wait: a key may have to be withdrawn.
    plane.more = {"keys": plane.world().keys.__class__("i" * 64, ("a" * 64,))}
    assert user_config(plane.run(), "api")["api_key_sha256"] == ["a" * 64]
    plane.more = {}
    # Mended: the files, or the spec.
    plane.candidate = ANOTHER_MODEL
    plane.change(shards=2, spec=OTHER_MODEL)
    assert plane.run().step is Step.REPLACE


def test_a_model_that_is_taken_back_changes_nothing(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    before = plane.run()
    plane.candidate = ModelProblem(reason="PathNotFound", message="no models/other")
    plane.change(shards=2, spec=OTHER_MODEL)
    assert plane.run().applications != before.applications
    plane.change(shards=2)
    assert plane.run().applications == before.applications


def test_another_model_waits_for_nobody_where_nothing_is_served(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    plane.answers = False
    plane.change(shards=2, spec=OTHER_MODEL)
    # A directory that is away for a moment is waited for.
    plane.more = {"report_failing_seconds": 3.0}
    assert plane.run().step is Step.RUN
    plane.more = {"report_failing_seconds": 31.0}
    assert plane.run().step is Step.REPLACE
    fresh = make_plane(shards=2)
    fresh.answers = False
    fresh.run(), fresh.tell()
    fresh.change(shards=2, spec=OTHER_MODEL)
    assert fresh.run().step is Step.REPLACE


def test_settings_travel_in_user_config_only(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    before = plane.run()
    plane.change(
        shards=2,
        spec={
            "model": {"source": {"path": "models/tiny"}, "servedName": "other"},
            "attention": {"minReplicas": 2, "maxReplicas": 3},
            "serving": {"maxContext": 128, "generationDefaults": "None", "allowedOrigins": ["https://a.b"]},
        },
    )
    plane.more = {"keys": plane.world().keys.__class__("i" * 64, ("a" * 64,))}
    after = plane.run()
    assert [a["args"] for a in before.applications] == [a["args"] for a in after.applications]
    assert before.applications[1:] == after.applications[1:]
    assert user_config(after, "api") == user_config(before, "api") | {
        "served_name": "other",
        "max_context": 128,
        "generation_defaults": "None",
        "allowed_origins": ["https://a.b"],
        "api_key_sha256": ["a" * 64],
        "internal_key_sha256": "i" * 64,
    }
    assert user_config(after, "directory") == user_config(before, "directory")
    scale = next(d["autoscaling_config"] for d in core(after)["deployments"] if d["name"] == "attention")
    assert (scale["min_replicas"], scale["max_replicas"]) == (2, 3)


def test_without_keys_nothing_is_written(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.more = {"keys": None}
    assert plane.plan().applications is None


def test_a_restarted_operator_goes_on_where_the_former_was(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    before = plane.run()
    plane.remembered, plane.more = None, {"term": 8}
    after = plane.run()
    assert told(after) == told(before)
    assert after.target.model_copy(update={"term": 1}) == before.target


def test_what_a_foreign_writer_removed_comes_back_as_it_was(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    before = plane.run().applications
    plane.applications = {}
    assert plane.plan().applications == before


def test_without_memory_applications_on_their_way_out_are_waited_for(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.applications = {CORE: Application(CORE, "DELETING")}
    assert plane.plan().step is Step.REPLACE


def test_without_a_report_everything_stays(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    before = plane.run().applications
    plane.answers = False
    plane.change(shards=4)
    assert plane.run().applications == before


def test_an_application_that_serve_gave_up_is_tried_anew(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    shard = f"{CORE}.experts-1"
    config = plane.applications[shard].config
    plane.applications[shard] = Application(shard, "DEPLOY_FAILED", config=config)
    assert shards(plane.plan()) == [0, 1]
    plane.more = {"failed_seconds": {shard: RETRY_SECONDS}}
    assert shards(plane.run()) == [0]
    plane.more = {}
    assert shards(plane.run()) == [0, 1]


@pytest.mark.parametrize(("serving", "kept"), [(True, True), (False, False)])
def test_a_core_that_failed_to_update_but_serves_is_left(make_plane, serving: bool, kept: bool) -> None:
    plane = make_plane(shards=1)
    plane.settle()
    plane.applications[CORE] = Application(CORE, "DEPLOY_FAILED", config=plane.applications[CORE].config)
    plane.more = {"failed_seconds": {CORE: RETRY_SECONDS}}
    plane.answers = serving
    assert (CORE in {a["name"] for a in plane.plan().applications}) == kept


def test_foreign_applications_with_our_name_are_not_taken_for_another_model(make_plane) -> None:
    plane = make_plane(shards=1)
    plane.answers = False
    plane.applications = {CORE: Application(CORE, "RUNNING", config={"name": CORE, "import_path": "shop:app"})}
    assert plane.plan().step is Step.RUN


def test_a_memory_of_another_model_is_not_believed(make_plane) -> None:
    plane = make_plane(shards=1)
    plane.settle()
    memory = plane.remembered
    assert isinstance(memory, Change)
    plane.change(shards=1, spec={"model": {"source": {"path": "models/other"}}})
    plane.applications = {}
    assert told(plane.plan()) == ([], (), 0)


@pytest.mark.parametrize(
    ("serve_url", "options"),
    [
        ("http://127.0.0.1:8000", {"host": "127.0.0.1", "port": 8000}),
        ("http://localhost:9000/", {"host": "127.0.0.1", "port": 9000}),
        ("http://[::1]:8000", {"host": "::1", "port": 8000}),
        ("http://ray-head:8000", None),
    ],
)
def test_serve_is_started_on_loopback_where_it_is_reached_there(make_plane, serve_url: str, options: Any) -> None:
    runtime = {"rayCluster": {"dashboardURL": "http://ray:8265", "serveURL": serve_url}}
    assert serve_http_options(make_plane(spec={"runtime": runtime}).moe) == options


LARGEST = FACTS.model_copy(update={"layers": 61, "experts": 512})


def test_the_largest_deployment_is_planned(make_plane) -> None:
    plane = make_plane(shards=512)
    plane.facts = LARGEST
    plane.run()
    plan = plane.plan()
    placed = decode_placement(plan.target.placement)
    assert (plan.problem, placed.layers, placed.shards, placed.copies.min()) == (None, 61, 512, 1)


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
    problem = plane.plan().problem
    assert problem.reason == "PlacementTooLarge"
    assert f"{layers} MoE layers x " in problem.message
    assert "at most 200000" in problem.message


def test_a_placement_on_ray_that_no_operator_made_is_not_believed(make_plane) -> None:
    """Whoever may write to Ray could name thousands of shards, or slots, and have the operator keep them."""
    plane = make_plane()
    plane.run()
    plane.run()
    told = plane.applications[plane.name].config["deployments"][2]["user_config"]
    told["placement"] = encode_placement(balanced_placement(2, 8, [4, 4] + [0] * 2000))
    assert len(plane.plan().target.shards) == 2
    told["slots_per_shard"] = 10**9
    told["placement"] = encode_placement(balanced_placement(2, 8, [4, 4]))
    assert plane.plan().problem.reason == "PlacementTooLarge"
