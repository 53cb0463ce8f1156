"""What `helm test` finds of a deployment that its values name: it is asked, and deleted whatever came of that."""

from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from fake_kube import FakeKube
from fake_ray import serving

from moe_operator.chart import trial
from moe_operator.chart.trial import TOKENS, Trial, TrialError
from moe_operator.kube.api import Json
from moe_operator.kube.resources import MOE_DEPLOYMENTS, Resource

SPEC: Json = {"model": {"source": {"path": "models/tiny"}}}
SAID = {"choices": [{"text": " there was"}]}


class Worked(FakeKube):
    """An operator has what is made here served at ``url``, where that is given."""

    def __init__(self, url: str | None) -> None:
        super().__init__()
        self.url = url

    async def get(self, resource: Resource, namespace: str, name: str) -> Json:
        live = await super().get(resource, namespace, name)
        ready = {"type": "Ready", "status": "True" if self.url else "False", "reason": "R", "message": "no such model"}
        return {**live, "status": {"conditions": [ready], "url": self.url}}

    @property
    def made(self) -> list[Json]:
        return self.listing(MOE_DEPLOYMENTS).items


def api(asked: list[Json], models: Json, completion: Callable[[], web.Response]) -> Callable[..., Any]:
    """The API of a deployment; ``asked``: is told what for."""

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.path == "/tiny/v1/models":
            return web.json_response(models)
        asked.append(await request.json())
        return completion()

    return handle


async def tried(kube: Worked) -> None:
    await Trial(kube, "team", SPEC, 0.05).run()  # type: ignore[arg-type] # of the client it takes three calls


async def test_it_is_asked_for_tokens_by_the_name_that_it_tells(capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[Json] = []
    async with serving(api(asked, {"data": [{"id": "org/tiny"}]}, lambda: web.json_response(SAID))) as url:
        kube = Worked(f"{url}/tiny/v1")
        await tried(kube)
    assert [(each["model"], each["max_tokens"]) for each in asked] == [("org/tiny", TOKENS)]
    assert "it says: ' there was'\nit is deleted" in capsys.readouterr().out
    assert kube.made == []


@pytest.mark.parametrize(
    ("models", "completion"),
    [
        ({"data": []}, lambda: web.json_response(SAID)),
        ({"data": [{"id": "a"}]}, lambda: web.Response(status=503)),
        ({"data": [{"id": "a"}]}, lambda: web.Response(text="<html>", content_type="application/json")),
        ({"data": [{"id": "a"}]}, lambda: web.json_response({"choices": []})),
    ],
)
async def test_what_does_not_answer_has_failed_and_is_deleted(
    models: Json, completion: Callable[[], web.Response]
) -> None:
    async with serving(api([], models, completion)) as url:
        kube = Worked(f"{url}/tiny/v1")
        with pytest.raises(TrialError, match=f"{url}/tiny/v1 does not answer as it should: "):
            await tried(kube)
    assert kube.made == []


async def test_what_is_not_served_in_time_is_told_with_its_conditions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "POLL_SECONDS", 0.01)
    kube = Worked(None)
    with pytest.raises(TrialError, match=r"waited 0 s for to be served; its conditions: Ready=False R: no such model"):
        await tried(kube)
    assert kube.made == []
