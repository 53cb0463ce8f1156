"""What somebody else changed or removed of one deployment on a Ray cluster, and for how long that is told. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from moe_operator.api import Reason
from moe_operator.finding import Finding
from moe_operator.text import some

LOSS_SECONDS = 300.0
"""For how long it is told that a foreign writer removed or changed applications."""
_NAMED = 5
"""Applications that a message names."""


@dataclass(slots=True)
class ForeignWrites:
    """Of one deployment; it was put right each time. Times are of a monotonic clock."""

    _lost: dict[str, float] = field(default_factory=dict)
    _edited: dict[str, tuple[str, float]] = field(default_factory=dict)

    def note(self, lost: Collection[str], edited: Mapping[str, str], now: float) -> None:
        """Applications that were found to be gone; and those that were changed, with the path of what."""
        self._lost.update(dict.fromkeys(lost, now))
        self._edited.update({name: (path, now) for name, path in edited.items()})

    def told(self, where: str, now: float, often: bool = False) -> Finding | None:
        """What was noted lately; ``often``: whether the same happens each time that it is put right."""
        self._lost = {name: at for name, at in self._lost.items() if now - at < LOSS_SECONDS}
        self._edited = {name: (path, at) for name, (path, at) in self._edited.items() if now - at < LOSS_SECONDS}
        if not self._lost and not self._edited:
            return None
        removed = f"removed {some(sorted(self._lost), _NAMED)}" if self._lost else ""
        changes = [f"{name} ({path})" if path else name for name, (path, _) in sorted(self._edited.items())]
        changed = f"changed {some(changes, _NAMED)}" if changes else ""
        what = " and ".join(filter(None, (removed, changed)))
        writer = f"another writer of Serve's configuration at {where} {what}"
        if often:
            return Finding(
                Reason.FOREIGN_WRITER,
                f"{writer} again and again, or this Ray does not keep what it is given: they are put back, but only "
                "after up to a minute each; find out which it is",
            )
        return Finding(
            Reason.FOREIGN_WRITER, f"{writer}; they were put back as they were: have it keep what it does not own"
        )
