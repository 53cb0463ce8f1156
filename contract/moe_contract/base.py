"""The base of all wire types: bounded in size, immutable once read, and read by other releases than wrote them.

The other side may be anybody: a number is within what can be counted and sent on as JSON, a text has an end. What a
model or a placement may measure at most is in ``sizes``.

Processes of two releases meet in every upgrade, and in every way back. So **fields are only added**, each marked with
the contract that it came with (``Since``) and with a default that says what was before it. Who reads leaves out what
it does not know, and who writes leaves out what came after the reader's contract, and what has its default: the same
wish is the same configuration in every release.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

CONTRACT = 2
"""Of this release. It is counted up by the first field that is added after a release. Release 0.1.0 has 0: it tells no
contract, and takes no field that it does not know; 0.2.0 has 1."""

MOST_COUNTED = 2**52
"""Beyond any count there is, and exact in every reader of JSON, also after one is added."""
MOST_WORDS = 2048
"""Characters of a text for people; of a longer one the beginning is kept."""
MOST_NAME = 512
"""Characters of a name or an id."""
_MOST_UNKNOWN, _MOST_UNKNOWN_NAME = 8, 64
"""Fields nobody knows that are named, and characters of each."""


def _shortened(text: Any) -> Any:
    return text[: MOST_WORDS - 2] + " …" if isinstance(text, str) and len(text) > MOST_WORDS else text


Count = Annotated[int, Field(ge=0, le=MOST_COUNTED)]
Name = Annotated[str, Field(max_length=MOST_NAME)]
Words = Annotated[str, BeforeValidator(_shortened)]


@dataclass(frozen=True, slots=True)
class Since:
    """Marks a field that was added: ``Annotated[int, Since(1)] = 0``."""

    contract: int


class WireModel(BaseModel):
    """See the module. What is not known to this release is left out (``unknown_fields`` names it)."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    def __setstate__(self, state: dict[Any, Any]) -> None:
        """Pickled by a process of another release, fields are read likewise."""
        told = state.get("__dict__") or {}
        fields = type(self).model_fields.items()
        known = {name: told[name] if name in told else of.get_default(call_default_factory=True) for name, of in fields}
        super().__setstate__(state | {"__dict__": known})

    def told(self, contract: int = CONTRACT) -> dict[str, Any]:
        """As JSON data for a process of ``contract``."""
        return self.model_dump(mode="json", exclude=_left_out(self, contract) or None)

    def withheld(self, contract: int) -> tuple[str, ...]:
        """Fields that say something, and that a process of ``contract`` does not know."""
        return tuple(_withheld(self, contract))


def unknown_fields(kind: type[WireModel], data: object) -> tuple[str, ...]:
    """Names of the fields of ``data`` that ``kind`` has no use for; of very many the first."""
    try:
        kind.model_validate(data, extra="forbid")
    except ValidationError as error:
        unknown = [each["loc"] for each in error.errors(include_url=False) if each["type"] == "extra_forbidden"]
        return tuple(".".join(map(str, loc))[:_MOST_UNKNOWN_NAME] for loc in unknown[:_MOST_UNKNOWN])
    return ()


def contract_of(kind: type[WireModel], data: Mapping[str, Any]) -> int:
    """The least contract whose fields are all that ``data`` has of ``kind`` itself."""
    return max((_since(field) for name, field in kind.model_fields.items() if name in data), default=0)


def _left_out(model: WireModel, contract: int) -> dict[Any, Any]:
    """What ``model_dump`` shall exclude."""
    found: dict[Any, Any] = {}
    for name, field in _looked_at(type(model)).items():
        value, since = getattr(model, name), _since(field)
        if since and (since > contract or value == field.get_default(call_default_factory=True)):
            found[name] = True
        elif nested := _left_out_of(value, contract):
            found[name] = nested
    return found


def _left_out_of(value: object, contract: int) -> dict[Any, Any]:
    if isinstance(value, WireModel):
        return _left_out(value, contract)
    if not isinstance(value, tuple):
        return {}
    return {at: nested for at, each in enumerate(value) if (nested := _left_out_of(each, contract))}


def _withheld(value: object, contract: int, path: str = "") -> Iterator[str]:
    if isinstance(value, tuple):
        for each in value:
            yield from _withheld(each, contract, path)
    if not isinstance(value, WireModel):
        return
    for name, field in _looked_at(type(value)).items():
        own = getattr(value, name)
        if _since(field) > contract:
            if own != field.get_default(call_default_factory=True):
                yield path + name
        else:
            yield from _withheld(own, contract, f"{path}{name}.")


@cache
def _looked_at(kind: type[WireModel]) -> Mapping[str, FieldInfo]:
    """Fields that were added, and those that may hold a model with such."""
    plain = (int, float, str, bool)
    return {name: field for name, field in kind.model_fields.items() if _since(field) or field.annotation not in plain}


def _since(field: FieldInfo) -> int:
    return next((mark.contract for mark in field.metadata if isinstance(mark, Since)), 0)


def in_words(error: ValidationError) -> str:
    """All that is wrong with a value, each with its field, in one line."""
    return "; ".join(f"{'.'.join(map(str, each['loc'])) or 'config'}: {each['msg']}" for each in error.errors())
