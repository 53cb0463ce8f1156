"""Values of command lines that several commands take, as types for argparse."""

from __future__ import annotations

import argparse
import re

LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
"""A DNS label, as a regular expression."""


def host_and_port(text: str) -> tuple[str, int]:
    """``HOST:PORT``; an IPv6 address in brackets."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT, such as 0.0.0.0:8080")
    return host.strip("[]"), int(port)


def kubernetes_namespace(text: str) -> str:
    """The name of one."""
    if not re.fullmatch(LABEL, text) or len(text) > 63:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not the name of a namespace: at most 63 of a-z, 0-9 and '-', with no '-' at its ends"
        )
    return text
