"""A deployment that nobody can call is none: its health says so, and Serve replaces the process."""

from __future__ import annotations

import asyncio
import warnings
from types import SimpleNamespace
from typing import Any

import pytest

from moe_serving.wire.caller import Caller
from moe_serving.wire.endpoint import Endpoint

with warnings.catch_warnings(action="ignore"):  # Ray's own, about its use of pydantic
    from moe_serving.serve.attention import Attention
    from moe_serving.serve.direct import Direct
    from moe_serving.serve.directory import Directory
    from moe_serving.serve.experts import Experts


async def ping() -> str:
    return "pong"


async def failed() -> Direct:
    """Its sockets are gone before it listens."""
    endpoint = Endpoint.open("node", "127.0.0.1")
    endpoint.close()
    direct = Direct(endpoint, {"ping": ping})
    with pytest.raises(OSError):
        await direct.address()
    return direct


async def test_one_that_listens_is_healthy() -> None:
    direct = Direct(Endpoint.open("node", "127.0.0.1"), {"ping": ping})
    direct.check_health()
    caller = Caller(direct.address, "test", "node", "auto")
    assert await caller.call("ping") == "pong"
    direct.check_health()
    caller.close()
    await direct.close()


async def test_one_that_cannot_listen_says_so_and_can_be_closed() -> None:
    direct = await failed()
    with pytest.raises(RuntimeError, match="calls cannot be listened for: "):
        direct.check_health()
    await direct.close()


async def test_the_deployments_that_are_called_are_unhealthy_then() -> None:
    """Their constructors need a Ray; what is asked of them here is only what their health is made of."""
    running = asyncio.create_task(asyncio.sleep(60))
    replica: Any = SimpleNamespace(_direct=await failed(), _running=running, _starting=running, _shard=None)
    with pytest.raises(RuntimeError, match="calls cannot be listened for: "):
        Directory.check_health(replica)
    with pytest.raises(RuntimeError, match="calls cannot be listened for: "):
        await Experts.check_health(replica)
    running.cancel()


async def test_an_attention_replica_that_hears_of_no_table_any_more_is_unhealthy() -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    replica: Any = SimpleNamespace(_loaded=None, _syncing=asyncio.create_task(fail()))
    await asyncio.wait({replica._syncing})
    with pytest.raises(RuntimeError, match=r"the reports to the directory have ended: .*ZeroDivisionError"):
        Attention.check_health(replica)
