"""Whether an engine can ever serve a request; what is wrong is told by field, value and bound."""

from __future__ import annotations

import math

from moe_contract.applications import AttentionConfig
from moe_serving.engine.errors import RequestRefusedError
from moe_serving.engine.request import MAX_PENALTY, MIN_PENALTY, GenerationRequest, Sampling


def check_request(request: GenerationRequest, vocabulary: int, max_context: int, limits: AttentionConfig) -> None:
    """
    Args:
        vocabulary: token ids are below it.
        max_context: longest sequence of the model, in tokens.

    Raises:
        RequestRefusedError: never servable within these bounds.
    """
    if not request.prompt_ids:
        raise RequestRefusedError("the prompt is empty; give at least one token")
    strange = [token for token in (*request.prompt_ids, *request.emitted_ids) if not 0 <= token < vocabulary]
    if strange:
        raise RequestRefusedError(f"token id {strange[0]} is not in the vocabulary, 0 .. {vocabulary - 1}")
    _check_sampling(request.sampling)
    if len(request.emitted_ids) > request.sampling.max_tokens:
        raise RequestRefusedError(
            f"emitted_ids has {len(request.emitted_ids)} tokens, max_tokens allows {request.sampling.max_tokens}"
        )
    length = len(request.prompt_ids) + request.sampling.max_tokens
    asked = f"prompt of {len(request.prompt_ids)} tokens + max_tokens {request.sampling.max_tokens} = {length} tokens"
    if length > max_context:
        raise RequestRefusedError(f"{asked}, the model's context is {max_context}; shorten the prompt or the answer")
    if length > limits.kv_cache_tokens:
        raise RequestRefusedError(
            f"{asked}, the replica's cache holds {limits.kv_cache_tokens}; shorten them or raise kv_cache_tokens"
        )


def _check_sampling(sampling: Sampling) -> None:
    if sampling.max_tokens < 1:
        raise RequestRefusedError(f"max_tokens is {sampling.max_tokens}; it must be at least 1")
    if not (math.isfinite(sampling.temperature) and sampling.temperature >= 0):
        raise RequestRefusedError(f"temperature is {sampling.temperature}; it must be 0 or more")
    if not 0 < sampling.top_p <= 1:
        raise RequestRefusedError(f"top_p is {sampling.top_p}; it must be above 0 and at most 1")
    if sampling.top_k < 0:
        raise RequestRefusedError(f"top_k is {sampling.top_k}; it must be 0 or more")
    if not 0 <= sampling.min_p <= 1:
        raise RequestRefusedError(f"min_p is {sampling.min_p}; it must be 0 to 1")
    if not MIN_PENALTY <= sampling.repetition_penalty <= MAX_PENALTY:
        raise RequestRefusedError(
            f"repetition_penalty is {sampling.repetition_penalty}; it must be {MIN_PENALTY} to {MAX_PENALTY}"
        )
    if sampling.seed < 0:
        raise RequestRefusedError(f"seed is {sampling.seed}; it must be 0 or more")
