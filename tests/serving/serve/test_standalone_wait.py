"""How ``moe-serve`` waits: line by line, and not for ever for what cannot load."""

import pytest

from moe_contract.report import AttentionReport, DirectoryReport, Progress
from moe_serving.standalone import wait
from moe_serving.standalone.errors import StandaloneError


class Rest:
    """Serve, where all is well."""

    def status(self) -> dict[str, object]:
        return {}


def report(copied: int, problem: str | None) -> DirectoryReport:
    replica = AttentionReport(replica="a", ready=False, problem=problem, epoch=0, running=0, waiting=0)
    return DirectoryReport(
        term=1, revision=1, epoch=0, attention=(replica,), progress=Progress(copied=copied, total=9, settled=False)
    )


def test_what_cannot_load_ends_the_wait_once_nothing_else_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wait, "STALLED_S", 0.3)
    monkeypatch.setattr(wait, "_PERIOD_S", 0.1)
    monkeypatch.setattr(wait, "_healthy", lambda url: False)
    # While it loads, and while copies come, it waits however long that takes.
    reports = [report(0, None)] * 6 + [report(copied, "out of memory") for copied in range(6)]
    monkeypatch.setattr(wait, "_report", lambda url, key: reports.pop(0) if len(reports) > 1 else reports[0])
    told: list[str] = []
    with pytest.raises(StandaloneError, match="no progress for 0 s: attention replica a: out of memory"):
        wait.wait_until_ready(Rest(), (), "http://x", "key", told.append)  # type: ignore[arg-type]  # all that is asked
    assert len(told) == 7
    assert "5 of 9 expert copies loaded" in told[-1]
    assert "attention replica a: out of memory" in told[-1]
