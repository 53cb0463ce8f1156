"""From the fields of a request to the token requests that answer it, within the model's bounds."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moe_contract.applications import ApiConfig
from moe_contract.model import ModelFacts
from moe_serving.api.answer import Answer
from moe_serving.api.encoding import in_thread
from moe_serving.api.errors import ContextLengthError, InvalidRequestError
from moe_serving.api.schemas import EMPTY_PROMPT, MAX_CHOICES, ChatRequest, CompletionRequest, GenerationParameters
from moe_serving.api.stop import stop_texts
from moe_serving.api.tokenizer import ModelTokenizer
from moe_serving.engine.request import GenerationRequest, Origin, Sampling

COMPLETION_TOKENS = 16
"""OpenAI's bound of a completion that names none."""
CHAT_TOKENS = 4096
"""Bound of a chat's answer that names none, or the context where that is less. A place in the cache is kept for every
token that may come: with OpenAI's bound, the whole context, few chats would run side by side where that is large."""

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
class Prepared:
    """All answers of one HTTP request, and the tokens of its prompts, each counted once."""

    choices: tuple[Choice, ...]
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a request must keep to, and what it may leave open.

    Attributes:
        context: tokens of prompt and answer together.
        limit: a sentence that tells it, and what makes it so. It begins with OpenAI's words, by which LiteLLM and
            others know that a shorter prompt would help.
        tokenizer: the model's.
        sampling: of requests that do not name theirs.
        queue_tokens: of all answers of a request together; None for no bound.
    """

    context: int
    limit: str
    tokenizer: ModelTokenizer
    sampling: Mapping[str, float]
    queue_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class _Length:
    """How long an answer may become: ``wanted`` tokens or else ``default``; and the client's fields that decide it."""

    wanted: int | None
    default: int
    field: str
    prompt_field: str


def context_of(facts: ModelFacts, config: ApiConfig) -> int:
    """Tokens of prompt and answer together, within what the deployment offers."""
    bounds = (facts.max_context, config.max_context, config.kv_cache_tokens)
    return min(bound for bound in bounds if bound is not None)


def bounds_of(facts: ModelFacts, config: ApiConfig, tokenizer: ModelTokenizer, sampling: Mapping[str, float]) -> Bounds:
    """The model's bounds, within what the deployment offers."""
    context = context_of(facts, config)
    limit = f"this model's maximum context length is {context} tokens"
    offered = min(facts.max_context, config.max_context or facts.max_context)
    if context < offered:
        limit += f", what the cache of a replica holds (its kv_cache_tokens; the model has {offered})"
    return Bounds(context, limit, tokenizer, sampling, config.queue_tokens)


async def prepare_completion(request: CompletionRequest, origin: Origin, bounds: Bounds) -> Prepared:
    """Raises InvalidRequestError: too many choices, an unknown token id, or more tokens than the context has."""
    count = len(request.prompts) * request.choices_per_prompt
    if count > MAX_CHOICES:
        raise InvalidRequestError(
            f"prompt: {count} answers asked for (prompts x n), at most {MAX_CHOICES} are made at once"
        )
    special = request.add_special_tokens is not False
    prompts = [await _prompt_ids(prompt, bounds, special) for prompt in request.prompts]
    openings = [_echo(prompt, bounds.tokenizer) if request.echo else "" for prompt in request.prompts]
    length = _Length(request.max_tokens, COMPLETION_TOKENS, "max_tokens", "prompt")
    return _prepared(request, origin, prompts, openings, length, bounds)


async def prepare_chat(request: ChatRequest, origin: Origin, bounds: Bounds) -> Prepared:
    """Raises InvalidRequestError: the template refuses the messages, or more tokens than the context has."""
    messages = [message.for_template() for message in request.messages]
    _check_text(sum(len(message["content"]) for message in messages), bounds, "messages")
    characters = sum(len(text) for message in messages for text in message.values())  # some of which may be left out
    chat = await in_thread(characters, bounds.tokenizer.render_chat, messages, request.template_variables)
    _check_length(len(chat), bounds.tokenizer.least_tokens(chat), bounds, "messages")
    ids = await in_thread(len(chat), bounds.tokenizer.encode_rendered, chat)
    if request.max_completion_tokens is not None:
        length = _Length(request.max_completion_tokens, CHAT_TOKENS, "max_completion_tokens", "messages")
    else:
        length = _Length(request.max_tokens, CHAT_TOKENS, "max_tokens", "messages")
    return _prepared(request, origin, [ids], [""], length, bounds)


def _echo(prompt: str | list[int], tokenizer: ModelTokenizer) -> str:
    return prompt if isinstance(prompt, str) else tokenizer.decode(prompt)


async def _prompt_ids(prompt: str | list[int], bounds: Bounds, special: bool) -> list[int]:
    if isinstance(prompt, str):
        _check_text(len(prompt), bounds, "prompt")
        ids = await in_thread(len(prompt), bounds.tokenizer.encode, prompt, special)
        if not ids:
            raise InvalidRequestError("prompt: has no tokens; send at least one", "prompt", EMPTY_PROMPT)
        return ids
    largest = max(prompt)
    if largest >= bounds.tokenizer.vocabulary:
        raise InvalidRequestError(
            f"prompt: {largest} is no token id of this model; they go up to {bounds.tokenizer.vocabulary - 1}", "prompt"
        )
    return prompt


def _check_text(characters: int, bounds: Bounds, field: str) -> None:
    _check_length(characters, -(-characters // bounds.tokenizer.longest_token), bounds, field)


def _check_length(characters: int, least: int, bounds: Bounds, field: str) -> None:
    """Refuse a text that cannot fit, as it has ``least`` tokens at least, before the work of tokenizing it."""
    if least > bounds.context:
        raise ContextLengthError(f"{field}: {characters} characters are at least {least} tokens; {bounds.limit}", field)


def _prepared(
    request: GenerationParameters,
    origin: Origin,
    prompts: Sequence[Sequence[int]],
    openings: Sequence[str],
    length: _Length,
    bounds: Bounds,
) -> Prepared:
    seed = secrets.randbelow(_SEEDS) if request.seed is None else request.seed
    stop_ids = bounds.tokenizer.special_ids(request.stops)
    stops = stop_texts(request.stops, bounds.tokenizer.special)
    choices: list[Choice] = []
    for ids, opening in zip(prompts, openings, strict=True):
        tokens = _answer_bound(len(ids), length, bounds)
        for number in range(request.choices_per_prompt):
            sampling = _sampling(request, tokens, (seed + number * _SEED_STEP) % _SEEDS, stop_ids, bounds.sampling)
            index = len(choices)
            token_request = GenerationRequest(f"{origin.request}-{index}", tuple(ids), sampling, origin=origin)
            answer = Answer(bounds.tokenizer.decode, ids, stops)
            choices.append(Choice(index, token_request, answer, opening))
    _check_total(choices, length.field, bounds)
    return Prepared(tuple(choices), sum(map(len, prompts)))


def _check_total(choices: Sequence[Choice], field: str, bounds: Bounds) -> None:
    """Refuse what could never be taken on as a whole."""
    total = sum(len(choice.request.prompt_ids) + choice.request.sampling.max_tokens for choice in choices)
    if bounds.queue_tokens is not None and total > bounds.queue_tokens:
        raise InvalidRequestError(
            f"{field}: {len(choices)} answers and their prompts are {total} tokens, and one request may ask for "
            f"{bounds.queue_tokens}; ask for fewer or shorter answers",
            field,
        )


def _answer_bound(prompt: int, length: _Length, bounds: Bounds) -> int:
    room = bounds.context - prompt
    if room < 1:
        raise ContextLengthError(
            f"{length.prompt_field}: {prompt} tokens leave no room for an answer; {bounds.limit}; "
            f"shorten it by {1 - room} tokens at least",
            length.prompt_field,
        )
    if length.wanted is not None and length.wanted > room:
        raise ContextLengthError(
            f"{length.field}: {length.wanted} and a prompt of {prompt} tokens are too many; {bounds.limit}; "
            f"ask for at most {room}",
            length.field,
        )
    return min(length.wanted or length.default, room)


def _sampling(
    request: GenerationParameters,
    max_tokens: int,
    seed: int,
    stop_ids: frozenset[int],
    defaults: Mapping[str, float],
) -> Sampling:
    def value(name: str, neutral: float) -> float:
        asked: float | None = getattr(request, name)
        return defaults.get(name, neutral) if asked is None else asked

    top_p = value("top_p", 1.0)
    return Sampling(
        max_tokens=max_tokens,
        temperature=value("temperature", 1.0) if top_p else 0.0,  # the smallest set is the most likely token
        top_k=max(int(value("top_k", 0)), 0),
        top_p=top_p or 1.0,
        min_p=value("min_p", 0.0),
        repetition_penalty=value("repetition_penalty", 1.0),
        seed=seed,
        stop_token_ids=stop_ids,
        ignore_eos=bool(request.ignore_eos),
    )
