"""What a configuration has that this release has no use for: left alone, and told in the log."""

from __future__ import annotations

import logging

from moe_contract.base import WireModel, unknown_fields

logger = logging.getLogger(__name__)


def tell_unknown(whose: str, kind: type[WireModel], config: object) -> None:
    """Log the fields of the ``user_config`` of ``whose`` that ``kind`` does not know: of a newer release, or a slip."""
    if unknown := unknown_fields(kind, config):
        named = ", ".join(map(ascii, unknown))
        logger.warning(
            "user_config of %s has fields that this release does not know and leaves alone: %s", whose, named
        )
