"""Where a token goes, and when it is asked whether it still may: whole passes with Secrets of a user."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from bench import INTERNAL_KEY, Bench, broken

from moe_operator.kube.resources import MOE_DEPLOYMENTS, SECRETS

TOKEN = "right-token"
NAMED = {"tokenSecretRef": {"name": "ray"}}


def address(bench: Bench) -> str:
    return bench.ray.url.removeprefix("http://")


def bind(bench: Bench, use: str | None = "ray-token", addresses: str | None = "as it is", token: str = TOKEN) -> None:
    bench.kube.secret("ray", use, address(bench) if addresses == "as it is" else addresses, token=token)


@pytest.fixture
async def bound(bench: Bench) -> AsyncIterator[Bench]:
    """Ready, on a Ray that asks for a token."""
    bench.ray.token = TOKEN
    bind(bench)
    bench.apply(runtime=NAMED)
    await bench.ready()
    yield bench


@pytest.mark.parametrize(
    ("use", "addresses", "reason"),
    [
        ("ray-token", None, "SecretNotBound"),
        ("ray-token", "", "SecretNotBound"),
        ("ray-token", "10.0.0.1:8265", "SecretNotBound"),
        (None, "as it is", "SecretNotLabelled"),
        ("api-keys", "as it is", "SecretNotLabelled"),
    ],
)
async def test_nothing_is_sent_to_a_ray_that_the_secret_does_not_name(
    bench: Bench, use: str | None, addresses: str | None, reason: str
) -> None:
    came = watched(bench)
    bind(bench, use, addresses)
    bench.apply(runtime=NAMED)
    await bench.work(3, seconds=5.0)
    assert bench.condition("Ready") == f"False {reason}"
    assert bench.condition("Degraded") == f"True {reason}"
    assert came == []
    bind(bench)
    await bench.work(6, seconds=5.0)
    assert bench.condition("Ready") == "True Available"


async def test_the_message_has_the_command_that_mends_it(bench: Bench) -> None:
    bind(bench, addresses=None)
    bench.apply(runtime=NAMED)
    await bench.work()
    said = next(c for c in bench.kube.moe()["status"]["conditions"] if c["type"] == "Ready")["message"]
    command = f"kubectl -n team annotate --overwrite secret ray moe-operator.io/allowed-addresses={address(bench)}"
    assert command in said


def watched(bench: Bench) -> list[str]:
    """The tokens of the requests that come to the dashboard from now on."""
    came: list[str] = []

    async def note(request: web.Request) -> web.StreamResponse:
        if not request.path.endswith("/internal/report"):
            came.append(f"{request.method} {request.headers.get('Authorization')}")
        return await bench.ray.answer(request)

    bench.ray.override = note
    return came


FORBIDDEN: list[Any] = [{"use": None}, {"use": "api-keys"}, {"addresses": None}, {"addresses": "10.0.0.1:1"}]


@pytest.mark.parametrize("now", FORBIDDEN, ids=str)
async def test_a_deletion_does_not_send_a_token_that_may_not_be_sent_any_more(bound: Bench, now: Any) -> None:
    bind(bound, **now)
    came = watched(bound)
    bound.delete()
    await bound.work(3, seconds=5.0)
    reason = "SecretNotBound" if "addresses" in now else "SecretNotLabelled"
    assert (bound.condition("Ready"), bound.condition("Degraded")) == ("False Deleting", f"True {reason}")
    assert came == []
    bind(bound)
    await bound.work(6, seconds=5.0)
    assert not bound.kube.exists(MOE_DEPLOYMENTS, "tiny")
    assert bound.ray.configs == {}


async def test_one_that_stays_forbidden_is_given_up_at_the_deadline(bound: Bench) -> None:
    bind(bound, use=None)
    came = watched(bound)
    bound.delete()
    await bound.work(5, seconds=100.0)
    assert not bound.kube.exists(MOE_DEPLOYMENTS, "tiny")
    assert bound.kube.reasons()[-1] == "CleanupAbandoned"
    assert came == []


async def test_a_token_whose_secret_is_gone_cleans_up(bound: Bench) -> None:
    """A namespace that is deleted loses its Secrets first."""
    bound.kube.drop(SECRETS, "ray")
    bound.delete()
    await bound.work(4, seconds=5.0)
    assert not bound.kube.exists(MOE_DEPLOYMENTS, "tiny")
    assert bound.ray.configs == {}


@pytest.mark.parametrize("seen", ["before the deletion", "by the deletion", "by the write"])
@pytest.mark.parametrize("now", FORBIDDEN, ids=str)
async def test_a_token_that_was_forbidden_stays_so_when_its_secret_is_gone(bound: Bench, now: Any, seen: str) -> None:
    if seen == "by the write":
        bound.kube.drop(SECRETS, "ray")
        bound.delete()
        bound.ray.override = broken
        await bound.work(seconds=5.0)  # with the remembered token, as it must
        bound.ray.override = None
        bind(bound, **now)
    else:
        bind(bound, **now)
    if seen == "by the deletion":
        bound.delete()
    came = watched(bound)
    await bound.work(2, seconds=200.0 if seen == "before the deletion" else 40.0)
    assert bound.condition("Degraded").startswith("True SecretNot")
    bound.kube.drop(SECRETS, "ray")
    if seen == "before the deletion":
        came.clear()  # it was looked at by itself, after minutes
        bound.delete()
    await bound.work(2, seconds=5.0)
    assert came == []
    assert bound.condition("Degraded") == "True SecretMissing"


@pytest.mark.parametrize("now", FORBIDDEN, ids=str)
async def test_a_write_does_not_send_it_either(bound: Bench, now: Any) -> None:
    """Even where the pass began before anybody could know."""
    bind(bound, **now)
    came = watched(bound)
    live = bound.kube.moe()  # a change that comes with no new generation, as a drift does
    bound.ray.drop(next(name for name in bound.ray.configs if name.endswith("experts-1")))
    assert live["metadata"]["generation"] == bound.kube.moe()["metadata"]["generation"]
    await bound.work(2, seconds=5.0)
    assert [each for each in came if each.startswith("PUT")] == []
    assert bound.condition("Degraded").startswith("True SecretNot")


async def test_a_token_that_was_rotated_is_used_before_the_next_write(bound: Bench) -> None:
    bind(bound, token="new-token")
    came = watched(bound)
    bound.ray.drop(next(name for name in bound.ray.configs if name.endswith("experts-1")))
    bound.now += 5.0
    await bound.work()  # it was read with the old one, and nothing was written with that
    bound.ray.token = "new-token"
    await bound.work(2, seconds=1.0)
    assert {each for each in came if each.startswith("PUT")} == {"PUT Bearer new-token"}
    assert any(name.endswith("experts-1") for name in bound.ray.configs)


async def test_a_token_that_ray_refuses_is_read_again(bound: Bench) -> None:
    bound.ray.token = "new-token"
    await bound.work(seconds=60.0)
    bind(bound, token="new-token")
    await bound.work(4, seconds=10.0)
    assert bound.condition("Ready") == "True Available"
    assert bound.condition("RuntimeReachable") == "True Reachable"


async def test_no_new_connection_is_made_for_a_token_that_may_not_be_sent(bound: Bench) -> None:
    """Long before the Secret would be looked at by itself."""
    came: list[str] = []

    async def hang_up(request: web.Request) -> web.StreamResponse:
        came.append(request.path)
        answer = web.json_response(bound.ray.state())
        answer.force_close()
        return answer

    bound.ray.override = hang_up
    await bound.work(seconds=5.0)
    await bound.work(seconds=5.0)
    assert came
    bind(bound, use=None)
    came.clear()
    await bound.work(2, seconds=5.0)
    assert [path for path in came if "internal" not in path] == []
    assert bound.condition("Degraded") == "True SecretNotLabelled"


async def test_api_keys_that_are_no_longer_allowed_are_not_written(bench: Bench) -> None:
    bench.kube.secret("keys", "api-keys", mine="k" * 40)
    bench.apply(serving={"apiKeysSecretRef": {"name": "keys"}})
    await bench.ready()
    bench.kube.secret("keys", None, mine="k" * 40)
    bench.ray.drop(bench.core)
    bench.ray.puts.clear()
    await bench.work(2, seconds=5.0)
    assert bench.ray.puts == []
    assert bench.condition("Degraded") == "True SecretNotLabelled"


async def test_api_keys_that_were_changed_are_written_as_they_are_now(bench: Bench) -> None:
    bench.kube.secret("keys", "api-keys", mine="k" * 40)
    bench.apply(serving={"apiKeysSecretRef": {"name": "keys"}})
    await bench.ready()
    before = hashes(bench)
    bench.kube.secret("keys", "api-keys", mine="n" * 40)
    bench.ray.drop(bench.core)
    await bench.work(3, seconds=5.0)
    assert len(hashes(bench)) == 1
    assert hashes(bench) != before


def hashes(bench: Bench) -> list[str]:
    api = next(d for d in bench.ray.configs[bench.core]["deployments"] if d["name"] == "api")
    found: list[str] = api["user_config"]["api_key_sha256"]
    return found


@pytest.mark.slow
async def test_a_settled_object_reads_its_secrets_less_than_once_a_minute(bound: Bench) -> None:
    bound.kube.secret("keys", "api-keys", mine="k" * 40)
    bound.change(serving={"apiKeysSecretRef": {"name": "keys"}})
    await bound.work(4, seconds=1.0)
    assert bound.condition("Progressing") == "False Settled"
    bound.kube.reads.clear()
    await bound.work(360, seconds=5.0)  # half an hour
    reads = {name: count for (plural, name), count in bound.kube.reads.items() if plural == "secrets"}
    assert reads.keys() == {"ray", "keys", INTERNAL_KEY}
    assert sum(reads.values()) <= 30


async def test_the_key_to_the_directory_never_goes_to_the_dashboard_nor_the_token_to_serve(bound: Bench) -> None:
    tokens: dict[str, set[str | None]] = {"api": set(), "internal": set()}

    async def note(request: web.Request) -> web.StreamResponse:
        kind = "internal" if request.path.endswith("/internal/report") else "api"
        tokens[kind].add(request.headers.get("Authorization"))
        return await bound.ray.answer(request)

    bound.ray.override = note
    await bound.work(3, seconds=5.0)
    assert tokens["api"] == {f"Bearer {TOKEN}"}
    assert len(tokens["internal"]) == 1
    assert not tokens["internal"] & tokens["api"]
