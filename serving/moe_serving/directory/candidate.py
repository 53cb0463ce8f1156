"""A model looked at beside the one that runs: a mistake in a new model's path must take nothing down."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from moe_contract.applications import ModelArgs
from moe_contract.model import ModelFacts, ModelProblem
from moe_contract.report import CandidateReport
from moe_serving.checkpoint.errors import ModelError
from moe_serving.fetching.asking import Cached

INSPECT_AGAIN_SECONDS = 5.0
"""After so long a model that cannot be served is looked at again: it may be repaired, or still on its way."""

logger = logging.getLogger(__name__)


def problem_of(args: ModelArgs, error: Exception) -> ModelProblem:
    """What is reported of a model whose inspection raised ``error``.

    Whatever it is: no checkpoint may end the directory, which perhaps serves another one.
    """
    if isinstance(error, ModelError):
        logger.warning("the model at %s cannot be served: %s", args.path, error)
        return error.to_wire()
    logger.error("the inspection of the model at %s failed", args.path, exc_info=error)
    why = f"{type(error).__name__}: {error}"
    return ModelProblem(reason="ConfigInvalid", message=f"the model at {args.path} cannot be inspected: {why:.500}")


class Candidate:
    """Looks at one model at a time.

    Attributes:
        report: what was found; None while there is nothing to look at.

    Args:
        inspect: looks at a model, of which some files are cached; runs in a thread; raises ModelError.
        cached: says which, before each look.
    """

    def __init__(
        self, inspect: Callable[[ModelArgs, Cached], ModelFacts], cached: Callable[[ModelArgs], Cached]
    ) -> None:
        self.report: CandidateReport | None = None
        self._inspect = inspect
        self._cached = cached
        self._changed = asyncio.Event()

    def look_at(self, args: ModelArgs | None) -> None:
        """Have ``run`` look at this model from now on; None: at none."""
        if args != (self.report and self.report.args):
            self.report = CandidateReport(args=args) if args else None
            self._changed.set()

    async def run(self) -> None:
        """Look at the candidate, again and again, until cancelled."""
        while True:
            self._changed.clear()
            if self.report is not None:
                await self._look(self.report.args)
            faulty = self.report is not None and self.report.model_problem is not None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(INSPECT_AGAIN_SECONDS if faulty else None):
                    await self._changed.wait()

    async def _look(self, args: ModelArgs) -> None:
        try:
            facts = await asyncio.to_thread(self._inspect, args, self._cached(args))
            found = CandidateReport(args=args, model=facts)
        except Exception as error:  # noqa: BLE001 - see problem_of
            found = CandidateReport(args=args, model_problem=problem_of(args, error))
        if self.report is not None and self.report.args == args:
            self.report = found
