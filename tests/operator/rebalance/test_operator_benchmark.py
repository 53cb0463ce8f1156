"""What the operator's benchmark makes of the looks that it has seen."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from benchmarks import operator_rebalance
from benchmarks.operator_rebalance import Look, Watcher, _longest, _part, _twice

from moe_dev.processes import Guarded, ProcessError


def test_a_deployment_that_nobody_looks_at_is_no_look_in_time() -> None:
    looks = [Look("/a", 0.0, 1), Look("/b", 5.0, 1), Look("/a", 30.0, 1), Look("/a", 90.0, 2), Look("/a", 120.0, 2)]
    seen = SimpleNamespace(looks=looks)
    assert _twice(seen) == 1
    assert _longest(seen) == 30.0, "after a move none is due for a while"
    assert (_twice(SimpleNamespace(looks=[])), _longest(SimpleNamespace(looks=[]))) == (0, 0.0)


def test_an_operator_that_ends_meanwhile_ends_the_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it is large or late any more."""
    monkeypatch.setattr(operator_rebalance, "WINDOW_S", 0.01)
    ended = Guarded.start("operator", ["true"], tmp_path / "log")
    ended.wait(60.0)
    operator: Any = SimpleNamespace(process=ended)
    kubectl: Any = None
    with pytest.raises(ProcessError, match="operator ended with 0"):
        _part(1, "small", Watcher(kubectl, operator), [], interval=1.0, seconds=0.1, looked_at=0)
