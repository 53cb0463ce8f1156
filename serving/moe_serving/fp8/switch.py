"""Puts FP8 rows in force in an attention replica, unless it cannot."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from moe_contract.applications import Wire
from moe_contract.report import NOT_FP8
from moe_serving.fp8.rows import why_not

logger = logging.getLogger(__name__)


class WireSwitch:
    """For any thread.

    Args:
        put: whether rows are packed from the next layer on.
        verify: every layer is compared with the checkpoint bit for bit, so none may be.

    Attributes:
        in_force: how rows travel to shards that know it.
        problem: why they do not as was asked; None where they do.
    """

    def __init__(self, put: Callable[[bool], None], verify: bool = False) -> None:
        self._put = put
        self._verify = verify
        self.in_force: Wire = "Model"
        self.problem: str | None = None

    def configure(self, asked: Wire) -> None:
        """From now on as asked."""
        why = self._why_not() if asked == "FP8" else None
        problem = f"{NOT_FP8}: {why}" if why else None
        if problem is not None and problem != self.problem:
            logger.warning(problem)
        self.problem, self.in_force = problem, asked if why is None else "Model"
        self._put(self.in_force == "FP8")

    def _why_not(self) -> str | None:
        if self._verify:
            return "verify compares each layer with the checkpoint bit for bit; take verify or wire FP8 away"
        # Rows are packed where sockets take them from.
        why = why_not(torch.device("cpu"))
        return f"{why}; set wire to Model" if why else None
