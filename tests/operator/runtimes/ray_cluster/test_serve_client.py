"""What each answer of a dashboard, or of something else, means."""

import pytest
from aiohttp import web
from fake_ray import serving

from moe_operator.api import Reason
from moe_operator.runtimes.credential import Credential
from moe_operator.runtimes.errors import RayError
from moe_operator.runtimes.ray_cluster.serve_rest.client import ServeClient


@pytest.mark.parametrize(
    ("status", "text", "reason", "says"),
    [
        (401, "Unauthorized", Reason.RAY_AUTH_FAILED, "asks for a token and got none"),
        (403, "Forbidden", Reason.RAY_AUTH_FAILED, "refused the token"),
        (404, "404: Not Found", Reason.NOT_A_RAY_DASHBOARD, "HTTP 404"),
        (200, "<!doctype html><html>hello</html>", Reason.NOT_A_RAY_DASHBOARD, "an HTML page"),
        (200, '{"items": []}', Reason.NOT_A_RAY_DASHBOARD, "not the JSON expected"),
        (200, '{"applications": {"x": {"status": 7}}}', Reason.NOT_A_RAY_DASHBOARD, "not the JSON expected"),
        (200, "\xff\xfe", Reason.NOT_A_RAY_DASHBOARD, "not the JSON expected"),
        (302, "", Reason.NOT_A_RAY_DASHBOARD, "redirects"),
        (501, "Serve dependencies are not installed", Reason.PACKAGE_MISSING, "ray[serve]"),
        (500, "Traceback 0x7f31", Reason.RAY_UNREACHABLE, "in trouble (HTTP 500)"),
        (503, "The GCS may be down", Reason.RAY_UNREACHABLE, "in trouble (HTTP 503)"),
    ],
)
async def test_reading(http, fake_ray, status: int, text: str, reason: Reason, says: str) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text=text)

    fake_ray.override = answer
    with pytest.raises(RayError) as caught:
        await ServeClient(http, fake_ray.url, Credential("token")).read()
    assert caught.value.reason == reason
    assert says in str(caught.value)
    assert fake_ray.url in str(caught.value)


def refusing(fake_ray, words: str):
    """Serve, which refuses every configuration in these words."""

    async def refuse(request: web.Request) -> web.StreamResponse:
        if request.method == "PUT":
            return web.Response(status=400, text=words)
        return web.json_response(fake_ray.state())

    return refuse


async def test_a_configuration_that_serve_refuses_is_told_in_its_words(http, fake_ray) -> None:
    fake_ray.override = refusing(fake_ray, "1 validation error for ServeDeploySchema" + "x" * 10_000)
    client = ServeClient(http, fake_ray.url, None)
    await client.read()
    with pytest.raises(RayError, match="1 validation error for ServeDeploySchema") as caught:
        await client.write('{"applications": []}')
    assert caught.value.reason == Reason.DEPLOY_FAILED
    assert len(str(caught.value)) < 700


async def test_the_words_of_a_server_that_is_not_known_as_serve_are_not_repeated(http, fake_ray) -> None:
    fake_ray.override = refusing(fake_ray, "an internal secret")
    with pytest.raises(RayError, match="refused the configuration") as caught:
        await ServeClient(http, fake_ray.url, None).write('{"applications": []}')
    assert "internal" not in str(caught.value)


async def test_nor_those_of_another_server_behind_the_same_name(http, fake_ray, monkeypatch) -> None:
    """As when a name leads to Serve for the read and to something else for the write."""
    fake_ray.override = refusing(fake_ray, "an internal secret")
    client = ServeClient(http, fake_ray.url, None)
    await client.read()
    async with serving(fake_ray.handle) as elsewhere:
        monkeypatch.setattr(client, "dashboard_url", elsewhere)
        with pytest.raises(RayError, match="refused the configuration") as caught:
            await client.write('{"applications": []}')
    assert "internal" not in str(caught.value)


async def test_tokens(http, fake_ray) -> None:
    fake_ray.token = "right"
    for token, says in ((None, "got none"), ("wrong", "refused the token")):
        with pytest.raises(RayError, match=says):
            await ServeClient(http, fake_ray.url, token and Credential(token)).read()
    state = await ServeClient(http, fake_ray.url + "/", Credential("right")).read()
    assert state.controller == "controller-1"
    assert state.options == {"proxy_location": "HeadOnly"}
