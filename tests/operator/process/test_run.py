"""What the process watches over."""

import asyncio
from typing import Any, cast

from moe_operator.kube.client import KubeClient
from moe_operator.process.options import Options
from moe_operator.process.run import _Process
from moe_operator.process.watchdog import Watchdog
from moe_operator.telemetry.liveness import Liveness
from moe_operator.telemetry.metrics import Metrics


def test_the_watches_of_both_kinds_are_watched_over() -> None:
    nothing = cast(Any, None)
    process = _Process(
        cast(Options, nothing), cast(KubeClient, nothing), asyncio.Event(), Watchdog(), Liveness(), Metrics()
    )
    assert process.unseen(-1.0) is None
    metadata = {"namespace": "team", "name": "tiny-r1", "uid": "u", "resourceVersion": "5"}
    process.placements.put({"metadata": metadata})
    assert process.unseen(-1.0) == "team/tiny-r1"
    process.placements.put({"metadata": metadata}, watched=True)
    process.store.put({"metadata": {**metadata, "name": "tiny"}})
    assert process.unseen(-1.0) == "team/tiny"
