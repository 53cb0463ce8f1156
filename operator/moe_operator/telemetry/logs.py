"""Logs for people or for machines, each record with the key of the MoEDeployment it is about."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import UTC, datetime
from enum import StrEnum
from typing import TextIO

from moe_operator.text import INVISIBLE, on_one_line

NO_KEY = "-"

_key: ContextVar[str] = ContextVar("moe_deployment", default=NO_KEY)

QUIET_LOGGERS = ("kopf", "aiohttp.access", "asyncio", "kubernetes")
"""Libraries that tell of each event and request; they speak from WARNING on."""


class LogFormat(StrEnum):
    """How a record is written."""

    HUMAN = "human"
    JSON = "json"


@contextlib.contextmanager
def log_key(key: str) -> Iterator[None]:
    """Records made inside, also by what is called or awaited there, carry ``key`` (``namespace/name``)."""
    token = _key.set(key)
    try:
        yield
    finally:
        _key.reset(token)


def setup_logging(form: LogFormat, level: str = "INFO", stream: TextIO | None = None) -> None:
    """Send all records of the process to ``stream`` (default: standard error). May be called again."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_JsonFormatter() if form is LogFormat.JSON else _HumanFormatter())
    handler.addFilter(_add_key)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def last_words(message: str, stream: int = 2) -> None:
    """Log an error where the process is about to be ended from outside its loop: without a lock, without waiting.

    Whoever holds the lock of the log, or blocks its pipe, may be the reason. ``stream`` is a file descriptor.
    """
    record = logging.LogRecord("moe_operator.process.watchdog", logging.ERROR, "", 0, message, (), None)
    formatters = [handler.formatter for handler in logging.getLogger().handlers if handler.formatter]
    text = (formatters or [_HumanFormatter()])[0].format(record)
    with contextlib.suppress(OSError, ValueError):
        if select.select([], [stream], [], 0)[1]:
            os.write(stream, f"{text}\n".encode()[: select.PIPE_BUF])


def _add_key(record: logging.LogRecord) -> bool:
    record.moe_deployment = _key.get()
    return True


class _HumanFormatter(logging.Formatter):
    """``12:00:00.123 INFO    default/tiny reconcile: message``."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).strftime("%H:%M:%S.%f")[:-3]
        source = record.name.removeprefix("moe_operator.")
        key = getattr(record, "moe_deployment", NO_KEY)
        return f"{time} {record.levelname:<7} {key} {source}: {_text(self, record)}"


class _JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, moeDeployment, message, and error where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "moeDeployment": getattr(record, "moe_deployment", NO_KEY),
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        return INVISIBLE.sub(lambda found: json.dumps(found[0])[1:-1], json.dumps(fields, ensure_ascii=False))


def _text(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    """On one line; an exception, whose words may be another's too, on indented ones."""
    lines = formatter.formatException(record.exc_info).split("\n") if record.exc_info else []
    return "\n    ".join(map(on_one_line, (record.getMessage(), *lines)))
