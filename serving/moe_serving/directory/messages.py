"""What attention replicas tell the directory and hear from it, by calls (``wire.caller``)."""

from __future__ import annotations

from dataclasses import dataclass

from moe_contract.applications import Wire
from moe_contract.report import AdaptiveReport
from moe_serving.routing.exchange import StatisticsKnown, StatisticsTold
from moe_serving.routing.table import RoutingTable, TableVersion
from moe_serving.routing.window import Window


@dataclass(frozen=True, slots=True)
class AttentionStatus:
    """A replica's own view of itself.

    Attributes:
        ready: it can answer requests.
        problem: why the model cannot be loaded, which is tried again and again, or what else is wrong; None while it is
            being loaded at first.
        digest: of the checkpoint it has loaded; None until then.
        running, waiting: sequences being decoded and queued.
        kv_tokens: tokens whose keys and values are held for them.
        pid: of its process.
        node: the one that it runs on, and that its rows start on; host: the address of that.
        fetched: see ``ShardDescription``.
        adaptive: routing that is in force; None where all pairs are computed.
        wire: how rows travel to shards that know it.
    """

    ready: bool
    problem: str | None = None
    digest: str | None = None
    running: int = 0
    waiting: int = 0
    kv_tokens: int = 0
    pid: int = 0
    node: str = ""
    host: str = ""
    fetched: tuple[int, int] | None = None
    adaptive: AdaptiveReport | None = None
    wire: Wire = "Model"


@dataclass(frozen=True, slots=True, eq=False)
class SyncRequest:
    """One report of a replica.

    Attributes:
        replica: its name.
        version: of the table that nothing in the replica is behind any more: acknowledges it, and renews the lease.
        sequence: counts the replica's reports with windows; one that is repeated because its answer was lost has the
            same.
        windows: what was routed since the previous ones, one for each table.
        status: see ``AttentionStatus``.
        hold: seconds for which the answer may be held while there is no newer table.
        legacy_version: of what it keeps for those that are gone; see ``routing.exchange``.
    """

    replica: str
    version: TableVersion
    sequence: int
    windows: tuple[Window, ...]
    status: AttentionStatus
    hold: float = 0.0
    legacy_version: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class SyncReply:
    """Attributes:
    table: the one in force, None where the replica has it already.
    digest: of the directory's checkpoint, once it is known.
    counted: whether the windows were; those that were not are sent again.
    statistics: what the directory has; None where it takes none of this replica.
    """

    table: RoutingTable | None
    digest: str | None = None
    counted: bool = True
    statistics: StatisticsKnown | None = None


@dataclass(frozen=True, slots=True)
class StatisticsReport:
    """Statistics of a replica, apart from its reports since they may be large.

    Attributes:
        replica: its name.
        digest: of the checkpoint it has loaded; None until then.
        told: see ``StatisticsTold``.
    """

    replica: str
    digest: str | None
    told: StatisticsTold


def other_model(digest: str | None, directorys: str | None) -> str | None:
    """What is wrong with a replica that loads the checkpoint of ``digest``; None while one of the two is unknown."""
    if None in (digest, directorys) or digest == directorys:
        return None
    return (
        f"its node has another checkpoint at the model's path ({digest}) than the directory ({directorys}); make them "
        "equal and restart the replica"
    )
