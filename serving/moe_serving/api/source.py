"""Where tokens come from, as the api sees it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from moe_serving.engine.request import GenerationRequest, TokenEvent


class TokenSource(Protocol):
    """Answers requests with tokens. Closing a stream before its end cancels the request."""

    def stream(self, request: GenerationRequest) -> AsyncGenerator[TokenEvent, None]:
        """The events of a request; the first says that it was taken on, the last one has a ``finish_reason``.

        Raises:
            ApiError: nobody can answer, or no more.
        """
        ...
