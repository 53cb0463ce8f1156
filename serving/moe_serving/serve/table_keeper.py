"""What an attention replica shows the directory while its model is still being loaded, and after."""

from __future__ import annotations

from moe_serving.routing.gatherer import Gathered
from moe_serving.routing.sync import SyncedClient
from moe_serving.routing.table import RoutingTable, TableVersion
from moe_serving.routing.window import Window


class TableKeeper:
    """A ``SyncedClient`` that keeps tables until there is somebody to use them, then passes everything on.

    A replica without a model acknowledges each table as it comes: it routes nothing, so nobody has to wait for it.
    """

    def __init__(self) -> None:
        self._client: SyncedClient | None = None
        self._table: RoutingTable | None = None

    def attach(self, client: SyncedClient) -> None:
        """The model is loaded: ``client`` takes over."""
        if self._table is not None:
            client.update(self._table)
        self._client = client

    @property
    def version(self) -> TableVersion:
        if self._client is not None:
            return self._client.version
        return self._table.version if self._table is not None else RoutingTable.empty(0, 0).version

    def update(self, table: RoutingTable) -> None:
        if self._client is not None:
            self._client.update(table)
        else:
            self._table = table

    @property
    def has_windows(self) -> bool:
        return self._client is not None and self._client.has_windows

    def take_windows(self) -> tuple[Window, ...]:
        return self._client.take_windows() if self._client is not None else ()

    @property
    def has_statistics(self) -> bool:
        return self._client is not None and self._client.has_statistics

    def take_statistics(self) -> Gathered | None:
        return self._client.take_statistics() if self._client is not None else None
