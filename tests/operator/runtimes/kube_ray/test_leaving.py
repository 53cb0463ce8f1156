"""Nodes that are cordoned, taken away or dead: which shards are emptied, and which pods go."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from moe_facts import FACTS

from moe_contract.report import ApiReport, AttentionReport, DirectoryReport, Progress, ShardReport
from moe_operator.kube.api import Json, Listing
from moe_operator.runtimes.kube_ray.evictions import COMING_SECONDS, Pods
from moe_operator.runtimes.kube_ray.leaving import SILENT_LOOKS, SILENT_SECONDS, PodsOnNodes, Silence
from moe_operator.runtimes.kube_ray.nodes import NodeState, node_state, trimmed_node
from moe_operator.runtimes.kube_ray.spread import Apis
from moe_operator.runtimes.kube_ray.stores import NodeStore

STAYS, LEAVES, SILENT, UNHEARD, OUT = NodeState
REVISION = 3


def node(*taints: str, name: str = "n", ready: str = "True", cordoned: bool = False, version: int = 1) -> Json:
    """``taints``: ``key=value:effect``."""
    parts = [each.rpartition(":") for each in taints]
    spec = {
        "taints": [{"key": w.partition("=")[0], "value": w.partition("=")[2], "effect": e} for w, _, e in parts],
        **({"unschedulable": True} if cordoned else {}),
    }
    metadata = {"name": name, "uid": f"u-{name}", "resourceVersion": str(version)}
    status = {"conditions": [{"type": "Ready", "status": ready}], "images": [{}] * 50}
    return {"metadata": metadata, "spec": spec, "status": status}


EVERYTHING = [{"operator": "Exists"}]
CORDONS = [{"key": "node.kubernetes.io/unschedulable", "operator": "Exists", "effect": "NoSchedule"}]
FOR_A_WHILE = [{"key": "karpenter.sh/disrupted", "operator": "Exists", "tolerationSeconds": 60}]
NODES = [
    (node(), [], STAYS),
    (node(cordoned=True), [], LEAVES),
    (node("node.kubernetes.io/unschedulable:NoSchedule"), [], LEAVES),
    (node("ToBeDeletedByClusterAutoscaler=1:NoSchedule"), [], LEAVES),
    (node("DeletionCandidateOfClusterAutoscaler=1:PreferNoSchedule"), [], STAYS),
    (node("karpenter.sh/disrupted:NoSchedule"), [], LEAVES),
    (node("karpenter.sh/disrupted:PreferNoSchedule"), [], STAYS),
    (node("karpenter.sh/disrupted:NoExecute"), FOR_A_WHILE, LEAVES),
    (node("aws-node-termination-handler/spot-itn=x:NoSchedule"), [], LEAVES),
    (node("dedicated=gpu:NoSchedule"), [], STAYS),
    (node(cordoned=True), EVERYTHING, STAYS),
    (node(cordoned=True), CORDONS, STAYS),
    (node("karpenter.sh/disrupted=a:NoSchedule"), [{"key": "karpenter.sh/disrupted", "value": "a"}], STAYS),
    (node("karpenter.sh/disrupted=a:NoSchedule"), [{"key": "karpenter.sh/disrupted", "value": "b"}], LEAVES),
    (node(ready="False"), [], SILENT),
    (node(ready="False", cordoned=True), [], LEAVES),
    (node(ready="Unknown"), [], UNHEARD),
    (node(ready="Unknown", cordoned=True), EVERYTHING, UNHEARD),
    (node("node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"), [], OUT),
    (node("node.kubernetes.io/out-of-service=nodeshutdown:NoExecute", ready="Unknown"), [], OUT),
    (node("node.cloudprovider.kubernetes.io/shutdown:NoSchedule"), [], OUT),
]


@pytest.mark.parametrize(("live", "tolerations", "state"), NODES)
def test_what_a_node_does_to_a_pod(live: Json, tolerations: list[Json], state: NodeState) -> None:
    assert node_state(trimmed_node(live), {"spec": {"tolerations": tolerations}}) is state


def test_of_a_node_little_is_kept() -> None:
    kept = trimmed_node(node(*(f"key-{n}={'v' * 9999}:NoSchedule" for n in range(999))))
    assert len(str(kept)) < 64 * 1024
    assert "images" not in kept["status"]


def test_a_node_that_is_not_known_says_nothing_and_one_that_was_removed_is_out() -> None:
    store, on_it = NodeStore(), {"spec": {"nodeName": "n"}}
    assert store.state_for(on_it) is STAYS
    store.put(node(cordoned=True), watched=True)
    assert store.state_for(on_it) is LEAVES
    store.remove(node(version=2))
    assert store.state_for(on_it) is OUT
    store.put(node(version=3), watched=True)
    assert store.state_for(on_it) is STAYS
    store.replace_all(Listing([], "9"))
    assert store.state_for(on_it) is OUT
    assert store.state_for({"spec": {}}) is STAYS


def pod(name: str, component: str = "expert-shard", *, goes: bool = False, finalizers: Any = ()) -> Json:
    """The end of its address is that of its name."""
    metadata = {
        "name": name,
        "uid": f"u-{name}",
        "labels": {"moe-operator.io/component": component},
        "finalizers": list(finalizers),
    }
    gone = {"deletionTimestamp": "2026-01-01T00:00:00Z"} if goes else {}
    return {"metadata": {**metadata, **gone}, "spec": {"nodeName": name}, "status": {"podIP": f"10.0.0.{name[-1]}"}}


def shard(index: int, held: int = 8, *, phase: Any = "Ready", wanted: int | None = None, host: str = "") -> ShardReport:
    told = held if wanted is None else wanted
    return ShardReport(index=index, phase=phase, held=held, wanted=told, host=host or f"10.0.0.{index}")


@pytest.mark.parametrize(
    ("pods", "shards", "loses", "there"),
    [
        ([pod("p0"), pod("p1")], [shard(0), shard(1)], False, 2),
        ([pod("p0", goes=True), pod("p1")], [shard(0), shard(1)], True, 1),
        # It was emptied, or runs elsewhere by now.
        ([pod("p0", goes=True), pod("p1")], [shard(0, 0), shard(1)], False, 1),
        ([pod("p0", goes=True), pod("p1"), pod("p2")], [shard(0, host="10.0.0.2"), shard(1)], False, 2),
        # It is a spare, or no pod of a shard at all.
        ([pod("p0"), pod("p1"), pod("p2", goes=True)], [shard(0), shard(1)], False, 2),
        ([pod("p0", "attention", goes=True), pod("p1")], [shard(0), shard(1)], False, 1),
        # Nobody has told where a shard is.
        ([pod("p0", goes=True)], [ShardReport(index=0, phase="Starting", held=0, wanted=8)], False, 0),
    ],
)
def test_a_pod_on_its_way_out_takes_copies_with_it(
    pods: list[Json], shards: list[ShardReport], loses: bool, there: int
) -> None:
    on_nodes = PodsOnNodes(pods, lambda pod: STAYS)
    assert (on_nodes.loses_copies(report(*shards)), on_nodes.for_shards()) == (loses, there)
    assert not on_nodes.loses_copies(None)


def report(*shards: ShardReport, revision: int = REVISION, missing: int = 0, **more: Any) -> DirectoryReport:
    attention = AttentionReport(replica="a", ready=True, epoch=1, running=0, waiting=0, host="10.0.0.8", **more)
    progress = Progress(copied=8, total=8 + missing, settled=not missing)
    told = {"term": 1, "revision": revision, "epoch": 1, "model": FACTS}
    return DirectoryReport(**told, shards=shards, attention=(attention,), progress=progress)


def on(states: dict[str, NodeState], *pods: Json) -> PodsOnNodes:
    """``states``: by name of a pod; all others stay."""
    return PodsOnNodes(pods, lambda each: states.get(each["metadata"]["name"], STAYS))


def gone(
    there: PodsOnNodes, told: DirectoryReport | None, seconds: float = SILENT_SECONDS, looks: int = SILENT_LOOKS
) -> list[str]:
    """Names of pods that go, with ``!`` those by force, after so many looks in ``seconds``."""
    silence = Silence()
    for look in range(looks):
        silence.look(there.silent(told), seconds * look / max(looks - 1, 1))
    found = there.removals(told, REVISION, silence.lasting(seconds))
    return [each.pod["metadata"]["name"] + "!" * each.by_force for each in found]


P0, P1, SPARE = pod("p0"), pod("p1"), pod("p7")
HEAD, API = pod("p5", "ray-head"), pod("p9", "attention")
HOLDS, EMPTY, LOST, LOST_EMPTY = shard(1), shard(1, 0), shard(1, 0, phase="Lost", wanted=8), shard(1, 0, phase="Lost")
_AT_FIRST: dict[str, Any] = {
    "term": 2,
    "revision": REVISION,
    "epoch": 1,
    "progress": Progress(copied=0, total=8, settled=False),
}
AFTER_A_RESTART = [
    DirectoryReport(**_AT_FIRST),
    DirectoryReport(**_AT_FIRST, model=FACTS),
    DirectoryReport(
        **_AT_FIRST, model=FACTS, shards=tuple(ShardReport(index=n, phase="Starting", wanted=4) for n in range(2))
    ),
    DirectoryReport(
        **{**_AT_FIRST, "progress": Progress(copied=0, total=0, settled=False)},
        shards=tuple(ShardReport(index=n, phase="Starting") for n in range(2)),
    ),
    DirectoryReport(
        **{**_AT_FIRST, "progress": Progress(copied=0, total=0, settled=False)}, shards=(shard(0, 0), shard(1, 0))
    ),
]
LOADING = DirectoryReport(
    **_AT_FIRST,
    shards=(shard(0), shard(1)),
    attention=(AttentionReport(replica="a", ready=False, epoch=0, running=0, waiting=0, host="10.0.0.8"),),
)
TABLE = [
    # node of p1, shard 1, copies missing, is shard 1 moved?, pods that go
    (STAYS, HOLDS, 0, False, []),
    (STAYS, EMPTY, 0, False, []),
    (STAYS, LOST, 0, False, []),
    (LEAVES, HOLDS, 0, True, []),
    (LEAVES, EMPTY, 0, True, ["p1"]),
    (LEAVES, LOST, 0, True, []),
    (LEAVES, LOST_EMPTY, 2, True, []),
    (LEAVES, LOST_EMPTY, 0, True, ["p1"]),
    (LEAVES, shard(1, 3, wanted=0), 0, True, []),
    (SILENT, HOLDS, 0, True, []),
    (SILENT, EMPTY, 0, True, []),
    (SILENT, LOST, 0, True, []),
    (UNHEARD, HOLDS, 0, True, []),
    (UNHEARD, EMPTY, 0, True, []),
    (UNHEARD, LOST, 0, True, ["p1!"]),
    (UNHEARD, LOST_EMPTY, 0, True, ["p1!"]),
    (OUT, HOLDS, 0, True, []),
    (OUT, EMPTY, 0, True, []),
    (OUT, LOST, 0, True, ["p1!"]),
    (OUT, LOST_EMPTY, 0, True, ["p1!"]),
]


@pytest.mark.parametrize(("state", "first", "missing", "moved", "goes"), TABLE)
def test_node_and_shard(state: NodeState, first: ShardReport, missing: int, moved: bool, goes: list[str]) -> None:
    told, there = report(shard(0), first, missing=missing), on({"p1": state}, P0, P1)
    assert there.moved(told) == (frozenset({1}) if moved else frozenset())
    assert gone(there, told) == goes


def test_pods_without_a_shard_go_first_and_the_others_wait_for_them() -> None:
    told, states = report(shard(0), EMPTY), {"p1": LEAVES, "p7": LEAVES}
    assert gone(on(states, P0, P1, SPARE), told) == ["p7"]
    assert gone(on(states, P0, P1, pod("p7", goes=True)), told) == []
    assert gone(on(states, P0, P1), told) == ["p1"]
    assert gone(on({"p7": SILENT}, P0, P1, SPARE), told) == []
    assert gone(on({"p7": OUT}, P0, P1, SPARE), told) == ["p7!"]


def test_pods_of_attention_stay_on_a_node_that_leaves_for_who_evicts_them() -> None:
    told = report(shard(0))
    assert gone(on({"p8": LEAVES}, P0, pod("p8", "attention")), told) == []
    assert gone(on({"p8": OUT}, P0, pod("p8", "attention")), told) == []
    assert gone(on({"p9": UNHEARD}, P0, pod("p9", "attention")), told) == []
    assert gone(on({"p9": OUT}, P0, pod("p9", "attention")), told) == ["p9!"]


@pytest.mark.parametrize("state", [UNHEARD, OUT])
def test_the_head_answers_where_there_is_a_report_and_of_others_nothing_is_known_without_one(state: NodeState) -> None:
    there = on({"p5": state, "p1": state}, HEAD, P0, P1)
    assert gone(there, report(shard(1))) == []
    assert gone(there, None, SILENT_SECONDS / 2) == []
    assert gone(there, None) == ["p5!"]


def test_a_control_plane_that_is_cut_off_from_all_nodes_removes_nothing() -> None:
    pods = (HEAD, P0, P1, pod("p8", "attention"))
    for told in (None, report(shard(0), LOST), *AFTER_A_RESTART):
        assert gone(on(dict.fromkeys(("p5", "p0", "p1", "p8"), UNHEARD), *pods), told, 25.0, looks=25) == []
    no_node = {**pod("p6"), "spec": {}}
    assert gone(on({"p5": UNHEARD}, HEAD, no_node), None) == []
    assert gone(on({"p5": UNHEARD, "p1": OUT}, HEAD, P1), report(LOST)) == ["p1!"]


@pytest.mark.parametrize("state", [UNHEARD, OUT])
def test_what_one_report_does_not_name_is_not_removed(state: NodeState) -> None:
    """The first after the directory's restart, attention that loads, an api alone: each may serve."""
    there = on(dict.fromkeys(("p0", "p1", "p8", "p9"), state), P0, P1, pod("p8", "attention"), API, SPARE)
    for told in (*AFTER_A_RESTART, LOADING, report(shard(0), shard(1))):
        assert gone(there, told, 0.0, looks=1) == []
        assert gone(there, told, SILENT_SECONDS, looks=SILENT_LOOKS - 1) == []
        assert gone(there, told, SILENT_SECONDS / 2, looks=99) == []
    assert gone(there, LOADING) == ([] if state is UNHEARD else ["p9!"])


@pytest.mark.parametrize(
    "told", AFTER_A_RESTART, ids=["of nothing", "of a model alone", "of nobody", "no model", "of all and no model"]
)
def test_a_directory_that_has_heard_of_nobody_yet_costs_no_pod_of_a_node_that_leaves(told: DirectoryReport) -> None:
    """It is restarted where its own pod is evicted, from the same node; to look at a model may take it hours."""
    there = on(dict.fromkeys(("p0", "p1", "p7"), LEAVES), P0, P1, SPARE)
    assert there.silent(told) == []
    assert gone(there, told, 0.0, looks=1) == []
    assert gone(there, told, 99 * SILENT_SECONDS, looks=99) == []


def test_while_a_shard_was_not_heard_of_only_what_it_cannot_be_missed_in_goes() -> None:
    there, never = on({"p1": LEAVES, "p7": LEAVES}, P0, P1, SPARE), ShardReport(index=1, phase="Starting", wanted=8)
    assert gone(there, report(shard(0), never, missing=8)) == []
    assert gone(there, report(shard(0), never.model_copy(update={"wanted": 0}), missing=8)) == []
    emptied = report(shard(0), never.model_copy(update={"wanted": 0}))
    assert gone(there, emptied, SILENT_SECONDS / 2, looks=99) == []
    assert gone(there, emptied) == ["p1", "p7"]
    # Of those that were heard of it is known: one that cannot start must not keep them.
    assert gone(there, report(shard(0), EMPTY, never.model_copy(update={"index": 2}), missing=8)) == ["p1"]
    assert gone(there, report(shard(0), EMPTY)) == ["p7"]


def test_what_was_emptied_stays_so_while_the_directory_has_not_heard_of_it_anew() -> None:
    unheard = ShardReport(index=1, phase="Starting")
    there = on({"p1": LEAVES}, P0, P1)
    assert there.moved(report(shard(0), unheard)) == frozenset({1})
    assert there.moved(report(shard(0), unheard.model_copy(update={"wanted": 8}))) == frozenset()
    assert on({"p1": LEAVES}, P0, P1).moved(report(shard(0), HOLDS, ShardReport(index=2, phase="Starting"))) == {1}


def test_a_pod_of_attention_serves_once_its_replica_is_ready() -> None:
    ready = AttentionReport(replica="b", ready=True, epoch=1, running=0, waiting=0, host="10.0.0.9")
    loads = ready.model_copy(update={"ready": False})
    pods = (P0, pod("p8", "attention"), API)
    for second, goes, serving in ((ready, False, 2), (loads, False, 1), (ready, True, 1)):
        there = on({}, *pods[:2], pod("p9", "attention", goes=goes))
        told = report(shard(0))
        assert there.serving(told.model_copy(update={"attention": (*told.attention, second)})) == serving
    assert on({}, *pods).serving(None, is_away=True) == 0
    assert on({}, *pods).serving(None) is None
    untold = ready.model_copy(update={"host": ""})
    assert on({}, *pods).serving(report(shard(0)).model_copy(update={"attention": (untold,)})) is None


THEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
EARLIER, LATER = "2026-01-02T03:04:05Z", "2026-01-02T03:04:06Z"
NOW = THEN + timedelta(seconds=COMING_SECONDS)
RUNS = [
    # when Ray began in a pod, and what is beside it, whether it is ready; what there is of its kind
    ([EARLIER], True, Pods(1, 1, 1, 1)),
    ([EARLIER], False, Pods(1, 0, 0, 1)),
    ([LATER], True, Pods(0, 0, 1, 1)),
    ([LATER], False, Pods(0, 0, 0, 1, coming=1)),
    # A proxy of a service mesh that was restarted takes nothing of ours with it.
    ([EARLIER, LATER], True, Pods(1, 1, 1, 1)),
    ([EARLIER, LATER], False, Pods(1, 0, 0, 1)),
    ([EARLIER, None], True, Pods(1, 1, 1, 1)),
    ([LATER, EARLIER], True, Pods(0, 0, 1, 1)),
    ([None, EARLIER], False, Pods(0, 0, 0, 1)),
    # By a clock that is ahead.
    (["2026-01-02T03:07:00Z"], False, Pods(0, 0, 0, 1, coming=1)),
    (["2026-01-02T05:00:00Z"], False, Pods(0, 0, 0, 1)),
    (["yesterday"], True, Pods(0, 0, 1, 1)),
    ([], True, Pods(0, 0, 1, 1)),
]


@pytest.mark.parametrize(("begun", "ready", "found"), RUNS)
def test_which_pods_have_run_since_before(begun: list[str | None], ready: bool, found: Pods) -> None:
    containers = [
        {"name": name, "state": {"running": {"startedAt": at}} if at else {"waiting": {}}}
        for name, at in zip(("ray-worker", "proxy"), begun, strict=False)
    ]
    told = {"containerStatuses": containers[::-1], "conditions": [{"type": "Ready", "status": str(ready)}]}
    live = pod("p8", "attention")
    leaves = pod("p9", "attention", goes=True)
    for each in (live, leaves):
        each["status"] |= told
    assert on({}, P0, live, leaves).since("attention", THEN, NOW) == found


def apis_in(*pods: Json, hosts: tuple[str, ...], ready: bool = True) -> Apis | None:
    """``hosts``: of the apis; attention is ready in the pods ``p8`` and ``p9``."""
    replicas = [
        AttentionReport(replica=host, ready=True, epoch=1, running=0, waiting=0, host=host)
        for host in ("10.0.0.8", "10.0.0.9")
    ]
    apis = [ApiReport(ready=ready, host=host) for host in hosts]
    return on({}, *pods).apis(report(shard(0)).model_copy(update={"attention": tuple(replicas), "apis": tuple(apis)}))


def test_where_apis_answer() -> None:
    one, other = pod("p8", "attention"), pod("p9", "attention")
    assert apis_in(one, other, hosts=("10.0.0.8", "10.0.0.8")) == Apis(2, 1, 2)
    assert apis_in(one, other, hosts=("10.0.0.8", "10.0.0.9")) == Apis(2, 2, 1)
    assert apis_in(one, other, hosts=("10.0.0.8",), ready=False) == Apis(2, 0, 0)
    assert apis_in(one, pod("p9", "attention", goes=True), hosts=("10.0.0.8", "10.0.0.9")) == Apis(1, 1, 1)
    assert apis_in(one, other, hosts=("10.0.0.8", "10.0.0.77")) == Apis(2, 1, 1), "elsewhere, as on a rayCluster"
    assert apis_in(one, other, hosts=()) is None, "an older data plane tells nothing of them"
    assert apis_in(one, other, hosts=("10.0.0.8", "")) is None
    assert on({}, one).apis(None) is None


def test_silence_is_counted_anew_for_another_pod_and_after_an_answer() -> None:
    silence = Silence()
    for now in (0.0, 5.0, 10.0):
        silence.look([P0, P1] if now else [P0], now)
    assert silence.lasting(10.0) == {"u-p0"}
    silence.look([P1], 11.0)
    silence.look([P0, P1], 12.0)
    assert silence.lasting(16.0) == {"u-p1"}


def test_a_pod_that_only_others_keep_is_not_asked_for_again() -> None:
    told = report(shard(0), LOST)
    assert gone(on({"p1": OUT}, P0, pod("p1", goes=True)), told) == ["p1!"]
    assert gone(on({"p1": OUT}, P0, pod("p1", goes=True, finalizers=["a/b"])), told) == []


def test_one_that_was_emptied_stays_empty_until_it_answers_elsewhere() -> None:
    assert on({}, P0).moved(report(shard(0), LOST_EMPTY)) == frozenset({1})
    assert on({}, P0).moved(report(shard(0), LOST)) == frozenset()
    assert on({}, P0, pod("p4")).moved(report(shard(0), shard(1, 0, host="10.0.0.4"))) == frozenset()
    never = ShardReport(index=1, phase="Starting")
    assert on({}, P0).moved(report(shard(0), never)) == frozenset()


UNKNOWN = {
    "another placement": report(shard(0), EMPTY, revision=REVISION - 1),
    "a shard that does not tell where it is": report(ShardReport(index=0, phase="Ready", held=8, wanted=8), EMPTY),
    "a shard in no pod that is known": report(shard(0, host="10.0.0.99"), EMPTY),
}


@pytest.mark.parametrize("told", UNKNOWN.values(), ids=UNKNOWN)
def test_what_is_not_known_deletes_nothing(told: DirectoryReport) -> None:
    assert gone(on({"p0": LEAVES, "p1": LEAVES, "p7": LEAVES}, P0, P1, SPARE), told) == []


def test_who_does_not_tell_where_it_runs_is_not_taken_for_dead() -> None:
    told = report(ShardReport(index=0, phase="Ready", held=8, wanted=8))
    assert gone(on({"p0": OUT}, P0), told) == []


def test_an_address_may_be_written_in_several_ways() -> None:
    live = {**P1, "status": {"podIP": "fd00::1"}}
    told = report(shard(1, host="fd00:0:0:0:0:0:0:1"))
    assert on({"p1": LEAVES}, live).moved(told) == frozenset({1})


STATES = st.sampled_from(list(NodeState))
SHARDS = st.sampled_from([HOLDS, EMPTY, LOST, LOST_EMPTY])


@given(
    states=st.lists(STATES, min_size=4, max_size=4),
    kinds=st.lists(SHARDS, min_size=3, max_size=3),
    missing=st.sampled_from([0, 1]),
)
def test_no_pod_goes_whose_shard_answers_and_holds_something(
    states: list[NodeState], kinds: list[ShardReport], missing: int
) -> None:
    pods = [pod(f"p{n}") for n in range(3)] + [SPARE]
    shards = [each.model_copy(update={"index": n, "host": f"10.0.0.{n}"}) for n, each in enumerate(kinds)]
    there = on(dict(zip(("p0", "p1", "p2", "p7"), states, strict=True)), *pods)
    for name in gone(there, report(*shards, missing=missing)):
        at = int(name[1])
        assert at == 7 or not (shards[at].phase == "Ready" and shards[at].held), name
