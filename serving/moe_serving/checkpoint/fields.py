"""Typed access to the fields of a ``config.json``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_serving.checkpoint.errors import ModelError
from moe_serving.checkpoint.families import EXPERT_COUNT_FIELDS


@dataclass(frozen=True, slots=True)
class ConfigFields:
    """What is wrong is told with file, field and value."""

    file: Path
    content: dict[str, Any]

    def positive(self, *names: str, default: int | None = None, at_most: int | None = None) -> int:
        """The first of the named fields that is there; a whole number above 0."""
        for name in names:
            value = self.content.get(name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise self.invalid(name, value, "it must be a whole number above 0")
            if at_most is not None and value > at_most:
                raise self.invalid(name, value, f"it must be at most {at_most}")
            return value
        if default is None:
            raise self.missing(names[0])
        return default

    def flag(self, name: str, default: bool) -> bool:
        value = self.content.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.invalid(name, value, "it must be true or false")
        return value

    def text(self, *names: str, default: str | None = None) -> str:
        for name in names:
            value = self.content.get(name)
            if value is None:
                continue
            if not isinstance(value, str):
                raise self.invalid(name, value, "it must be a string")
            return value
        if default is None:
            raise self.missing(names[0])
        return default

    def count_experts(self) -> int:
        """Experts per layer that the configuration, or its text part, mentions under any usual name; 0 if none."""
        text = self.content.get("text_config")
        places = [self.content, text if isinstance(text, dict) else {}]
        counts = [place.get(name) for place in places for name in EXPERT_COUNT_FIELDS]
        return max((count for count in counts if isinstance(count, int)), default=0)

    def invalid(self, name: str, value: object, why: str) -> ModelError:
        return ModelError("ConfigInvalid", f"{self.file}: {name} is {value!r:.200}; {why}")

    def unsupported(self, name: str, why: str) -> ModelError:
        """A field that transformers would follow and this server does not."""
        return ModelError("UnsupportedArchitecture", f"{self.file}: {name} is {self.content[name]!r:.200}; {why}")

    def missing(self, name: str) -> ModelError:
        return ModelError("ConfigInvalid", f"{self.file} has no field {name}; is it complete?")
