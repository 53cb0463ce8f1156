"""What is wrong with an application, in Serve's words. Pure.

Messages say the same at every attempt: a status that repeats itself is not written again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from moe_contract.serve.state import Application
from moe_operator.api import Reason
from moe_operator.finding import Finding
from moe_operator.text import steadied

_MISSING_MODULE = re.compile(r"No module named '([\w.]+)'")
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Where an application runs, for messages.

    Attributes:
        name: what lacks a Python package, such as ``the Ray cluster at http://ray:8265``.
        cure: how it gets one.
    """

    name: str
    cure: str


def failure(application: Application, where: Whereabouts) -> Finding:
    """Why Serve could not start an application."""
    said = _said(application)
    missing = _MISSING_MODULE.search(said)
    if missing:
        return Finding(Reason.PACKAGE_MISSING, f"{where.name} has no Python package {missing[1]!r}: {where.cure}")
    return Finding(Reason.DEPLOY_FAILED, f"Serve could not start {application.name}: {_last_line(said)}")


def unhealth(application: Application) -> Finding:
    """Why Serve calls an application unhealthy."""
    said = _last_line(_said(application))
    return Finding(Reason.UNHEALTHY, f"Serve calls {application.name} unhealthy, and restarts it: {said}")


def _said(application: Application) -> str:
    return _ANSI.sub("", "\n".join([application.message, *application.problems.values()]))


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return steadied(lines[-1])[:500] if lines else "it gave no reason"
