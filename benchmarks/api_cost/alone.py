"""The api's application in a process of its own under uvicorn, set up as Serve does it; the stand-in in another one."""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.api_cost.place import OURS, Place
from benchmarks.api_cost.stand_in import MODEL, NETWORK, SERVED_NAME, Directory, Engine, text_ids
from moe_serving.wire.endpoint import Address, Endpoint

NODE = "here"
HOST = "127.0.0.1"
START_S, END_S = 120.0, 10.0

_context = multiprocessing.get_context("spawn")


@contextmanager
def opened(profile: str | None = None) -> Iterator[Place]:
    """
    Args:
        profile: file for a profile of the api's event loop, if wanted.

    Raises:
        RuntimeError: a process did not start.
    """
    with ExitStack() as stack:
        _, engine = stack.enter_context(_process("the stand-in", _engine))
        pid, port = stack.enter_context(_process("the api", partial(_api, engine, profile)))
        yield Place(f"http://{HOST}:{port}/v1", {OURS: pid})


@contextmanager
def _process(name: str, run: Callable[[Connection], None]) -> Iterator[tuple[int, Any]]:
    """Its id, and what it says when it is ready; it ends when its pipe does."""
    ours, theirs = _context.Pipe()
    process = _context.Process(target=run, args=(theirs,), name=name)
    process.start()
    theirs.close()
    try:
        if not ours.poll(START_S):
            raise RuntimeError(f"waited {START_S:g} s for {name} to start")
        yield process.pid or 0, ours.recv()
    except EOFError:
        raise RuntimeError(f"{name} has ended, and its output says why") from None
    finally:
        ours.close()
        process.join(END_S)
        if process.is_alive():
            process.kill()
            process.join()


def _engine(pipe: Connection) -> None:
    _run(pipe, _serve_engine)


def _api(engine: Address, profile: str | None, pipe: Connection) -> None:
    _run(pipe, partial(_serve_api, engine), profile)


def _run(pipe: Connection, serve: Callable[[Callable[[Any], None]], Any], profile: str | None = None) -> None:
    """``serve(ready)`` until the pipe ends, in an event loop such as Ray's workers have."""
    import cProfile  # noqa: PLC0415 - seldom wanted

    import uvloop  # noqa: PLC0415 - as Ray, not as the client

    async def until_the_end() -> None:
        async with serve(pipe.send):
            profiler = cProfile.Profile(time.thread_time) if profile else None
            if profiler is not None:
                profiler.enable()
            await _end_of(pipe)
            if profiler is not None:
                profiler.dump_stats(profile or "")

    uvloop.run(until_the_end())


async def _end_of(pipe: Connection) -> None:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(pipe.fileno(), ended.set)
    await ended.wait()
    loop.remove_reader(pipe.fileno())


@asynccontextmanager
async def _serve_engine(ready: Callable[[Any], None]) -> AsyncIterator[None]:
    from moe_serving.wire.calls import CallServer  # noqa: PLC0415 - not the client's

    endpoint = Endpoint.open(NODE, HOST, NETWORK)
    server = await CallServer.start(endpoint, {"generate": Engine(NODE, text_ids()).generate})
    ready(endpoint.address)
    yield
    await server.close()


@asynccontextmanager
async def _serve_api(engine: Address, ready: Callable[[Any], None]) -> AsyncIterator[None]:
    import uvicorn  # noqa: PLC0415 - not the client's

    from moe_serving.api.app import build_app  # noqa: PLC0415
    from moe_serving.serve.api import signed  # noqa: PLC0415

    service, close = await _service(engine)
    app = signed(build_app(service), "alone")
    listening = socket.create_server((HOST, 0))
    # As Serve's ``start_asgi_http_server``.
    config = uvicorn.Config(
        lambda: app, factory=True, lifespan="off", access_log=False, log_level=None, log_config=None, loop="none"
    )
    server = uvicorn.Server(config)
    running, serving = asyncio.create_task(service.run()), asyncio.create_task(server.serve([listening]))
    await service.may_be_asked()
    ready(listening.getsockname()[1])
    yield
    running.cancel()
    server.should_exit = True
    await serving
    await close()


async def _service(engine: Address) -> tuple[Any, Callable[[], Awaitable[None]]]:
    """What ``serve.api`` sets up, with calls of the stand-in in place of Serve's; and how it is closed."""
    from moe_serving.api.service import Service  # noqa: PLC0415 - not the client's
    from moe_serving.streams.receiver import StreamReceiver  # noqa: PLC0415
    from moe_serving.streams.source import ReplicatedSource  # noqa: PLC0415
    from moe_serving.wire.caller import Caller  # noqa: PLC0415

    async def no_statistics() -> None:
        return None

    async def adopt_nothing(packed: bytes, source: str) -> None:
        return None

    async def find() -> Address:
        return engine

    receiver, caller = StreamReceiver(), Caller(find, "api", NODE, NETWORK)
    address = await receiver.start(NODE, HOST, NETWORK)

    async def ask(request: Any, stream: int) -> None:
        await caller.call("generate", request, stream, address)

    service = Service(str(MODEL), Directory().exchange, no_statistics, adopt_nothing)
    service.source = ReplicatedSource(receiver, ask, service.metrics.attention_failovers.inc)
    service.configure({"served_name": SERVED_NAME})

    async def close() -> None:
        caller.close()
        await receiver.close()

    return service, close
