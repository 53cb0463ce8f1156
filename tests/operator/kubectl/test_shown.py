"""What is shown: figures and words of the objects, within the terminal, whatever stands in them."""

import io
import json
from typing import Any

import pytest
from fake_cluster import FakeCluster, moe, request, xp
from hypothesis import example, given, settings
from hypothesis import strategies as st

from moe_operator.kubectl.commands.deployments import placement, status, top
from moe_operator.kubectl.commands.placements import diff, explain, proposals
from moe_operator.kubectl.exits import NotThereError, PluginError, RefusedError
from moe_operator.kubectl.terminal import Terminal, width
from moe_operator.text import INVISIBLE

OTHER = ["0 1 2 3 - -", "3 2 1 0 - -"]
LOAD = {
    "time": "2026-01-02T03:03:05Z",
    "rows": 1000,
    "shards": "7500 2500",
    "bands": [{"layers": "0-1", "experts": ["1/3 6000", "0/2 5000"]}],
}
FIGURES = {
    "price": {"moves": 4, "bytes": 4 << 20, "seconds": "1.5"},
    "before": {"balance": "0.81", "fanOut": "1.60"},
    "predicted": {"balance": "0.96", "fanOut": "1.30"},
    "measured": {
        "balance": "0.95",
        "fanOut": "1.31",
        "rows": 5000,
        "latency": [
            {"rows": 1, "tokens": 900, "medianMicroseconds": 9000},
            {"rows": 8, "tokens": 4000, "medianMicroseconds": 21340},
            {"rows": 9, "tokens": "many", "medianMicroseconds": 1},
            "somebody else wrote it",
        ],
    },
}


def text(lines: list[str]) -> str:
    return "\n".join(lines)


def test_status_says_what_runs_what_moves_and_what_waits() -> None:
    moving = xp(4, "Migrating", status={"progress": {"copied": 3, "total": 8, "epoch": 9}})
    decided = {"lastDecision": {"time": "2026-01-02T03:00:05Z", "result": "Rejected", "message": "gain 1.2%"}}
    cluster = FakeCluster(moe(3, rebalance=decided), xp(3, "Active"), moving, xp(5, "Proposed", "Pending"))
    answer = status(request(cluster))
    shown = text(answer.lines)
    for words in (
        "team/tiny", "True (Available)", "2 of 2 ready", "revision 3, balance 0.91, fan-out 1.30",
        "to revision 4: 3 of 8 copies are in place", "4m ago: Rejected: gain 1.2%", "revision 5",
    ):  # fmt: skip
        assert words in shown
    assert answer.data["pending"] == [5]
    assert answer.data["migration"]["copied"] == 3


def test_status_of_all_and_of_none() -> None:
    answer = status(request(FakeCluster(moe(), moe(name="big")), name=""))
    assert [each["name"] for each in answer.data] == ["tiny", "big"]
    assert "no MoEDeployment in this namespace" in text(status(request(FakeCluster(), name="")).lines)


def test_status_says_what_is_wrong_and_what_is_asked_by_annotation() -> None:
    degraded = {"type": "Degraded", "status": "True", "reason": "ShardsLost", "message": "shard 1 does not answer"}
    raw = moe(conditions=[degraded])
    raw["metadata"]["annotations"] = {"moe-operator.io/pause-rebalance": "", "moe-operator.io/drain-shards": "1"}
    shown = text(status(request(FakeCluster(raw))).lines)
    for words in ("Degraded: shard 1 does not answer", "paused", "shards 1", "unknown: no operator has looked"):
        assert words in shown


def test_placement_shows_copies_the_busiest_and_shares() -> None:
    cluster = FakeCluster(moe(3, load=LOAD), xp(3, "Active"))
    answer = placement(request(cluster))
    # Layer 0: expert 0 is on both shards, expert 2 is among the busiest; layer 1: one copy each.
    assert answer.lines[2:4] == ["0 ▒░◆░", "1 ░░░◆"]
    assert "75.0%" in text(answer.lines)
    assert answer.data["copies"] == [[2, 1, 1, 1], [1, 1, 1, 1]]
    assert [each["copies"] for each in answer.data["shards"]] == [5, 4]


def test_placement_of_a_former_revision_has_no_traffic() -> None:
    answer = placement(request(FakeCluster(moe(3, load=LOAD), xp(2)), "2"))
    assert answer.data["runs"] is False
    assert "75.0%" not in text(answer.lines)
    with pytest.raises(NotThereError, match="no placement of team/tiny is in force"):
        placement(request(FakeCluster(moe(0))))


def test_experts_share_columns_where_there_are_too_many() -> None:
    experts = 64
    layers = [" ".join(map(str, range(experts)))] * 3
    raw = xp(3, "Active", experts=experts, shards=1, slotsPerShard=experts, layers=layers)
    lines = placement(request(FakeCluster(moe(3), raw), width=34)).lines
    assert "2 experts" in " ".join(lines)
    assert "0 " + "░" * 32 in lines


def test_proposals_are_in_order_and_of_this_deployment() -> None:
    cluster = FakeCluster(xp(10, "Proposed", "Pending", status=FIGURES), xp(9), xp(3, deployment="big"))
    answer = proposals(request(cluster))
    assert [each["revision"] for each in answer.data] == [9, 10]
    assert answer.lines[2].split()[:4] == ["10", "9", "Proposed", "Pending"]
    assert "4.0 MiB" in answer.lines[2]
    of_all = proposals(request(cluster, name=""))
    assert [each["deployment"] for each in of_all.data] == ["big", "tiny", "tiny"]
    assert [line.split()[0] for line in of_all.lines] == ["DEPLOYMENT", "big", "tiny", "tiny"]


def test_diff_counts_copies_and_bytes() -> None:
    cluster = FakeCluster(xp(1), xp(2, layers=OTHER, status=FIGURES))
    answer = diff(request(cluster, "1", "2"))
    assert answer.data["loaded"] == [{"layer": 0, "expert": 2, "shard": 0}]
    assert answer.data["freed"] == [{"layer": 0, "expert": 0, "shard": 1}, {"layer": 0, "expert": 2, "shard": 1}]
    assert answer.data["bytes"] == 1 << 20
    assert "layer 0: +2@0 -0@1 -2@1" in answer.lines
    assert "the same copies" in text(diff(request(cluster, "1", "1")).lines)
    with pytest.raises(RefusedError, match="different models"):
        diff(request(FakeCluster(xp(1), xp(2, modelDigest="sha256:9")), "1", "2"))


def test_explain_has_words_and_figures() -> None:
    verified = {"type": "Verified", "status": "True", "reason": "Verified", "message": "fan-out fell by 18%"}
    why = "gain 18.2% over 1h saves 91 s and pays for 4 moves (4 MiB, 1.5 s of one link); noise 0.8%"
    more = {**FIGURES, "origin": "Operator", "approvedBy": "Person", "why": why, "conditions": [verified]}
    answer = explain(request(FakeCluster(xp(1), xp(2, "Active", layers=OTHER, status=more)), "2"))
    shown = text(answer.lines)
    for words in (
        "Written by the operator 4m ago, from revision 1. It was approved by a person. It is Active.",
        f"Why: {why}.",
        "4 copies to load, 4.0 MiB, 1.5 s of the busiest link",
        "copies to load: 1, to free: 2; layers with any to load: 1 of 2",
        "Verified is True (Verified): fan-out fell by 18%",
    ):  # fmt: skip
        assert words in shown.replace("\n", " ")
    assert [line.split() for line in answer.lines if line.startswith(("predicted", "measured"))] == [
        ["predicted", "0.96", "1.30", "-", "-"],
        ["measured", "0.95", "1.31", "5000", "21.3", "at", "8", "rows"],
    ]


@pytest.mark.parametrize(
    ("status", "why"),
    [
        ({"origin": "Operator"}, "Why: the operator had to place: at first, for other shards, slots or copies"),
        ({"origin": "Operator", "predicted": FIGURES["predicted"]}, None),
        ({"origin": "Person"}, None),
    ],
)
def test_explain_of_what_was_not_proposed(status: dict[str, Any], why: str | None) -> None:
    shown = text(explain(request(FakeCluster(xp(2, "Active", status=status)), "2")).lines).replace("\n", " ")
    assert why in shown if why else "Why:" not in shown


def test_top_tells_shares_and_busiest_experts_or_that_there_are_none() -> None:
    shown = text(top(request(FakeCluster(moe(load=LOAD)))).lines)
    for words in ("75.0%", "25.0%", "layers 0-1: 1/3 60.0%  0/2 50.0%", "counted 60s ago"):
        assert words in shown
    assert "no traffic has been counted yet" in text(top(request(FakeCluster(moe()))).lines)


HOSTILE = "\x1b[2J\x1b]0;mine\x07\r\n\u202eevil\x00" + "x" * 9000
SHAPES: list[Any] = [
    None,
    7,
    -1,
    True,
    2**70,
    1e300,
    [],
    {},
    [[]],
    {"revision": "7"},
    HOSTILE,
    [HOSTILE],
    {HOSTILE: HOSTILE},
]


def commands(cluster: FakeCluster, columns: int) -> Any:
    for command, revisions in (
        (status, ()), (proposals, ()), (top, ()), (placement, ()), (placement, ("2",)), (explain, ("2",)),
        (diff, ("1", "2")),
    ):  # fmt: skip
        try:
            yield command(request(cluster, *revisions, width=columns))
        except PluginError as error:
            assert str(error)


@settings(max_examples=40)
@given(st.sampled_from(SHAPES), st.integers(0, 7), st.integers(20, 120))
def test_nothing_in_an_object_breaks_the_terminal_or_the_command(value: Any, where: int, columns: int) -> None:
    deployment, before, after = moe(2, load=LOAD), xp(1), xp(2, "Active", layers=OTHER, status=FIGURES)
    spots: list[tuple[Any, str]] = [
        (deployment["status"], "conditions"),
        (deployment["status"], "placement"),
        (deployment["status"], "load"),
        (deployment, "status"),
        (after["spec"], "content"),
        (after["spec"]["content"], "layers"),
        (after["status"], "predicted"),
        (after, "status"),
    ]
    holder, field = spots[where]
    holder[field] = value
    for answer in commands(FakeCluster(deployment, before, after), columns):
        for line in answer.lines:
            assert not INVISIBLE.search(line)
            assert width(line) <= columns
        assert json.dumps(answer.data).isascii()


@example("\u00a0", 20)
@example(" ", 20)
@given(st.text(max_size=200), st.integers(20, 60))
def test_texts_stay_within_the_width_and_lose_no_word(words: str, columns: int) -> None:
    terminal = Terminal(columns)
    lines = terminal.wrapped(words)
    assert all(width(line) <= columns for line in lines)
    assert "".join(lines).replace(" ", "") == words.replace(" ", "")
    assert all(width(line) <= columns for line in terminal.table([(words, words)]))
    assert all(width(line) <= columns for line in terminal.titled([("URL", words), ("Placement", words)]))


@pytest.mark.parametrize(
    ("people", "environment", "colour"),
    [(True, {}, True), (False, {}, False), (True, {"NO_COLOR": "1"}, False), (True, {"TERM": "dumb"}, False)],
)
def test_colours_are_for_people(
    people: bool, environment: dict[str, str], colour: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ({"TERM": "xterm", "NO_COLOR": "", "COLUMNS": "64"} | environment).items():
        monkeypatch.setenv(name, value)
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: people, raising=False)
    assert Terminal.of(stream) == Terminal(64, colour)


def test_colours_only_where_they_are_wanted() -> None:
    assert Terminal(80, colour=False).paint("x", "bad") == "x"
    assert Terminal(80, colour=True).paint("x", "bad") == "\x1b[31mx\x1b[0m"
