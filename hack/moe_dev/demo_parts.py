"""Which parts of the demo were asked for. Pure."""

import re

PARTS = {
    1: "from kubectl apply to streamed tokens",
    2: "the placement follows the traffic",
    3: "a shard is killed while a stream runs",
}


class PartsError(Exception):
    """DEMO_PARTS names none, or some that there are not."""


def chosen_parts(text: str) -> list[int]:
    """`1,3`, `13` or `1 3` as numbers, in order; all where nothing is said."""
    digits = re.sub(r"[\s,;+]", "", text)
    if not all(digit in map(str, PARTS) for digit in digits):
        known = "; ".join(f"{number}: {what}" for number, what in PARTS.items())
        raise PartsError(f"DEMO_PARTS is {text!r}: name some of {known}; such as DEMO_PARTS=3")
    return sorted({int(digit) for digit in digits}) or list(PARTS)
