"""Puts adaptive routing in force in an attention replica, once its calibration is read and allows it.

A file system may stand still, so the file is read by a thread that is there only meanwhile. Until it is read, and where
it does not allow what is asked, all pairs are computed. What is wrong with a file is looked at again: it may be on its
way to this node.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from moe_contract.applications import RoutingConfig
from moe_contract.model import ModelFacts
from moe_contract.report import NOT_ADAPTIVE, AdaptiveReport
from moe_serving.adaptive.calibration import allowed, read_calibration
from moe_serving.adaptive.errors import AdaptiveRoutingError
from moe_serving.adaptive.thinning import Thinning
from moe_serving.threads import SupervisedThread, said

AGAIN_SECONDS = 10.0

logger = logging.getLogger(__name__)


class AdaptiveSwitch:
    """For any thread.

    Args:
        put: in force from the next layer on; None for all pairs.
        verify: every layer is compared with the checkpoint, so nothing may be left out.
    """

    def __init__(self, facts: ModelFacts, put: Callable[[Thinning | None], None], verify: bool = False) -> None:
        self._facts = facts
        self._put = put
        self._verify = verify
        self._lock = threading.Lock()
        self._asked: RoutingConfig | None = None
        self._changed = threading.Event()
        self._problem: str | None = None
        self._report: AdaptiveReport | None = None

    @property
    def problem(self) -> str | None:
        """Why all pairs are computed though it was asked otherwise; None where it is not so."""
        return self._problem

    @property
    def report(self) -> AdaptiveReport | None:
        """What is in force; None where all pairs are computed."""
        return self._report

    def configure(self, asked: RoutingConfig | None) -> None:
        """From now on as asked; None for all pairs. Does not wait for the file."""
        with self._lock:
            if asked == self._asked:
                return
            self._changed.set()
            self._asked, self._changed = asked, threading.Event()
            self._set(None, None, None)
            if asked is not None:
                changed = self._changed
                SupervisedThread("calibration", lambda: self._keep_trying(asked, changed)).start()

    def close(self) -> None:
        """Look at no file any more."""
        self.configure(None)

    def _keep_trying(self, asked: RoutingConfig, changed: threading.Event) -> None:
        while not changed.is_set():
            try:
                thinning, report = self._prepared(asked)
            except Exception as error:  # noqa: BLE001 - whatever it is, what serves goes on
                self._hear(changed, f"{NOT_ADAPTIVE}: {said(error)}", None, None)
                changed.wait(AGAIN_SECONDS)
            else:
                self._hear(changed, None, thinning, report)
                return

    def _prepared(self, asked: RoutingConfig) -> tuple[Thinning, AdaptiveReport]:
        if self._verify:
            raise AdaptiveRoutingError(
                "verify compares each layer with all that its gates chose; take verify or adaptive routing away"
            )
        calibration = read_calibration(asked.calibration)
        loss = allowed(calibration, asked, self._facts)
        report = AdaptiveReport(
            pairs_saved=asked.pairs_saved,
            loss_increase=loss.mean,
            loss_low=loss.low,
            loss_high=loss.high,
            held_out_tokens=calibration.held_out_tokens,
        )
        return Thinning(calibration.curve, asked.pairs_saved, asked.max_loss_increase), report

    def _hear(
        self, changed: threading.Event, problem: str | None, thinning: Thinning | None, report: AdaptiveReport | None
    ) -> None:
        with self._lock:
            if changed.is_set():  # something else is asked for by now
                return
            if problem is not None and problem != self._problem:
                logger.warning(problem)
            if report is not None:
                logger.info("adaptive routing saves %g%% of the pairs", report.pairs_saved)
            self._set(problem, thinning, report)

    def _set(self, problem: str | None, thinning: Thinning | None, report: AdaptiveReport | None) -> None:
        self._problem, self._report = problem, report
        self._put(thinning)
