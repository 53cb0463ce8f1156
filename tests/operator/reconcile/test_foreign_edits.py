"""Somebody else's edit of an application of ours: put right, and told with its place."""

import copy
from typing import Any

import pytest
from aiohttp import web
from bench import Bench


def edit(bench: Bench, **fields: Any) -> str:
    """Of the attention's autoscaling in the core application, as the dashboard's users do; returns its name."""
    name = bench.core
    config = copy.deepcopy(bench.ray.configs[name])
    attention = next(each for each in config["deployments"] if each["name"] == "attention")
    attention["autoscaling_config"] |= fields
    bench.ray.configs[name] = config
    return name


@pytest.mark.parametrize("restarted", [False, True])
async def test_an_edit_is_put_right_and_told(bench: Bench, restarted: bool) -> None:
    bench.apply()
    await bench.ready()
    if restarted:
        bench.restart()
        await bench.work(2)  # what was found as it should be is known from then on
    before = copy.deepcopy(bench.ray.configs)
    name = edit(bench, max_replicas=4)
    await bench.work(seconds=5.0)
    assert bench.ray.configs == before
    assert (bench.condition("Degraded"), bench.condition("Ready")) == ("True ForeignWriter", "True Available")
    assert f"changed {name} (deployments.attention.autoscaling_config.max_replicas)" in bench.message("Degraded")
    assert bench.kube.reasons().count("ForeignWriter") == 1
    await bench.work(seconds=290.0)
    assert bench.condition("Degraded") == "True ForeignWriter"
    await bench.work(seconds=20.0)
    assert bench.condition("Degraded") == "False AsExpected"


async def test_a_ray_that_keeps_nothing_is_written_to_ever_seldomer_and_told_so(bench: Bench) -> None:
    async def forget(request: web.Request) -> web.StreamResponse:
        if request.method == "PUT":
            puts.append(bench.now)
            return web.Response()
        return web.json_response(bench.ray.state())

    puts: list[float] = []
    bench.ray.override = forget
    bench.apply()
    await bench.work(200, seconds=0.5)
    assert 5 <= len(puts) <= 9
    assert puts[-1] - puts[-2] > 20.0
    assert bench.condition("Degraded") == "True ForeignWriter"
    assert "again and again, or this Ray does not keep what it is given" in bench.message("Degraded")
    bench.ray.override = None
    await bench.work(20, seconds=5.0)
    assert bench.condition("Ready") == "True Available"
    core = bench.core
    for _ in range(5):  # what was kept in between is put back at once
        bench.ray.drop(core)
        await bench.work(2, seconds=0.5)
        assert core in bench.ray.configs


@pytest.mark.parametrize(
    ("application", "path", "value"),
    [
        ("core", "args.model.path", "models/other"),
        ("core", "deployments.2.user_config.placement", "p1.nonsense"),
        ("core", "deployments.2.user_config.slots_per_shard", 7),
        ("core", "deployments.2.user_config.revision", 9),
        ("core", "deployments", None),
        ("core", "route_prefix", "/elsewhere"),
        ("experts-1", "deployments.0.user_config", {"slots_per_shard": "many"}),
        ("experts-1", "args", []),
    ],
)
async def test_nothing_is_decided_from_an_edit(bench: Bench, application: str, path: str, value: Any) -> None:
    bench.apply()
    await bench.ready()
    before = copy.deepcopy(bench.ray.configs)
    name = next(each for each in before if each.endswith(application) or (application == "core" and each == bench.core))
    config: Any = copy.deepcopy(bench.ray.configs[name])
    bench.ray.configs[name] = config
    *parents, field = path.split(".")
    for key in parents:
        config = config[int(key) if key.isdecimal() else key]
    config[field] = value
    bench.ray.puts.clear()
    await bench.work(3, seconds=5.0)
    after = copy.deepcopy(bench.ray.configs)
    if field == "revision":  # the directory has taken it, and does not go back
        directory = next(each for each in after[name]["deployments"] if each["name"] == "directory")
        assert directory["user_config"].pop("revision") == 10
        before[name]["deployments"][2]["user_config"].pop("revision")
    assert after == before
    assert (bench.condition("Degraded"), bench.condition("Ready")) == ("True ForeignWriter", "True Available")
    assert all(len(put["applications"]) == len(before) for put in bench.ray.puts)


async def test_right_after_a_restart_it_is_only_put_right(bench: Bench) -> None:
    bench.apply()
    await bench.ready()
    before = copy.deepcopy(bench.ray.configs)
    edit(bench, max_replicas=4)
    bench.restart()
    await bench.work(2)
    after = {name: config for name, config in bench.ray.configs.items() if "experts" in name}
    assert after == {name: config for name, config in before.items() if "experts" in name}
    assert bench.condition("Degraded") == "False AsExpected"


async def test_our_own_changes_are_no_edits(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those of which Ray did not answer in time whether it took them."""
    bench.apply()
    await bench.ready()
    bench.change(experts={"shards": 4})
    put = bench.ray._put

    def take_it_and_fail(body: Any) -> Any:
        put(body)
        raise RuntimeError("the answer is lost")

    with monkeypatch.context() as patched:
        patched.setattr(bench.ray, "_put", take_it_and_fail)
        await bench.work(seconds=5.0)
    for shards in (4, 3, 1, 2):
        bench.change(experts={"shards": shards})
        await bench.work(4, seconds=5.0)
        assert bench.condition("Degraded") == "False AsExpected"


async def test_what_is_removed_and_what_is_changed(bench: Bench) -> None:
    bench.apply(shards=8)
    await bench.ready()
    name = edit(bench, max_replicas=4)
    bench.ray.drop(*[each for each in bench.ray.configs if each != name])
    await bench.work(seconds=5.0)
    assert "experts-4 and 3 more and changed moe." in bench.message("Degraded")
    assert len(bench.ray.configs) == 9
