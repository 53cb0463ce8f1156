"""Who is counted as what after a blow."""

import pytest
from benchmarks.serving.client import Ask, Outcome, Verdict
from chaos.verdict import Blow, Cost, cost, rows

ASK = Ask((5, 6), 3)
BLOW = Blow(at=100.0, ready=130.0, apis=frozenset({"hit"}))
AFTER = Blow(at=140.0, ready=170.0, apis=frozenset({"hit later"}))


def outcome(begun: float, ended: float, verdict: Verdict = Verdict.COMPLETE, api: str = "other", **more) -> Outcome:
    return Outcome(ASK, begun, verdict, ended=ended, api=api, **more)


def judge(*outcomes: Outcome, blow: Blow = BLOW) -> Cost:
    return cost(blow, AFTER, outcomes, lambda ask, tokens: list(tokens) == [0])


def test_those_before_and_after_are_not_touched() -> None:
    nobody = judge(outcome(90, 99), outcome(141, 145))
    assert nobody == Cost(streams=0, lost=0, failed=(), wrong=0, pause=0.0, until_ready=30.0)


@pytest.mark.parametrize(
    ("api", "begun", "lost"),
    [
        ("hit", 90, 1),
        ("other", 90, 0),
        ("", 90, 1),  # it may have been with the api that was hit, which had not answered yet
        ("", 101, 0),  # nobody can have had it
    ],
)
def test_only_an_api_that_was_hit_excuses_a_failure(api, begun, lost) -> None:
    judged = judge(outcome(begun, 110, Verdict.FAILED, api, why="cut"))
    assert (judged.lost, len(judged.failed)) == (lost, 1 - lost)


def test_without_an_api_hit_nothing_is_excused() -> None:
    blow = Blow(100.0, 130.0, frozenset())
    judged = judge(outcome(90, 110, Verdict.FAILED, "", why="500"), outcome(95, 99.5), blow=blow)
    assert judged.failed == ("500 (-10.0 s)",)


def test_what_is_lost_by_the_next_blow_is_not_counted_for_this_one() -> None:
    judged = judge(
        outcome(135, 170, Verdict.FAILED, "hit later", why="cut"),
        outcome(135, 139, Verdict.FAILED, "hit later", why="500"),
        outcome(135, 170, Verdict.FAILED, why="503"),
    )
    assert (judged.lost, judged.failed) == (0, ("500 (+35.0 s)", "503 (+35.0 s)"))


def test_tokens_and_pauses() -> None:
    judged = judge(
        outcome(90, 110, token_ids=[0], pause=5.0, paused_at=99.0),
        outcome(90, 110, token_ids=[1], pause=7.0, paused_at=91.0),
        outcome(90, 150, Verdict.FAILED, "hit", pause=50.0, paused_at=100.0),
        outcome(102, 110, pause=1.5, paused_at=102.0),
    )
    assert (judged.streams, judged.lost, judged.failed, judged.wrong, judged.pause) == (4, 1, (), 1, 5.0)
    assert judged.slow == ()


def test_who_was_silent_for_too_long_is_named() -> None:
    judged = judge(outcome(90, 110, pause=7.0, paused_at=101.0))
    assert judged.slow == ("7.0 s from +1.0 s on, begun at -10.0 s, api other",)


def test_a_row_for_each_kind() -> None:
    a, b = Cost(8, 1, (), 0, 2.0, 10.0), Cost(9, 0, ("500",), 0, 4.0, 20.0)
    table = rows({"api SIGKILL": [a, b], "directory SIGSTOP": [a]}).splitlines()
    assert [line.split()[:7] for line in table[1:]] == [
        ["api", "SIGKILL", "2", "17", "1", "1", "0"],
        ["directory", "SIGSTOP", "1", "8", "1", "0", "0"],
    ]
