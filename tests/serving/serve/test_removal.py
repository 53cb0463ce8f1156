"""What clients see when their deployment is removed: short answers come to their ends, long ones end with an error."""

import asyncio
import json
from typing import Any

import httpx2
import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]


async def stream(plane, body: dict[str, Any], begun: asyncio.Event) -> list[str]:
    """The data of all events; fails if the connection is cut."""
    headers = {"Authorization": f"Bearer {plane.api_key}"}
    wanted = {"model": "tiny", "prompt": "The", "stream": True, "ignore_eos": True} | body
    told = []
    async with (
        httpx2.AsyncClient(timeout=120) as client,
        client.stream("POST", f"{plane.url}/v1/completions", json=wanted, headers=headers) as response,
    ):
        assert response.status_code == 200
        async for line in response.aiter_lines():
            if line:
                told.append(line.removeprefix("data: "))
                begun.set()
    return told


async def test_a_removed_deployment_ends_its_streams(another_plane, tiny) -> None:
    plane = another_plane("serving-removed", tiny)
    await asyncio.to_thread(plane.scale, 1)
    await asyncio.to_thread(plane.wait_ready)
    begun = [asyncio.Event(), asyncio.Event()]
    # Short enough also in steps of 49 rows on a machine with other work beside it.
    short = asyncio.create_task(stream(plane, {"max_tokens": 6}, begun[0]))
    long = asyncio.create_task(stream(plane, {"max_tokens": 1000, "n": 48}, begun[1]))
    async with asyncio.timeout(60):
        await asyncio.gather(*(event.wait() for event in begun))
    await asyncio.to_thread(plane.remove)
    assert (await short)[-1] == "[DONE]"
    last = json.loads((await long)[-1])
    assert last == {
        "error": {
            "message": "the deployment was removed before the answer was complete; what came so far is right",
            "type": "server_error",
            "param": None,
            "code": "deployment_removed",
        }
    }
