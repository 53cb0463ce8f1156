"""The OpenAI-compatible HTTP side: what a client sends becomes token requests, and tokens become text again.

Knows nothing of Ray: tokens come from a ``source.TokenSource``. Imports without torch. Called by ``serve.api``.
"""
