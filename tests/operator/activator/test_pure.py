"""Who may wake which deployment, and how much is held: tables, without a connection."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from announcements import KEY, OTHER, announcement, digest

from moe_operator.activator import server
from moe_operator.activator.access import admitting, opens, presented
from moe_operator.activator.announcement import Announcement, announced
from moe_operator.activator.places import MOST_BYTES, FullError, Places
from moe_operator.activator.roster import Roster


def slice_of(told: Announcement, text: str | None = None) -> dict[str, Any]:
    metadata = {
        "namespace": told.namespace,
        "labels": {"moe-operator.io/deployment": told.name},
        "annotations": {"moe-operator.io/activation": told.annotation() if text is None else text},
    }
    return {"metadata": metadata}


def test_what_is_announced_is_read() -> None:
    assert announced(slice_of(announcement())) == announcement()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON",
        "[]",
        "null",
        '{"route": 5, "open": false, "keys": [], "shards": 1, "held": true}',
        '{"route": "", "open": false, "keys": ["short"], "shards": 1, "held": true}',
        '{"route": "", "open": false, "keys": [5], "shards": 1, "held": true}',
        '{"route": "", "open": false, "keys": [], "shards": 0, "held": true}',
        '{"route": "", "open": false, "keys": [], "shards": "1", "held": true}',
        '{"route": "", "keys": [], "shards": 1, "held": true}',
    ],
)
def test_what_cannot_be_announces_nothing(text: str) -> None:
    assert announced(slice_of(announcement(), text)) is None


@pytest.mark.parametrize("route", ["/team/tiny", "/team/x/y"])
def test_a_route_below_the_name_of_another_namespace_is_not_taken(route: str) -> None:
    assert announced(slice_of(announcement(namespace="rivals", route=route))) is None
    assert announced(slice_of(announcement(namespace="team", route=route))) is not None


def test_what_is_no_truth_opens_nothing() -> None:
    told = announced(slice_of(announcement(), '{"route": "", "open": "yes", "keys": [], "shards": 1, "held": 1}'))
    assert told is not None
    assert (told.open, told.held) == (False, False)


@pytest.mark.parametrize(
    ("header", "key"),
    [
        (f"Bearer {KEY}", KEY),
        (f"bearer   {KEY} ", KEY),
        (f"Basic {KEY}", ""),
        (KEY, ""),
        ("Bearer ", ""),
        ("", ""),
    ],
)
def test_the_key_that_is_presented(header: str, key: str) -> None:
    assert presented(header) == key


@pytest.mark.parametrize(
    ("key", "fields", "opened"),
    [
        (KEY, {}, True),
        (OTHER, {}, False),
        ("", {}, False),
        (OTHER, {"keys": (digest(KEY), digest(OTHER))}, True),
        (digest(KEY), {}, False),
        (KEY, {"keys": ()}, False),
        ("", {"keys": (digest(""),)}, False),
        ("", {"open": True, "keys": ()}, True),
    ],
)
def test_whose_key_opens(key: str, fields: dict[str, Any], opened: bool) -> None:
    assert opens(key, announcement(**fields)) is opened


@pytest.mark.parametrize(
    ("key", "others", "admitted"),
    [
        (KEY, {"open": True, "keys": ()}, ["team/tiny"]),
        (OTHER, {"open": True, "keys": ()}, []),
        ("", {"open": True, "keys": ()}, []),
        (OTHER, {"keys": (digest(OTHER),)}, ["rivals/tiny"]),
        (OTHER, {"keys": ()}, []),
        (KEY, {}, ["rivals/tiny", "team/tiny"]),
    ],
)
def test_an_open_deployment_gets_nothing_beside_one_that_asks_for_keys(
    key: str, others: dict[str, Any], admitted: list[str]
) -> None:
    both = [announcement(), announcement(namespace="rivals", **others)]
    assert sorted(each.key for each in admitting(key, both)) == admitted


def test_one_whose_keys_are_not_known_is_not_open() -> None:
    both = [announcement(keys=()), announcement(namespace="rivals", open=True, keys=())]
    assert admitting(KEY, both) == []


TINY, OTHERS = announcement(), announcement("large")
ROOT_A, ROOT_B = announcement("a", "one", route=""), announcement("a", "two", route="")
DEEP = announcement("deep", "team", route="/v1")


def found(path: str, host: str = "gateway.example.org") -> list[str]:
    roster = Roster()
    for each in (TINY, OTHERS, ROOT_A, ROOT_B, DEEP):
        roster.tell(each.key, each)
    return sorted(each.key for each in roster.asked(path, host))


@pytest.mark.parametrize(
    ("path", "host", "expected"),
    [
        ("/team/tiny/v1/completions", "", ["team/tiny"]),
        ("/team/tiny/v1", "", ["team/tiny"]),
        ("/team/tiny/v10/completions", "", []),
        ("/team/tinyv1/completions", "", []),
        ("/team/tiny/metrics", "", []),
        ("/team/tiny", "", []),
        ("/v1/completions", "", ["one/a", "two/a"]),
        ("/v1/completions", "a-moe-api.two:8000", ["two/a"]),
        ("/v1/completions", "A-moe-api.two.svc.cluster.local", ["two/a"]),
        ("/v1/completions", "a-moe-api.three", ["one/a", "two/a"]),
        ("/v1/v1/completions", "", ["one/a", "team/deep", "two/a"]),
        ("/team/tiny/v1/completions", "a-moe-api.two", ["team/tiny"]),
        ("/" + "x/" * 5000 + "v1/completions", "", []),
        ("*", "", []),
        ("", "", []),
    ],
)
def test_whose_model_a_request_is_for(path: str, host: str, expected: list[str]) -> None:
    assert found(path, host) == expected


def test_a_route_that_moves_leaves_nothing_behind() -> None:
    roster = Roster()
    roster.tell(TINY.key, TINY)
    moved = announcement(route="/elsewhere")
    roster.tell(TINY.key, moved)
    assert roster.asked("/team/tiny/v1/models", "") == []
    assert roster.asked("/elsewhere/v1/models", "") == [moved]
    roster.tell(TINY.key, None)
    assert roster.asked("/elsewhere/v1/models", "") == []
    assert not roster._routes


def test_places_are_given_back_with_their_bytes() -> None:
    places = Places(most_requests=2, most_bytes=10)
    with places.take("a") as first, places.take("a") as second:
        first.add(6)
        with pytest.raises(FullError):
            second.add(5)
        second.add(4)
        with pytest.raises(FullError), places.take("b"):
            raise AssertionError("a third one was let in")
        first.give_back()
        assert (places.requests, places.bytes) == (1, 4)
        second.give_back(body=False)
        assert (places.requests, places.bytes) == (0, 4)
    assert (places.requests, places.bytes, places._shares) == (0, 0, {})


def test_one_deployment_takes_a_quarter_of_the_places_and_the_connections() -> None:
    places = Places()
    with ExitStack() as stack:
        for _ in range(25):
            taken = stack.enter_context(places.take("a"))
        with pytest.raises(FullError), places.take("a"):
            raise AssertionError("a quarter is a quarter")
        taken.add(16 << 20)
        with pytest.raises(FullError):
            taken.add(1)
        with places.take("b") as other:
            other.add(16 << 20)
    with ExitStack() as stack:
        for _ in range(server.MOST_CONNECTIONS // 4):
            stack.enter_context(places.take("a")).give_back()
        assert places.requests == 0
        with pytest.raises(FullError), places.take("a"):
            raise AssertionError("all connections may be its answers'")


def test_what_is_led_past_is_taken_a_short_time_more() -> None:
    now = [0.0]
    roster, awake = Roster(lambda: now[0]), announcement(held=False)
    roster.tell(awake.key, awake)
    assert not roster.is_led_here(awake)
    roster.tell(TINY.key, TINY)
    assert roster.is_led_here(TINY)
    for now[0], taken in ((100.0, True), (159.0, True), (161.0, False)):
        roster.tell(awake.key, awake)
        assert roster.is_led_here(awake) is taken


def test_what_strangers_and_holders_can_have_kept_fits_the_pod() -> None:
    chart = Path(__file__).parents[3] / "charts" / "moe-operator" / "values.yaml"
    limit = yaml.safe_load(chart.read_text())["activator"]["resources"]["limits"]["memory"]
    heads = 2 * server.MOST_CONNECTIONS * server.MOST_HEADERS * server.MOST_HEADER_BYTES
    bodies = 2 * MOST_BYTES  # once more while they are sent on
    itself = 100 << 20
    assert itself + heads + bodies <= int(limit.removesuffix("Mi")) << 20
