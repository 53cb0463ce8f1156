"""The routes of the OpenAI API."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from moe_contract.load import Load
from moe_serving.api.access import client_of
from moe_serving.api.answer import Piece
from moe_serving.api.errors import GenerationError
from moe_serving.api.events import EventStream
from moe_serving.api.generation import Generation
from moe_serving.api.preparation import Prepared, prepare_chat, prepare_completion
from moe_serving.api.responses import ChatFormat, CompletionFormat, Format, Header, Whole
from moe_serving.api.schemas import ChatRequest, CompletionRequest, GenerationParameters
from moe_serving.api.service import Service
from moe_serving.api.unknown import HEADER as IGNORED_HEADER
from moe_serving.api.unknown import header_value, ignored_fields
from moe_serving.engine.request import Origin


def build_router(service: Service) -> APIRouter:
    """``/v1/…``; the keys are checked by ``access``."""
    router = APIRouter(prefix="/v1")

    @router.get("/models")
    async def list_models() -> dict[str, Any]:
        await service.catch_up()
        return {"object": "list", "data": [_model(service)]}

    @router.get("/models/{name:path}")
    async def retrieve_model(name: str) -> dict[str, Any]:
        service.check_name(name)
        await service.catch_up()
        return _model(service)

    @router.get("/load")
    async def tell_load() -> Load:
        await service.catch_up()
        return await service.load()

    @router.post("/completions")
    async def create_completion(body: CompletionRequest, request: Request) -> Response:
        headers = _told_headers(service, body)
        header = _header(service, body, "cmpl")
        await service.catch_up()
        prepared = prepare_completion(body, Origin(client_of(request), header.id), service.bounds(body.model))
        return await _answer(service, body, prepared, CompletionFormat(header), headers)

    @router.post("/chat/completions")
    async def create_chat_completion(body: ChatRequest, request: Request) -> Response:
        headers = _told_headers(service, body)
        header = _header(service, body, "chatcmpl")
        await service.catch_up()
        prepared = prepare_chat(body, Origin(client_of(request), header.id), service.bounds(body.model))
        return await _answer(service, body, prepared, ChatFormat(header), headers)

    return router


def _model(service: Service) -> dict[str, Any]:
    name = service.settings.served_name
    body = {"id": name, "object": "model", "created": service.watch.created, "owned_by": "moe-operator"}
    defaults = service.defaults
    return body | {
        "max_model_len": service.context,  # the name that vLLM and SGLang gave it
        "generation_defaults": defaults.sampling,
        "generation_config_unused": defaults.unused,
    }


def _told_headers(service: Service, body: GenerationParameters) -> dict[str, str]:
    """Headers of the answer that tell which fields of the request were ignored."""
    ignored = ignored_fields(body)
    service.metrics.ignored_fields.inc(len(ignored))
    names = header_value(ignored)
    return {IGNORED_HEADER: names} if names else {}


def _header(service: Service, body: GenerationParameters, prefix: str) -> Header:
    request_id = f"{prefix}-{secrets.token_hex(12)}"
    return Header(request_id, body.model, service.fingerprint, body.wants_usage, bool(body.return_token_ids))


async def _answer(
    service: Service, body: GenerationParameters, prepared: Awaitable[Prepared], words: Format, headers: dict[str, str]
) -> Response:
    generation = Generation(service.source, await prepared, service.metrics)
    if not body.stream:
        return JSONResponse(await _whole(generation, words), headers=headers)
    try:
        # Whatever fails before the first piece still gets a status of its own.
        first = await anext(aiter(generation))
    except BaseException:
        await generation.aclose()
        raise
    return EventStream(generation, first, words, body, headers)


async def _whole(generation: Generation, words: Format) -> dict[str, Any]:
    pieces: list[list[Piece]] = [[] for _ in generation.prepared.choices]
    try:
        async for batch in generation:
            for index, piece in batch:
                pieces[index].append(piece)
    finally:
        await generation.aclose()
    return words.whole([_join(index, parts) for index, parts in enumerate(pieces)], generation.usage)


def _join(index: int, pieces: list[Piece]) -> Whole:
    finish = pieces[-1].finish if pieces else None
    if finish is None:
        raise GenerationError(f"answer {index} did not end")
    text = "".join(piece.text for piece in pieces)
    return Whole(index, text, finish, tuple(token for piece in pieces for token in piece.token_ids))
