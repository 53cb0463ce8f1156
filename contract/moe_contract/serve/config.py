"""The configuration of one application, as Serve tells it and as it is put back: text, of which little is looked at.

A Ray cluster may run thousands of applications, of which most are not ours, and anybody may say that it does. As text
each is as large as it was sent; as Python objects it would be twenty times that, in the process that answers probes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

_READ_AHEAD = ("name", "route_prefix", "import_path")
_MOST_TOLD = 4096


class JsonConfig(Mapping[str, Any]):
    """A mapping that is equal to what its text says, and is read only when something in it is asked for.

    Name, route and import path of every application are looked at whenever something is written: they are read ahead.
    One of them that is no text, or is longer than any of them can be, counts as not there.
    """

    __slots__ = ("_fields", "_told", "text")

    def __init__(self, text: str, told: Mapping[str, str | None]) -> None:
        self.text = text
        self._told = told
        self._fields: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> JsonConfig:
        told = {key: fields[key] for key in _READ_AHEAD if key in fields and _is_told(fields[key])}
        return cls(json.dumps(fields, separators=(",", ":")), told)

    def __getitem__(self, key: str) -> Any:
        return (self._told if key in _READ_AHEAD else self._all())[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, JsonConfig):
            return self.text == other.text or self._all() == other._all()
        return bool(self._all() == other) if isinstance(other, Mapping) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # as of any mapping

    def __reduce__(self) -> tuple[Any, ...]:
        return JsonConfig, (self.text, self._told)

    def __repr__(self) -> str:
        return f"JsonConfig({self.text[:200]})"

    def _all(self) -> Mapping[str, Any]:
        if self._fields is None:
            self._fields = json.loads(self.text)
        return self._fields


def _is_told(value: Any) -> bool:
    return value is None or (isinstance(value, str) and len(value) <= _MOST_TOLD)


def as_json(config: Mapping[str, Any]) -> str:
    """The text of a configuration, be it Serve's or ours."""
    return config.text if isinstance(config, JsonConfig) else json.dumps(config, separators=(",", ":"))


def values_at_most(text: str) -> int:
    """A bound on how many values there are in a JSON text, without reading it."""
    return text.count(",") + text.count("[") + text.count("{") + 1
