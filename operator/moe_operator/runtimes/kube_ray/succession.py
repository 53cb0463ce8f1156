"""What a new Ray cluster is told of the traffic of the one whose place it takes."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from moe_contract.report import DirectoryReport
from moe_operator.runtimes.directory import Heard
from moe_operator.runtimes.errors import RayError
from moe_operator.runtimes.kube_ray.heads import Heads

TOLD_SECONDS = 20.0
"""For which requests stay with the former cluster at most, so that the new one begins with its statistics."""
_TAKES_STATISTICS = 1
"""The contract since which a directory does."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Succession:
    """Of one deployment.

    Attributes:
        _told: the former Ray cluster and the new one, once the statistics of the one were to be told to the other.
    """

    _told: tuple[str, str] | None = None

    async def tell(self, heads: Heads, former: str | None, new: str | None, report: DirectoryReport | None) -> None:
        """Have the new cluster know the statistics of the traffic, while the former one still has them and the new one
        has none. Requests do not wait for them long: the former one may go any moment.

        Args:
            former: that requests are led to until now; new: from now on, which reports ``report``.
        """
        if former is None or new is None or new == former or self._told == (former, new):
            return
        why = await self._tell(heads, former, new, report)
        self._told = former, new  # also where requests are then not led there: once is enough
        if why:
            where = f"RayService {heads.moe.key}"
            logger.warning("%s: statistics of the traffic begin anew in Ray cluster %s: %s", where, new, why)

    async def _tell(self, heads: Heads, former: str, new: str, report: DirectoryReport | None) -> str | None:
        """Why not, if so."""
        try:
            async with asyncio.timeout(TOLD_SECONDS):
                why = begins_anew(await heads.report(former), report)
                if why is None:
                    await _hand_over(heads, former, new)
                return why
        except TimeoutError:
            return f"they did not come within {TOLD_SECONDS:g} s"
        except RayError as error:
            return str(error)


async def _hand_over(heads: Heads, former: str, new: str) -> None:
    statistics = heads.directories.statistics
    async with statistics.read(*await heads.directory(former)) as packed:
        if packed:
            url, route, key, named = await heads.directory(new)
            await statistics.hand_over(url, route, key, packed, former, named)
            logger.info("RayService %s: Ray cluster %s has the statistics of %s", heads.moe.key, new, former)


def begins_anew(former: Heard, new: DirectoryReport | None) -> str | None:
    """Why the former directory's statistics are of no use to the new one; None where they are."""
    if former.report is None:
        return former.problem.message if former.problem else "the former one does not answer"
    if new is None or new.model is None:
        return "it has not told yet what it serves"
    if former.report.model is None or former.report.model.digest != new.model.digest:
        return "it serves another checkpoint"
    if new.contract < _TAKES_STATISTICS:
        return "its release takes none"
    return None
