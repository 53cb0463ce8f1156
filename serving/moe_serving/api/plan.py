"""From the fields of a request to the token requests that answer it, within the model's bounds."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from moe_serving.api.answer import Answer
from moe_serving.api.errors import ContextLengthError, InvalidRequestError
from moe_serving.api.schemas import EMPTY_PROMPT, MAX_CHOICES, ChatRequest, CompletionRequest, GenerationParameters
from moe_serving.api.tokenizer import ModelTokenizer
from moe_serving.engine.request import GenerationRequest, Sampling

COMPLETION_TOKENS = 16
"""OpenAI's bound of a completion that names none; a chat's is the context."""

_SEEDS = 2**63
_SEED_STEP = 0x9E3779B97F4A7C15
"""Tells the n choices of one prompt apart; odd, so that all steps modulo ``_SEEDS`` differ."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer to be made.

    Attributes:
        index: its number in the response.
        opening: text that stands before the answer (the prompt, when it is to be echoed).
    """

    index: int
    request: GenerationRequest
    answer: Answer
    opening: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """All answers of one HTTP request, and the tokens of its prompts, each counted once."""

    choices: tuple[Choice, ...]
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Bounds:
    """The model's: tokens of prompt and answer together, and its tokenizer."""

    context: int
    tokenizer: ModelTokenizer


async def plan_completion(request: CompletionRequest, request_id: str, bounds: Bounds) -> Plan:
    """Raises InvalidRequestError: too many choices, an unknown token id, or more tokens than the context has."""
    count = len(request.prompts) * request.choices_per_prompt
    if count > MAX_CHOICES:
        raise InvalidRequestError(
            f"prompt: {count} answers asked for (prompts x n), at most {MAX_CHOICES} are made at once"
        )
    prompts = [await _prompt_ids(prompt, bounds) for prompt in request.prompts]
    wanted = request.max_tokens
    openings = [bounds.tokenizer.decode(ids) if request.echo else "" for ids in prompts]
    return _plan(request, request_id, prompts, openings, wanted, COMPLETION_TOKENS, bounds)


async def plan_chat(request: ChatRequest, request_id: str, bounds: Bounds) -> Plan:
    """Raises InvalidRequestError: the template refuses the messages, or more tokens than the context has."""
    messages = [message.for_template() for message in request.messages]
    _check_length(sum(len(message["content"]) for message in messages), bounds, "messages")
    ids = await asyncio.to_thread(bounds.tokenizer.encode_chat, messages)
    wanted = request.max_completion_tokens or request.max_tokens
    return _plan(request, request_id, [ids], [""], wanted, bounds.context, bounds)


async def _prompt_ids(prompt: str | list[int], bounds: Bounds) -> list[int]:
    if isinstance(prompt, str):
        _check_length(len(prompt), bounds, "prompt")
        ids = await asyncio.to_thread(bounds.tokenizer.encode, prompt)
        if not ids:
            raise InvalidRequestError("prompt: has no tokens; send at least one", "prompt", EMPTY_PROMPT)
        return ids
    largest = max(prompt)
    if largest >= bounds.tokenizer.vocabulary:
        raise InvalidRequestError(
            f"prompt: {largest} is no token id of this model; they go up to {bounds.tokenizer.vocabulary - 1}", "prompt"
        )
    return prompt


def _check_length(characters: int, bounds: Bounds, field: str) -> None:
    """Refuse a text that cannot fit, before the work of tokenizing it."""
    least = -(-characters // bounds.tokenizer.longest_token)
    if least > bounds.context:
        raise ContextLengthError(
            f"{field}: {characters} characters are at least {least} tokens, this model's context is {bounds.context}",
            field,
        )


def _plan(
    request: GenerationParameters,
    request_id: str,
    prompts: Sequence[Sequence[int]],
    openings: Sequence[str],
    wanted: int | None,
    default: int,
    bounds: Bounds,
) -> Plan:
    seed = secrets.randbelow(_SEEDS) if request.seed is None else request.seed
    choices: list[Choice] = []
    for ids, opening in zip(prompts, openings, strict=True):
        tokens = _answer_bound(len(ids), wanted, default, bounds.context)
        for number in range(request.choices_per_prompt):
            sampling = _sampling(request, tokens, (seed + number * _SEED_STEP) % _SEEDS)
            index = len(choices)
            token_request = GenerationRequest(f"{request_id}-{index}", tuple(ids), sampling)
            answer = Answer(bounds.tokenizer.decode, ids, request.stops)
            choices.append(Choice(index, token_request, answer, opening))
    return Plan(tuple(choices), sum(map(len, prompts)))


def _answer_bound(prompt: int, wanted: int | None, default: int, context: int) -> int:
    room = context - prompt
    if room < 1:
        raise ContextLengthError(
            f"prompt: {prompt} tokens leave no room for an answer in this model's context of {context}; "
            f"shorten it by {1 - room} tokens at least",
            "prompt",
        )
    if wanted is not None and wanted > room:
        raise ContextLengthError(
            f"max_tokens: {wanted} and a prompt of {prompt} tokens exceed this model's context of {context}; "
            f"ask for at most {room}",
            "max_tokens",
        )
    return min(wanted or default, room)


def _sampling(request: GenerationParameters, max_tokens: int, seed: int) -> Sampling:
    return Sampling(
        max_tokens=max_tokens,
        temperature=1.0 if request.temperature is None else request.temperature,
        top_p=1.0 if request.top_p is None else request.top_p,
        seed=seed,
        ignore_eos=request.ignore_eos,
    )
