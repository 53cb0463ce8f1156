"""Lengths of time and amounts of bytes as manifests write them, and the rules that a CRD has for them. Pure."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from decimal import Decimal

from moe_operator.api.rules import QUOTED_SELF, Rule

_NUMBER = r"[0-9]{1,6}(\.[0-9]{1,3})?"
DURATION_PATTERN = f"^({_NUMBER}h)?({_NUMBER}m)?({_NUMBER}s)?$"
"""What Go and CEL read as a duration, hours before minutes before seconds: a sum that neither overflows."""
BYTES_PATTERN = r"^[0-9]{1,15}(\.[0-9]{1,3})?(k|M|G|T|Ki|Mi|Gi|Ti)?$"
"""Of Kubernetes' quantities those that are amounts of bytes."""
_UNITS = {"h": 3600, "m": 60, "s": 1}
_SUFFIXES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12} | {
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}


def read_duration(text: str) -> timedelta:
    """``1h30m`` as a length of time.

    Raises:
        ValueError: it is none.
    """
    if not text or not re.fullmatch(DURATION_PATTERN, text, re.ASCII):
        raise ValueError(f"{text[:100]!a} is no duration: write hours, minutes and seconds, e.g. 1h, 5m or 1m30s")
    parts = re.findall(r"([0-9.]+)([hms])", text)
    return timedelta(seconds=float(sum(Decimal(number) * _UNITS[unit] for number, unit in parts)))


def read_bytes(text: str) -> int:
    """``1.5Gi`` as a number of bytes.

    Raises:
        ValueError: it is none.
    """
    if not re.fullmatch(BYTES_PATTERN, text, re.ASCII):
        raise ValueError(f"{text[:100]!a} is no amount of bytes: write e.g. 100M, 1Gi or 500000000")
    number = text.rstrip("kMGTi")
    return int(Decimal(number) * _SUFFIXES[text.removeprefix(number)])


def duration_between(path: str, least: str, most: str, example: str) -> Rule:
    """A length of time from ``least`` to ``most``."""
    return Rule(
        rule=(
            f"{is_duration('self')} && duration(self) >= duration('{least}') && duration(self) <= duration('{most}')"
        ),
        message=f"{path} is %s: it must be a duration from {least} to {most}, such as {example}",
        values=(QUOTED_SELF,),
    )


def bytes_between(path: str, least: str, most: str, example: str) -> Rule:
    """An amount of bytes from ``least`` to ``most``."""
    return Rule(
        rule=(
            f"self.matches({json.dumps(BYTES_PATTERN)}) && isQuantity(self) "
            f"&& quantity(self).compareTo(quantity('{least}')) >= 0 "
            f"&& quantity(self).compareTo(quantity('{most}')) <= 0"
        ),
        message=f"{path} is %s: it must be an amount of bytes from {least} to {most}, such as {example}",
        values=(QUOTED_SELF,),
    )


def not_below(path: str, field: str, least: str, why: str) -> Rule:
    """The duration ``field`` of the object at ``path``, where it is set, is at least the duration ``least`` of it."""
    readable = f"has(self.{field}) && {is_duration(f'self.{field}')} && {is_duration(f'self.{least}')}"
    return Rule(
        rule=f"!({readable}) || duration(self.{field}) >= duration(self.{least})",
        message=f"{path}.{field} is %s but {path}.{least} is %s: {why}; raise {field} or lower {least}",
        values=(f"self.{field}", f"self.{least}"),
        field_path=f".{field}",
    )


def is_duration(value: str) -> str:
    """CEL: whether ``value`` has the form of a duration."""
    return f"({value} != '' && {value}.matches({json.dumps(DURATION_PATTERN)}))"
