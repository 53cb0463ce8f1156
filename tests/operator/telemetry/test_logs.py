"""Log records in both forms carry the key of the MoEDeployment they are about."""

import asyncio
import io
import json
import logging
import re
from collections.abc import Iterator

import pytest

from moe_operator.telemetry.logs import QUIET_LOGGERS, LogFormat, log_key, setup_logging
from moe_operator.text import INVISIBLE


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    names = (root, *map(logging.getLogger, QUIET_LOGGERS))
    handlers, levels = root.handlers, [logger.level for logger in names]
    yield io.StringIO()
    root.handlers = handlers
    for logger, level in zip(names, levels, strict=True):
        logger.setLevel(level)


logger = logging.getLogger("moe_operator.reconcile.loop")


def test_a_line_for_people(stream: io.StringIO) -> None:
    setup_logging(LogFormat.HUMAN, stream=stream)
    logger.warning("no key here: %d", 7)
    with log_key("team/tiny"):
        logger.info("applied")
    time = r"\d\d:\d\d:\d\d\.\d{3}"
    first, second = stream.getvalue().splitlines()
    assert re.fullmatch(rf"{time} WARNING - reconcile\.loop: no key here: 7", first)
    assert re.fullmatch(rf"{time} INFO    team/tiny reconcile\.loop: applied", second)


def test_what_others_say_makes_no_line_of_its_own(stream: io.StringIO) -> None:
    setup_logging(LogFormat.HUMAN, stream=stream)
    logger.warning("Ray says: %s", "no\n12:00:00.000 ERROR   - moe: \x1b[31mforged\u2028")
    (line,) = stream.getvalue().splitlines()
    assert line.endswith(r"Ray says: no\n12:00:00.000 ERROR   - moe: \x1b[31mforged\u2028")


FOREIGN = "no\n12:00:00.000 ERROR   - moe: \x1b]0;title\x07\x9b31m\x7f\r\u2029\u202eforged\u2066\u200b\ud800"


@pytest.mark.parametrize("form", LogFormat)
def test_what_others_say_is_in_both_forms_without_control_characters(stream: io.StringIO, form: LogFormat) -> None:
    setup_logging(form, stream=stream)
    try:
        raise ValueError(FOREIGN)
    except ValueError:
        logger.exception("%s", FOREIGN)
    first, *others = stream.getvalue().rstrip("\n").split("\n")
    assert not INVISIBLE.search(first + "".join(others))
    if form is LogFormat.JSON:
        assert others == []
        assert json.loads(first)["message"] == FOREIGN
    else:
        assert others
        assert all(line.startswith("    ") for line in others)


def test_a_line_for_machines(stream: io.StringIO) -> None:
    setup_logging(LogFormat.JSON, stream=stream)
    with log_key("team/tiny"):
        try:
            raise ValueError("über")
        except ValueError:
            logger.exception("it\nfailed")
    (line,) = stream.getvalue().splitlines()
    record = json.loads(line)
    assert record["moeDeployment"] == "team/tiny"
    assert (record["level"], record["logger"]) == ("ERROR", logger.name)
    assert record["message"] == "it\nfailed"
    assert record["error"].endswith("ValueError: über")
    assert record["time"].endswith("+00:00")


def test_a_traceback_is_shown_to_people(stream: io.StringIO) -> None:
    setup_logging(LogFormat.HUMAN, stream=stream)
    try:
        raise ValueError("why")
    except ValueError:
        logger.exception("it failed")
    assert stream.getvalue().endswith("ValueError: why\n")


async def test_keys_of_tasks_side_by_side_do_not_mix(stream: io.StringIO) -> None:
    setup_logging(LogFormat.JSON, stream=stream)

    async def work(key: str) -> None:
        with log_key(key):
            await asyncio.sleep(0)
            logger.info(key)

    await asyncio.gather(work("a/1"), work("b/2"))
    records = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(record["moeDeployment"], record["message"]) for record in records] == [("a/1", "a/1"), ("b/2", "b/2")]


def test_levels(stream: io.StringIO) -> None:
    setup_logging(LogFormat.HUMAN, level="ERROR", stream=stream)
    logger.warning("below the level")
    logging.getLogger("kopf.objects").info("each event")
    setup_logging(LogFormat.HUMAN, level="DEBUG", stream=stream)
    logging.getLogger("kopf.objects").info("each event")
    logger.debug("shown once, by one handler")
    assert [line.split(": ")[1] for line in stream.getvalue().splitlines()] == ["shown once, by one handler"]
