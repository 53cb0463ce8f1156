"""Why no answer came, in words of our own. Pure; used by ``http``."""

from __future__ import annotations

import asyncio

import aiohttp

from moe_operator.runtimes.errors import RayAddressRefusedError


def refusal_in(error: BaseException) -> RayAddressRefusedError | None:
    """The policy's verdict, where a resolver's error was wrapped on its way through aiohttp."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, RayAddressRefusedError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def in_words(error: BaseException, seconds: float, connect_seconds: float) -> str:
    """Without addresses, ports and times that differ from attempt to attempt, and without a word of the server's."""
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return f"no connection within {connect_seconds:.0f} s"
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return f"no answer within {seconds:.0f} s"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "the host name cannot be resolved"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        reason = getattr(error.certificate_error, "verify_message", "")  # OpenSSL's own words
        return f"its certificate is not trusted: {reason or 'it does not fit the host'}"
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return "it does not speak TLS; is the URL's scheme http instead of https?"
    if isinstance(error, ConnectionRefusedError) or isinstance(
        getattr(error, "os_error", None), ConnectionRefusedError
    ):
        return "connection refused"
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.os_error.strerror or type(error.os_error).__name__
    if isinstance(error, aiohttp.ServerDisconnectedError | ConnectionResetError | aiohttp.ClientPayloadError):
        return "it closed the connection before it had answered"
    if isinstance(error, aiohttp.ClientResponseError):
        return "it does not speak HTTP"
    return f"no answer that can be used ({type(error).__name__})"  # its words may be the server's
