"""Whose turn it is: one after the other, however much any of them has waiting. Pure."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """A queue in which tenants take turns, the owners of each tenant take turns in its, and each owner's items keep
    their order. So whoever has many owners comes no more often for it."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, OrderedDict[str, deque[T]]] = OrderedDict()

    def __len__(self) -> int:
        return sum(len(items) for owners in self._waiting.values() for items in owners.values())

    def add(self, tenant: str, owner: str, item: T) -> None:
        self._waiting.setdefault(tenant, OrderedDict()).setdefault(owner, deque()).append(item)

    def next(self) -> T | None:
        """The next item; None if nothing waits."""
        if not self._waiting:
            return None
        tenant, owners = self._waiting.popitem(last=False)
        owner, items = owners.popitem(last=False)
        item = items.popleft()
        if items:
            owners[owner] = items
        if owners:
            self._waiting[tenant] = owners
        return item
